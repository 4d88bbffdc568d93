# Finds Halide 21 in the repository's virtual environment, or wherever CMAKE_PREFIX_PATH or Halide_DIR say.
file(GLOB wheel "${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/halide")
find_package(Halide 21 REQUIRED shared HINTS "${wheel}/lib64/cmake/Halide")

get_target_property(QCONV_HALIDE_INCLUDE Halide::Runtime INTERFACE_INCLUDE_DIRECTORIES)

# Halide.h is not written for our warnings.
foreach(target Halide::Halide Halide::Runtime)
    set_target_properties(${target} PROPERTIES SYSTEM ON)
endforeach()

# qconv_add_halide_runtime(NAME): the one Halide runtime of this OS and architecture, as a static library.
function(qconv_add_halide_runtime name)
    set(object "${PROJECT_BINARY_DIR}/kernels/halide_runtime.o")
    add_custom_command(
        OUTPUT "${object}"
        COMMAND qconvc-emit runtime --target sse41 --output "${object}"
        DEPENDS $<TARGET_OBJECTS:qconv_generators>
        COMMENT "Emitting the Halide runtime"
        VERBATIM)
    add_library(${name} STATIC "${object}")
    add_library(qconv::halide_runtime ALIAS ${name})
    set_target_properties(${name} PROPERTIES LINKER_LANGUAGE CXX EXPORT_NAME halide_runtime)
    target_link_libraries(${name} INTERFACE Threads::Threads ${CMAKE_DL_LIBS})
endfunction()
