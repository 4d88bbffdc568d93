# What is installed: headers, libraries, qconvc, the CMake package (qconvConfig.cmake.in says what is in it), pkg-config.
# lib/ on every distribution: qconvc looks for its libraries in ../lib/qconv.
set(CMAKE_INSTALL_LIBDIR lib)
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/qconv")
set(libraries qconv qconv_halide_runtime)
if(QCONV_GENERIC_KERNELS)
    list(APPEND libraries qconv_kernels)
    if(QCONV_GPU_TARGETS)
        list(APPEND libraries qconv_gpu_kernels qconv_halide_runtime_gpu)
    endif()
    install(TARGETS qconv_kernels_module LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}/qconv")
endif()
if(TARGET qconv_shared)
    if(SKBUILD)
        # A wheel holds no links, and no program links what is in it.
        install(TARGETS qconv_shared LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}/qconv")
    else()
        list(APPEND libraries qconv_shared)
    endif()
endif()
install(TARGETS ${libraries} EXPORT qconv ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}"
                                          LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(DIRECTORY runtime/include/ DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
if(NOT QCONV_EMIT)
    install(TARGETS qconvc RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
    # qconvc compiles with it; programs that link kernels do not need it.
    install(IMPORTED_RUNTIME_ARTIFACTS Halide::Halide LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}/qconv")
    if(SKBUILD)
        # A wheel brings along what Debian has packages of.
        install(IMPORTED_RUNTIME_ARTIFACTS fmt::fmt LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}/qconv")
        get_target_property(sqlite SQLite::SQLite3 IMPORTED_LOCATION)
        file(REAL_PATH "${sqlite}" sqlite)
        install(FILES "${sqlite}" DESTINATION "${CMAKE_INSTALL_LIBDIR}/qconv" RENAME libsqlite3.so.0)
    endif()
    if(TARGET qconv_inspect)
        install(TARGETS qconv_inspect LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}/qconv" COMPONENT inspect)
    endif()
    # Halide's own terms go with its library.
    get_target_property(halide Halide::Halide LOCATION)
    cmake_path(GET halide PARENT_PATH halide)
    install(FILES "${halide}/../share/doc/Halide/LICENSE.txt" DESTINATION "${CMAKE_INSTALL_DOCDIR}" RENAME LICENSE.Halide)
endif()
# What `qconvc compile --tuned` takes: winners of tuning, each with where and how it was measured.
install(DIRECTORY schedules/tuned/ DESTINATION "${CMAKE_INSTALL_DATADIR}/qconv/tuned" FILES_MATCHING PATTERN "*.jsonl")
install(FILES LICENSE DESTINATION "${CMAKE_INSTALL_DOCDIR}")
install(EXPORT qconv NAMESPACE qconv:: FILE qconvTargets.cmake DESTINATION "${package_dir}")

# As Halide spells it: what kernels must be for to be linked with these libraries.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
    set(QCONV_PLATFORM arm-64-linux)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^arm")
    set(QCONV_PLATFORM arm-32-linux)
else()
    set(QCONV_PLATFORM x86-64-linux)
endif()
if(NOT PROJECT_IS_TOP_LEVEL)
    # The project that this one is part of compiles kernels by an installed qconvc: this tree's is not built yet when a
    # project is configured.
    set(QCONV_PLATFORM ${QCONV_PLATFORM} CACHE INTERNAL "")
    find_program(QCONV_QCONVC qconvc NO_CMAKE_FIND_ROOT_PATH DOC "qconvc of the machine that builds")
    include(QconvAddKernels)
endif()
configure_package_config_file(cmake/qconvConfig.cmake.in "${PROJECT_BINARY_DIR}/qconvConfig.cmake"
                              INSTALL_DESTINATION "${package_dir}")
# Before 1.0 a minor version may break what links it.
write_basic_package_version_file("${PROJECT_BINARY_DIR}/qconvConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/qconvConfig.cmake" "${PROJECT_BINARY_DIR}/qconvConfigVersion.cmake"
              cmake/QconvAddKernels.cmake
        DESTINATION "${package_dir}")
foreach(file qconv.pc qconv-static.pc)
    configure_file(cmake/${file}.in "${PROJECT_BINARY_DIR}/${file}" @ONLY)
    install(FILES "${PROJECT_BINARY_DIR}/${file}" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
endforeach()
