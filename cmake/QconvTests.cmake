# One Catch2 program of all tests/*_test.cpp, one program per tests/*.c, and the Python tests of the command line.
include(Catch)

file(GLOB cpp_tests CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/tests/*.cpp" "${PROJECT_SOURCE_DIR}/tests/support/*.cpp")
if(cpp_tests)
    # The golden cases come as a layer file.
    list(APPEND cpp_tests tools/layer_file.cpp tools/json_object.cpp tools/text.cpp tools/files.cpp)
    add_executable(qconv_tests ${cpp_tests})
    target_include_directories(qconv_tests PRIVATE "${PROJECT_SOURCE_DIR}" "${PROJECT_SOURCE_DIR}/runtime"
                                                   "${PROJECT_SOURCE_DIR}/tests")
    target_compile_definitions(qconv_tests PRIVATE QCONV_TEST_DATA="${PROJECT_SOURCE_DIR}/tests")
    target_link_libraries(qconv_tests PRIVATE qconv_kernels qconv_halide_runtime qconv Catch2::Catch2
                                              nlohmann_json::nlohmann_json fmt::fmt qconv_flags)
    catch_discover_tests(qconv_tests PROPERTIES TIMEOUT 600)
endif()

file(GLOB c_tests CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/tests/*.c")
foreach(source IN LISTS c_tests)
    get_filename_component(name "${source}" NAME_WE)
    add_executable(${name} "${source}")
    target_link_libraries(${name} PRIVATE qconv_kernels qconv_halide_runtime qconv)
    target_compile_options(${name} PRIVATE -Wall -Wextra -Wpedantic -Werror)
    set_target_properties(${name} PROPERTIES LINKER_LANGUAGE CXX)
    add_test(NAME ${name} COMMAND ${name})
endforeach()

find_package(Python3 COMPONENTS Interpreter REQUIRED)
file(GLOB python_tests CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/tests/cli*_test.py")
foreach(source IN LISTS python_tests)
    get_filename_component(name "${source}" NAME_WE)
    add_test(NAME ${name} COMMAND Python3::Interpreter "${source}" $<TARGET_FILE:qconvc>)
    set_tests_properties(${name} PROPERTIES TIMEOUT 600)
endforeach()
