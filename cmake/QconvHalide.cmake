# Finds Halide 21 in the repository's virtual environment, or wherever CMAKE_PREFIX_PATH or Halide_DIR say. A Python that
# builds a package names its site-packages there: the wheel's own CMake package looks for itself in another place.
file(GLOB wheel "${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/halide")
set(wheels ${wheel} ${CMAKE_PREFIX_PATH})
list(TRANSFORM wheels REPLACE "/site-packages$" "/site-packages/halide")
if(QCONV_EMIT)
    # A cross build takes one header of it.
    list(TRANSFORM wheels APPEND "/include")
    find_path(QCONV_HALIDE_INCLUDE HalideRuntime.h HINTS ${wheels} NO_CMAKE_FIND_ROOT_PATH REQUIRED)
else()
    list(TRANSFORM wheels APPEND "/lib64/cmake/Halide")
    find_package(Halide 21 REQUIRED shared HINTS ${wheels})

    get_target_property(QCONV_HALIDE_INCLUDE Halide::Runtime INTERFACE_INCLUDE_DIRECTORIES)

    # Halide.h is not written for our warnings.
    foreach(target Halide::Halide Halide::Runtime)
        set_target_properties(${target} PROPERTIES SYSTEM ON)
    endforeach()

    # The LLVM inside libHalide, which tuning records name: it says so only in its symbols' version.
    get_target_property(halide_library Halide::Halide IMPORTED_LOCATION_RELEASE)
    cmake_path(GET halide_library PARENT_PATH QCONV_HALIDE_FOLDER)
    cmake_path(ABSOLUTE_PATH QCONV_HALIDE_FOLDER NORMALIZE)
    if(NOT QCONV_LLVM_VERSION)
        file(STRINGS "${halide_library}" versions REGEX "^LLVM[0-9]+\\.[0-9.]+$" LIMIT_COUNT 1)
        string(REPLACE "LLVM" "" version "${versions}")
        set(QCONV_LLVM_VERSION "${version}" CACHE INTERNAL "LLVM of libHalide")
    endif()
endif()

# The objects that make a kernel: what is compiled again when one of them changes. In a cross build, those that the given
# qconvc-emit was linked from, or itself where they are not beside it.
function(qconv_makers result pattern)
    set(makers "$<FILTER:$<TARGET_OBJECTS:qconv_generators>,INCLUDE,/(${pattern})[.]cpp>")
    if(QCONV_EMIT)
        cmake_path(ABSOLUTE_PATH QCONV_EMIT BASE_DIRECTORY "${PROJECT_SOURCE_DIR}" OUTPUT_VARIABLE makers)
        cmake_path(GET makers PARENT_PATH folder)
        file(GLOB_RECURSE objects "${folder}/../CMakeFiles/qconv_generators.dir/*.cpp.o")
        list(FILTER objects INCLUDE REGEX "/(${pattern})[.]cpp")
        if(objects)
            set(makers "${objects}")
        endif()
    endif()
    set(${result} "${makers}" PARENT_SCOPE)
endfunction()

# qconv_add_halide_runtime(NAME TARGET): the Halide runtime for TARGET, as a static library. A program takes one of them:
# that of a GPU target, which serves every other target of its OS and architecture too, or the smaller one of a CPU.
function(qconv_add_halide_runtime name target)
    set(object "${PROJECT_BINARY_DIR}/kernels/${name}.o")
    qconv_makers(makers tools/emit)
    add_custom_command(
        OUTPUT "${object}"
        COMMAND qconvc-emit runtime --target ${target} --output "${object}" ${QCONV_KERNEL_SANITIZER}
        DEPENDS ${makers}
        COMMENT "Emitting the Halide runtime for ${target}"
        VERBATIM)
    add_library(${name} STATIC "${object}")
    string(REGEX REPLACE "^qconv_" "" export_name ${name})
    add_library(qconv::${export_name} ALIAS ${name})
    set_target_properties(${name} PROPERTIES LINKER_LANGUAGE CXX EXPORT_NAME ${export_name})
    target_link_libraries(${name} INTERFACE Threads::Threads ${CMAKE_DL_LIBS})
endfunction()
