# The kernel tests on emulated CPUs. A wrong dispatch or a kernel that uses more than its target has dies there of an
# illegal instruction.
set(emulated "")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    set(qemu qemu-x86_64)
    set(emulated "sse41 Penryn" "avx2 Haswell")
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
    set(qemu qemu-aarch64)
    set(platform arm-64-linux)
    set(emulated "arm64 cortex-a53" "arm64_dotprod neoverse-n1")
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^arm")
    set(qemu qemu-arm)
    set(platform arm-32-linux)
    set(emulated "arm32 cortex-a15")
endif()
find_program(QCONV_QEMU "${qemu}" DOC "user-mode emulator for the tests on other CPUs")
if(NOT QCONV_QEMU OR QCONV_SANITIZE)
    message(STATUS "${qemu} not found (Debian package qemu-user), or sanitizers: no tests on emulated CPUs")
    return()
endif()

foreach(entry IN LISTS emulated)
    separate_arguments(entry)
    list(GET entry 0 target)
    list(GET entry 1 cpu)
    if(NOT target IN_LIST QCONV_TARGETS)
        continue()
    endif()
    add_test(NAME "qemu: ${target}"
             COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/qemu_test.sh" "${QCONV_QEMU}" ${cpu} ${target}
                     $<TARGET_FILE:qconv_tests> $<TARGET_FILE:c_api_test>)
    if(QCONV_EMIT)
        # qconvc lies beside qconvc-emit.
        cmake_path(REPLACE_FILENAME QCONV_EMIT qconvc OUTPUT_VARIABLE qconvc)
        cmake_path(ABSOLUTE_PATH qconvc BASE_DIRECTORY "${PROJECT_SOURCE_DIR}")
        add_test(NAME "link_c: ${target}"
                 COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/link_c_test.sh" "${qconvc}" "${CMAKE_C_COMPILER}"
                         "${PROJECT_BINARY_DIR}" ${target} ${platform} "${QCONV_QEMU}" ${cpu})
        set_tests_properties("link_c: ${target}" PROPERTIES ENVIRONMENT "QEMU_LD_PREFIX=${CMAKE_FIND_ROOT_PATH}")
    endif()
    # Where the emulator finds the shared libraries of a cross build.
    set_tests_properties("qemu: ${target}" PROPERTIES TIMEOUT 1200 ENVIRONMENT "QEMU_LD_PREFIX=${CMAKE_FIND_ROOT_PATH}")
endforeach()
