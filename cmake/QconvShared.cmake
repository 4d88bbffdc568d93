# libqconv.so: the runtime, the generic kernels and the Halide runtime in one, for programs that load it (python/qconv) and
# for those that link it (qconv::shared). With GPU kernels where they are built; a driver is looked for when one is asked for.

# Of all that is linked in, only the C ABI is visible, the functions that the header declares, and the Halide functions
# that compiled kernels call: they must reach the runtime in here. Symbols carry the version of the ABI.
set(header "${PROJECT_SOURCE_DIR}/runtime/include/qconv/qconv.h")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${header}")
file(READ "${header}" declarations)
string(REGEX MATCHALL "qconv_[a-z_]+\\(" functions "${declarations}")
list(REMOVE_DUPLICATES functions)
list(TRANSFORM functions REPLACE "\\($" ";")
string(REPLACE ";;" "; " names "${functions};")
string(APPEND names "halide_malloc; halide_free; halide_do_par_for;")
set(exports "${PROJECT_BINARY_DIR}/generated/qconv.map")
set(abi ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
file(CONFIGURE OUTPUT "${exports}" CONTENT "QCONV_${abi} { global: @names@ local: *; };\n" @ONLY)

file(CONFIGURE OUTPUT "${PROJECT_BINARY_DIR}/generated/qconv_shared.cpp" CONTENT
     "// A shared library needs a source; all of this one's contents come from archives.\n")
add_library(qconv_shared SHARED "${PROJECT_BINARY_DIR}/generated/qconv_shared.cpp")
add_library(qconv::shared ALIAS qconv_shared)
target_include_directories(qconv_shared INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/runtime/include>
                                                  $<INSTALL_INTERFACE:include>)
target_compile_features(qconv_shared INTERFACE cxx_std_20)
# The runtime with GPU support serves the CPU's kernels too, and comes first, so that nothing is wanted of the other.
set(gpu_parts)
if(QCONV_GPU_TARGETS)
    set(gpu_parts $<BUILD_INTERFACE:$<LINK_LIBRARY:WHOLE_ARCHIVE,qconv_halide_runtime_gpu>>
        $<BUILD_INTERFACE:qconv_gpu_kernels>)
    target_link_options(qconv_shared PRIVATE "LINKER:--undefined=qconv_register_gpu_kernels")
endif()
target_link_libraries(qconv_shared PRIVATE
    $<BUILD_INTERFACE:$<LINK_LIBRARY:WHOLE_ARCHIVE,qconv>> ${gpu_parts} $<BUILD_INTERFACE:qconv_kernels>
    $<BUILD_INTERFACE:qconv_halide_runtime>)
# Its own calls stay inside, whatever else the program holds under the same names.
target_link_options(qconv_shared PRIVATE "LINKER:--version-script=${exports}" LINKER:-z,defs LINKER:--gc-sections
                    LINKER:-Bsymbolic "LINKER:--undefined=qconv_register_generic_kernels")
set_target_properties(qconv_shared PROPERTIES OUTPUT_NAME qconv EXPORT_NAME shared LINK_DEPENDS "${exports}")
if(NOT SKBUILD)
    # Before 1.0 a minor version may change the ABI, so the name that programs record holds it.
    set_target_properties(qconv_shared PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${abi})
endif()
