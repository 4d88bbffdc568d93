# Flags of our own sources, as an interface library so that nothing leaks to users of the installed package.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_C_STANDARD 11)
set(CMAKE_CXX_FLAGS_RELEASE "-O2")
set(CMAKE_C_FLAGS_RELEASE "-O2")
if(NOT CMAKE_BUILD_TYPE)
    set(CMAKE_BUILD_TYPE Release CACHE STRING "Release or Debug" FORCE)
endif()

add_library(qconv_flags INTERFACE)
target_compile_options(qconv_flags INTERFACE
    -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Wnon-virtual-dtor -Woverloaded-virtual
    $<$<BOOL:${QCONV_WARNINGS_AS_ERRORS}>:-Werror>)
if(QCONV_SANITIZE)
    # The vptr check needs run-time type information, which libHalide is built without.
    set(sanitizers -fsanitize=address,undefined -fno-sanitize=vptr -fno-omit-frame-pointer)
    add_compile_options(${sanitizers} -fno-sanitize-recover=undefined)
    add_link_options(${sanitizers})
endif()
