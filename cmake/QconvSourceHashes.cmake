# qconv_source_hashes(OUTPUT): a C++ file with hashes of the algorithms and schedules, which tuning records carry. Comments
# and white space do not count. As a script (-P) it writes the file; a build without git or Python has the same hashes.
if(CMAKE_SCRIPT_MODE_FILE)
    cmake_policy(VERSION 3.28)
    # hash_of(RESULT FILE...): SHA-256, shortened, of the files' code.
    function(hash_of result)
        set(text "")
        foreach(file IN LISTS ARGN)
            file(READ "${file}" content)
            string(REGEX REPLACE "//[^\n]*" "" content "${content}")
            string(REGEX REPLACE "[ \t\n]+" " " content "${content}")
            string(APPEND text "${content}")
        endforeach()
        string(SHA256 hash "${text}")
        string(SUBSTRING "${hash}" 0 16 hash)
        set(${result} "${hash}" PARENT_SCOPE)
    endfunction()

    # with_headers(RESULT FILE): the file, before it the headers of generators/ that it includes, and theirs.
    function(with_headers result file)
        set(files "${file}")
        file(STRINGS "${file}" includes REGEX "^#include \"[a-z_]+\\.h\"")
        foreach(include IN LISTS includes)
            string(REGEX REPLACE "^#include \"(.*)\".*" "\\1" header "${include}")
            with_headers(more "${SOURCE}/generators/${header}")
            list(PREPEND files ${more})
        endforeach()
        list(REMOVE_DUPLICATES files)
        set(${result} "${files}" PARENT_SCOPE)
    endfunction()

    file(GLOB generators "${SOURCE}/generators/*.cpp")
    file(GLOB schedules "${SOURCE}/schedules/*.cpp")
    foreach(kind IN ITEMS generators schedules)
        set(rows_${kind} "")
        list(SORT ${kind})
        foreach(file IN LISTS ${kind})
            get_filename_component(name "${file}" NAME_WE)
            if(kind STREQUAL "generators")
                with_headers(files "${file}")
                hash_of(hash "${SOURCE}/runtime/include/qconv/layout.h" ${files})
            else()
                hash_of(hash "${SOURCE}/schedules/schedule.h" "${file}")
            endif()
            string(APPEND rows_${kind} "        {\"${name}\", \"${hash}\"},\n")
        endforeach()
    endforeach()
    file(WRITE "${OUTPUT}"
"// Made by cmake/QconvSourceHashes.cmake.
#include \"tools/source_hashes.h\"

namespace qconv::tools {

const std::map<std::string, std::string> &generator_hashes() {
    static const std::map<std::string, std::string> table = {
${rows_generators}    };
    return table;
}

const std::map<std::string, std::string> &schedule_file_hashes() {
    static const std::map<std::string, std::string> table = {
${rows_schedules}    };
    return table;
}

} // namespace qconv::tools
")
    return()
endif()

function(qconv_source_hashes output)
    file(GLOB sources CONFIGURE_DEPENDS generators/*.cpp generators/*.h schedules/*.cpp schedules/schedule.h)
    add_custom_command(
        OUTPUT "${output}"
        COMMAND "${CMAKE_COMMAND}" -DSOURCE=${PROJECT_SOURCE_DIR} -DOUTPUT=${output}
                -P "${PROJECT_SOURCE_DIR}/cmake/QconvSourceHashes.cmake"
        DEPENDS ${sources} runtime/include/qconv/layout.h cmake/QconvSourceHashes.cmake
        COMMENT "Hashing algorithms and schedules"
        VERBATIM)
endfunction()
