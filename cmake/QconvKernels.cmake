# Expands the kernel list: one custom command a row and target, and static libraries of them.

# qconv_embed_text(FILE SYMBOL OUTPUT): `extern const std::string_view qconv::tools::SYMBOL` holding FILE.
function(qconv_embed_text file symbol output)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/${file}")
    file(READ "${PROJECT_SOURCE_DIR}/${file}" text)
    file(CONFIGURE OUTPUT "${output}" @ONLY CONTENT
[[// Made from @file@ by CMake.
#include "tools/embedded.h"

namespace qconv::tools {
const std::string_view @symbol@ = R"qconv(@text@)qconv";
} // namespace qconv::tools
]])
endfunction()

# qconv_add_generic_kernels(LIBRARY RUNTIME KIND LIST TARGETS): a static library with a function
# qconv_register_KIND_kernels(), to be linked with the Halide runtime RUNTIME. A kernel depends on the objects that make
# it, its generator and its architecture's schedules, rather than on qconvc-emit (which is built before it in any case),
# so that a change elsewhere compiles no kernel.
function(qconv_add_generic_kernels library runtime kind list targets)
    set(list "${PROJECT_SOURCE_DIR}/${list}")
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${list}")
    file(READ "${list}" json)
    string(JSON rows LENGTH "${json}")
    math(EXPR last_row "${rows} - 1")
    set(objects)
    foreach(row RANGE ${last_row})
        string(JSON name GET "${json}" ${row} name)
        string(JSON text GET "${json}" ${row})
        string(JSON generator GET "${json}" ${row} generator)
        string(JSON target_count LENGTH "${json}" ${row} targets)
        math(EXPR last_target "${target_count} - 1")
        foreach(index RANGE ${last_target})
            string(JSON target GET "${json}" ${row} targets ${index})
            if(NOT target IN_LIST targets)
                continue()
            endif()
            set(function "qconv_${name}_${target}")
            set(schedules "schedule|cpu(_forward)?|x86")
            if(target MATCHES "^arm")
                set(schedules "schedule|cpu(_forward)?|arm")
            elseif(target MATCHES "^(cuda|opencl)$")
                set(schedules schedule|gpu)
            endif()
            qconv_makers(makers "generators/${generator}|schedules/(${schedules})|tools/emit")
            set(object "${PROJECT_BINARY_DIR}/kernels/${function}.o")
            # A list of one row, so that changing a row compiles that row's kernels only.
            set(row_file "${PROJECT_BINARY_DIR}/kernels/${function}.json")
            file(CONFIGURE OUTPUT "${row_file}" CONTENT "[${text}]" @ONLY)
            add_custom_command(
                OUTPUT "${object}"
                COMMAND qconvc-emit kernel --list "${row_file}" --kernel ${name} --target ${target} --function ${function}
                        --output "${object}" ${QCONV_KERNEL_SANITIZER}
                DEPENDS ${makers} "${row_file}"
                COMMENT "Emitting kernel ${name} for ${target}"
                VERBATIM)
            list(APPEND objects "${object}")
        endforeach()
    endforeach()

    set(table "${PROJECT_BINARY_DIR}/kernels/${kind}_kernels.cpp")
    add_custom_command(
        OUTPUT "${table}"
        COMMAND qconvc-emit table --list "${list}" --kind ${kind} --targets ${targets} --output "${table}"
        DEPENDS "${list}" "${PROJECT_SOURCE_DIR}/tools/kernel_table.cpp"
        COMMENT "Writing the table of ${kind} kernels"
        VERBATIM)

    add_library(${library} STATIC ${objects} "${table}")
    string(REGEX REPLACE "^qconv_" "" export_name ${library})
    add_library(qconv::${export_name} ALIAS ${library})
    target_link_libraries(${library} PUBLIC qconv ${runtime})
    set_target_properties(${library} PROPERTIES EXPORT_NAME ${export_name} POSITION_INDEPENDENT_CODE ON)
    set_property(TARGET ${library} PROPERTY QCONV_PARTS ${objects} "${table}")
endfunction()

# qconv_add_kernel_module(MODULE LIBRARY): the same to be loaded. Bound at load time to the runtime inside the program
# that loads it, so it must carry none of its own.
function(qconv_add_kernel_module module library)
    get_property(parts TARGET ${library} PROPERTY QCONV_PARTS)
    add_library(${module} MODULE ${parts})
    target_include_directories(${module} PRIVATE "${PROJECT_SOURCE_DIR}/runtime/include")
    set_target_properties(${module} PROPERTIES OUTPUT_NAME qconv_kernels LIBRARY_OUTPUT_DIRECTORY
                                               "${PROJECT_BINARY_DIR}/lib/qconv")
    add_dependencies(${module} ${library})
endfunction()
