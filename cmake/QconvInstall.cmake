# find_package(qconv) gives qconv::qconv, qconv::kernels and qconv::halide_runtime.
# lib/ on every distribution: qconvc looks for its libraries in ../lib/qconv.
set(CMAKE_INSTALL_LIBDIR lib)
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/qconv")
set(libraries qconv qconv_halide_runtime)
if(QCONV_GENERIC_KERNELS)
    list(APPEND libraries qconv_kernels)
    install(TARGETS qconv_kernels_module LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}/qconv")
endif()
install(TARGETS ${libraries} EXPORT qconv ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(DIRECTORY runtime/include/ DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(TARGETS qconvc RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
# qconvc compiles with it; programs that link kernels do not need it.
install(IMPORTED_RUNTIME_ARTIFACTS Halide::Halide LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}/qconv")
install(EXPORT qconv NAMESPACE qconv:: FILE qconvTargets.cmake DESTINATION "${package_dir}")

file(WRITE "${PROJECT_BINARY_DIR}/qconvConfig.cmake"
[[include(CMakeFindDependencyMacro)
find_dependency(Threads)
include("${CMAKE_CURRENT_LIST_DIR}/qconvTargets.cmake")
]])
write_basic_package_version_file("${PROJECT_BINARY_DIR}/qconvConfigVersion.cmake" COMPATIBILITY SameMajorVersion)
install(FILES "${PROJECT_BINARY_DIR}/qconvConfig.cmake" "${PROJECT_BINARY_DIR}/qconvConfigVersion.cmake"
        DESTINATION "${package_dir}")
