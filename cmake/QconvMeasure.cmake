# libqconv_measure.a: the program around one kernel that a tuning run links and runs, but for the kernel and the request.
# A cross build makes it for the target; of nlohmann_json and fmt it takes the headers, which Debian's cross compilers find.
set(measure_sources bench_timing cpu_model directions files json_object kernel_list layer_file layer_run oracle
    random_data text)
list(TRANSFORM measure_sources REPLACE "(.+)" "tools/\\1.cpp")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    list(APPEND measure_sources tools/peaks.cpp)
endif()
add_library(qconv_measure STATIC tools/measure/main.cpp tools/measure/measure_peak.cpp ${measure_sources}
                                 tests/support/reference.cpp tests/support/reference_backward.cpp)
target_include_directories(qconv_measure PRIVATE "${PROJECT_SOURCE_DIR}" "${PROJECT_SOURCE_DIR}/runtime")
target_compile_options(qconv_measure PRIVATE $<$<CONFIG:Release>:-O2>)
target_compile_definitions(qconv_measure PRIVATE FMT_HEADER_ONLY)
target_link_libraries(qconv_measure PRIVATE qconv qconv_flags
                                            $<$<NOT:$<BOOL:${QCONV_EMIT}>>:nlohmann_json::nlohmann_json>
                                            $<$<NOT:$<BOOL:${QCONV_EMIT}>>:fmt::fmt-header-only>)
# What qconvc tune links beside it.
add_dependencies(qconv_measure qconv_halide_runtime)
install(TARGETS qconv_measure ARCHIVE DESTINATION lib)

if(NOT QCONV_EMIT)
    # Beside libHalide: the autoschedulers, and the programs that retrain adams2019's cost model.
    file(GLOB tuning_files "${QCONV_HALIDE_FOLDER}/libautoschedule_*.so")
    install(FILES ${tuning_files} DESTINATION lib/qconv)
    install(PROGRAMS "${QCONV_HALIDE_FOLDER}/../bin/featurization_to_sample"
                     "${QCONV_HALIDE_FOLDER}/../bin/adams2019_retrain_cost_model" DESTINATION lib/qconv)
endif()
