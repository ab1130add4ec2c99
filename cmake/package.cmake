# What is installed where there is no Python: headers, library, and how CMake and pkg-config find them.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/xent)
install(FILES ${XENT_HEADERS} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/xent)
install(TARGETS xent EXPORT xent-targets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT xent-targets NAMESPACE xent:: DESTINATION ${package})

# The library is static: who links it needs what it needs. Whoever calls find_package has enabled C.
file(CONFIGURE OUTPUT package/xent-config.cmake @ONLY CONTENT [=[
include(CMakeFindDependencyMacro)
if(@XENT_OPENMP@)
  find_dependency(OpenMP COMPONENTS C)
endif()
include(${CMAKE_CURRENT_LIST_DIR}/xent-targets.cmake)
]=])
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/package/xent-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/package/xent-config.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/package/xent-config-version.cmake DESTINATION ${package})

# Relative to itself, so that the folder may be moved.
file(RELATIVE_PATH up /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
list(TRANSFORM CMAKE_DL_LIBS PREPEND -l OUTPUT_VARIABLE dl)
file(CONFIGURE OUTPUT package/xent.pc @ONLY CONTENT [=[
prefix=${pcfiledir}/@up@
includedir=${prefix}/@CMAKE_INSTALL_INCLUDEDIR@/xent
libdir=${prefix}/@CMAKE_INSTALL_LIBDIR@

Name: xent
Description: @PROJECT_DESCRIPTION@
Version: @PROJECT_VERSION@
Cflags: -I${includedir}
Libs: -L${libdir} -lxent @OpenMP_C_FLAGS@ -lm @dl@
]=])
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/package/xent.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
