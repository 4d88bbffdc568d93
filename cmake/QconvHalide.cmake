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

# qconv_add_halide_runtime(NAME): the one Halide runtime of this OS and architecture, as a static library.
function(qconv_add_halide_runtime name)
    set(object "${PROJECT_BINARY_DIR}/kernels/halide_runtime.o")
    list(GET QCONV_TARGETS 0 any_target)
    qconv_makers(makers tools/emit)
    add_custom_command(
        OUTPUT "${object}"
        COMMAND qconvc-emit runtime --target ${any_target} --output "${object}"
        DEPENDS ${makers}
        COMMENT "Emitting the Halide runtime"
        VERBATIM)
    add_library(${name} STATIC "${object}")
    add_library(qconv::halide_runtime ALIAS ${name})
    set_target_properties(${name} PROPERTIES LINKER_LANGUAGE CXX EXPORT_NAME halide_runtime)
    target_link_libraries(${name} INTERFACE Threads::Threads ${CMAKE_DL_LIBS})
endfunction()
