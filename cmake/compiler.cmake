# Which compilers build gptoss. Run as a script (cmake -D… -P) it checks the values given on the
# command line: so the tests ask about compilers that they do not have.

# Sets `out` to what is wrong with the compiler, or to nothing.
function(gptoss_compiler_fault id version simulate out)
  set(fault "")
  if(id STREQUAL "GNU" AND version VERSION_LESS 11)
    set(fault "GCC ${version} is too old: gptoss needs GCC 11 or newer (or clang 14); CXX names another compiler")
  elseif(id STREQUAL "GNU" AND simulate STREQUAL "MINGW")
    set(fault "GCC on Windows misaligns AVX registers on the stack: use clang-cl (CXX=clang-cl)")
  elseif(id STREQUAL "Clang" AND version VERSION_LESS 14)
    set(fault "clang ${version} is too old: gptoss needs clang 14 or newer (or GCC 11); CXX names another compiler")
  elseif(id STREQUAL "AppleClang" AND version VERSION_LESS 14)
    set(fault "Apple clang ${version} is too old: gptoss needs Xcode 14 or its command line tools, or newer")
  elseif(id STREQUAL "MSVC")
    set(fault "cl.exe does not build gptoss: use clang-cl, which comes with Visual Studio (CMAKE_GENERATOR_TOOLSET=ClangCL, or CXX=clang-cl with Ninja)")
  endif()
  set(${out} "${fault}" PARENT_SCOPE)
endfunction()

# Sets `out` to the kernels of a processor as CMake names it (x86 or arm), or to nothing.
function(gptoss_kernels_of processor out)
  string(TOLOWER "${processor}" processor)
  if(processor MATCHES "^(x86_64|amd64|x64)$")
    set(${out} x86 PARENT_SCOPE)
  elseif(processor MATCHES "^(aarch64|arm64|arm64e|armv8.*)$")
    set(${out} arm PARENT_SCOPE)
  else()
    set(${out} "" PARENT_SCOPE)
  endif()
endfunction()

if(CMAKE_SCRIPT_MODE_FILE STREQUAL CMAKE_CURRENT_LIST_FILE)
  gptoss_compiler_fault("${ID}" "${VERSION}" "${SIMULATE}" fault)
  gptoss_kernels_of("${PROCESSOR}" kernels)
  message(STATUS "fault: ${fault}")
  message(STATUS "kernels: ${kernels}")
endif()
