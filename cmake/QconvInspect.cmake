# libqconv_inspect.so: what `qconvc inspect` loads. It alone needs LLVM (the C++ interface of one version); without it
# everything else is built, and the verb says what is missing.
if(QCONV_SANITIZE OR NOT QCONV_INSPECT)
    return()
endif()
set(QCONV_INSPECT_LLVM 22)
set(LLVM_ROOT "/usr/lib/llvm-${QCONV_INSPECT_LLVM}" CACHE PATH "Where LLVM ${QCONV_INSPECT_LLVM} is installed")
find_package(LLVM QUIET CONFIG)
if(NOT LLVM_FOUND OR NOT LLVM_VERSION_MAJOR EQUAL QCONV_INSPECT_LLVM)
    # Another version's folder would keep a later look from finding the right one.
    set(LLVM_DIR LLVM_DIR-NOTFOUND CACHE PATH "Where LLVM's CMake package is" FORCE)
    set(debian "llvm-${QCONV_INSPECT_LLVM}-dev")
    message(STATUS "LLVM ${QCONV_INSPECT_LLVM} not found: no qconvc inspect (Debian package ${debian})")
    return()
endif()

file(GLOB inspect_sources CONFIGURE_DEPENDS tools/inspect/*.cpp)
add_library(qconv_inspect MODULE ${inspect_sources})
target_include_directories(qconv_inspect PRIVATE "${PROJECT_SOURCE_DIR}" "${PROJECT_SOURCE_DIR}/runtime/include")
target_include_directories(qconv_inspect SYSTEM PRIVATE ${LLVM_INCLUDE_DIRS})
separate_arguments(llvm_definitions NATIVE_COMMAND "${LLVM_DEFINITIONS}")
target_compile_definitions(qconv_inspect PRIVATE ${llvm_definitions})
target_compile_options(qconv_inspect PRIVATE $<$<CONFIG:Release>:-O1>)
target_link_libraries(qconv_inspect PRIVATE LLVM fmt::fmt qconv_flags)
# Only its entry is visible: qconvc exports its own functions to the modules it loads, and Halide has an LLVM inside.
set_target_properties(qconv_inspect PROPERTIES
    LIBRARY_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/lib/qconv" CXX_VISIBILITY_PRESET hidden
    VISIBILITY_INLINES_HIDDEN ON)
