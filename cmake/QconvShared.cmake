# libqconv.so: the runtime, the generic kernels and the Halide runtime in one, for programs that load it (python/qconv).

# Of all that is linked in, only the C ABI is visible: the functions that the header declares.
set(header "${PROJECT_SOURCE_DIR}/runtime/include/qconv/qconv.h")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${header}")
file(READ "${header}" declarations)
string(REGEX MATCHALL "qconv_[a-z_]+\\(" functions "${declarations}")
list(REMOVE_DUPLICATES functions)
list(TRANSFORM functions REPLACE "\\($" ";")
string(REPLACE ";;" "; " names "${functions};")
set(exports "${PROJECT_BINARY_DIR}/generated/qconv.map")
file(CONFIGURE OUTPUT "${exports}" CONTENT "{ global: @names@ local: *; };\n" @ONLY)

file(CONFIGURE OUTPUT "${PROJECT_BINARY_DIR}/generated/qconv_shared.cpp" CONTENT
     "// A shared library needs a source; all of this one's contents come from archives.\n")
add_library(qconv_shared SHARED "${PROJECT_BINARY_DIR}/generated/qconv_shared.cpp")
target_link_libraries(qconv_shared PRIVATE
    $<LINK_LIBRARY:WHOLE_ARCHIVE,qconv> qconv_kernels qconv_halide_runtime)
target_link_options(qconv_shared PRIVATE "LINKER:--version-script=${exports}" LINKER:-z,defs LINKER:--gc-sections
                    "LINKER:--undefined=qconv_register_generic_kernels")
set_target_properties(qconv_shared PROPERTIES OUTPUT_NAME qconv LINK_DEPENDS "${exports}")
# Not beside libqconv.a, in whose place linkers would take it.
install(TARGETS qconv_shared LIBRARY DESTINATION lib/qconv)
