# qconvc-emit, which the build itself runs, and qconvc.

# The generators register themselves when loaded, so their objects are linked as they are: an archive would drop them.
file(GLOB generator_sources CONFIGURE_DEPENDS generators/*.cpp schedules/*.cpp)
add_library(qconv_generators OBJECT ${generator_sources} tools/emit.cpp)
target_include_directories(qconv_generators PUBLIC ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/runtime/include)
target_link_libraries(qconv_generators PUBLIC Halide::Halide PRIVATE nlohmann_json::nlohmann_json fmt::fmt qconv_flags)
# They run for milliseconds; optimising the template-heavy Halide.h, or reading it once a file, costs minutes.
target_compile_options(qconv_generators PRIVATE $<$<CONFIG:Release>:-O1>)
target_precompile_headers(qconv_generators PRIVATE <Halide.h>)

# What both tools need.
set(common_sources app emit_commands files kernel_list kernel_table report targets text)
list(TRANSFORM common_sources REPLACE "(.+)" "tools/\\1.cpp")
add_library(qconv_tool_common STATIC ${common_sources})
target_include_directories(qconv_tool_common PUBLIC ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/runtime
                                                    ${PROJECT_SOURCE_DIR}/runtime/include)
target_compile_options(qconv_tool_common PRIVATE $<$<CONFIG:Release>:-O1>)
target_link_libraries(qconv_tool_common PUBLIC CLI11::CLI11 nlohmann_json::nlohmann_json fmt::fmt qconv_flags
                                        PRIVATE Halide::Halide)

# The bootstrap: emits the Halide runtime, the generic kernels and their table, before qconvc exists.
# It takes only the table of targets from the runtime, whose other parts need the Halide runtime.
add_executable(qconvc-emit tools/emit_main.cpp runtime/cpu_features.cpp)
target_link_libraries(qconvc-emit PRIVATE qconv_tool_common qconv_generators)

# The tool. It holds no kernels: run, verify and bench load lib/qconv/libqconv_kernels.so, which binds to the runtime in
# here.
file(GLOB tool_sources CONFIGURE_DEPENDS tools/*.cpp)
list(TRANSFORM common_sources PREPEND "${PROJECT_SOURCE_DIR}/" OUTPUT_VARIABLE common_paths)
list(REMOVE_ITEM tool_sources "${PROJECT_SOURCE_DIR}/tools/emit_main.cpp"
     "${PROJECT_SOURCE_DIR}/tools/emit.cpp" ${common_paths})
qconv_embed_text(kernels.json embedded_kernels_json "${PROJECT_BINARY_DIR}/generated/embedded_kernels.cpp")
qconv_embed_text(bench/matrix.json embedded_matrix_json "${PROJECT_BINARY_DIR}/generated/embedded_matrix.cpp")
qconv_embed_text(bench/workloads.csv embedded_workloads_csv "${PROJECT_BINARY_DIR}/generated/embedded_workloads.cpp")
include(QconvSourceHashes)
qconv_source_hashes("${PROJECT_BINARY_DIR}/generated/source_hashes.cpp")
add_executable(qconvc ${tool_sources} tests/support/reference.cpp tests/support/reference_backward.cpp
                      "${PROJECT_BINARY_DIR}/generated/embedded_kernels.cpp"
                      "${PROJECT_BINARY_DIR}/generated/embedded_matrix.cpp"
                      "${PROJECT_BINARY_DIR}/generated/embedded_workloads.cpp"
                      "${PROJECT_BINARY_DIR}/generated/source_hashes.cpp")
target_compile_definitions(qconvc PRIVATE QCONV_HALIDE_VERSION="${Halide_VERSION}")
# What tuning alone is told, so that a change of it compiles these files only.
set_source_files_properties(tools/tune_build.cpp tools/tune_retrain.cpp PROPERTIES COMPILE_DEFINITIONS
    "QCONV_LLVM_VERSION=\"${QCONV_LLVM_VERSION}\";QCONV_HALIDE_PROGRAMS=\"${QCONV_HALIDE_FOLDER}/../bin\";\
QCONV_MEASURE_LINK_FLAGS=\"$<$<BOOL:${QCONV_SANITIZE}>:-fsanitize=address,undefined>\"")
# Command lines and JSON need no speed; the oracle, the clock and the peaks do.
target_compile_options(qconvc PRIVATE $<$<CONFIG:Release>:-O1>)
set_source_files_properties(tests/support/reference.cpp tests/support/reference_backward.cpp tools/oracle.cpp
                            tools/random_data.cpp tools/bench_timing.cpp tools/peaks.cpp
                            PROPERTIES COMPILE_OPTIONS $<$<CONFIG:Release>:-O2>)
target_link_libraries(qconvc PRIVATE
    qconv_tool_common qconv_generators SQLiteCpp
    $<LINK_LIBRARY:WHOLE_ARCHIVE,qconv> $<LINK_LIBRARY:WHOLE_ARCHIVE,qconv_halide_runtime> ${CMAKE_DL_LIBS})
# The same search path before and after an installation, with libHalide's place in a build tree taken by a link. Where CMake
# rewrites the path it leaves an empty element at its end meanwhile, which is whatever folder the user stands in.
set_target_properties(qconvc PROPERTIES ENABLE_EXPORTS ON INSTALL_RPATH "$ORIGIN/../lib/qconv" BUILD_WITH_INSTALL_RPATH ON)
cmake_path(GET halide_library FILENAME halide_name)
file(MAKE_DIRECTORY "${PROJECT_BINARY_DIR}/lib/qconv")
file(CREATE_LINK "${halide_library}" "${PROJECT_BINARY_DIR}/lib/qconv/${halide_name}" SYMBOLIC)
