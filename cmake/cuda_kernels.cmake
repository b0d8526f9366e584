# Compiles kernels to OUT: one fat binary for each of SOURCES, one after the other, uncompressed, as
# wheels are compressed anyway. Lists are separated by commas.
#   cmake -DNVCC= -DARCHITECTURES=compute_80,sm_90a -DSOURCES= -DHEADERS= -DOUT=
#         [-DPTXAS=] [-DLINES=OFF] -P cuda_kernels.cmake
# compute_80 is PTX, which the driver compiles for every card since then; sm_90a is machine code, made
# by PTXAS, or by nvcc's own. With LINES, as is the default, reports and profilers know the source.
#
# Each is kept in a folder of the user's cache by the hash of source, headers, architecture and
# compilers: builds in fresh folders, as pip makes them, compile nothing that has not changed.
cmake_minimum_required(VERSION 3.20)
string(REPLACE "," ";" ARCHITECTURES "${ARCHITECTURES}")
string(REPLACE "," ";" SOURCES "${SOURCES}")
string(REPLACE "," ";" HEADERS "${HEADERS}")
if(NOT DEFINED LINES)
  set(LINES ON)
endif()
include(${CMAKE_CURRENT_LIST_DIR}/cuda_digest.cmake)

set(flags -std=c++17)
set(assembler_flags -v)
if(LINES)
  list(APPEND flags -lineinfo)
  list(APPEND assembler_flags --generate-line-info)
endif()

get_filename_component(bin ${NVCC} REALPATH)
get_filename_component(bin ${bin} DIRECTORY)
find_program(fatbinary fatbinary HINTS ${bin} /usr/local/cuda/bin NO_CACHE REQUIRED)
find_program(own_ptxas ptxas HINTS ${bin} /usr/local/cuda/bin NO_CACHE REQUIRED)
if(NOT PTXAS)
  set(PTXAS ${own_ptxas})
endif()

if(DEFINED ENV{XDG_CACHE_HOME})
  set(cache "$ENV{XDG_CACHE_HOME}/gptoss/kernels")
else()
  set(cache "$ENV{HOME}/.cache/gptoss/kernels")
endif()
file(MAKE_DIRECTORY ${cache})

# Runs a compiler, whose output `out` is gone where it fails.
function(run out)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE failed ERROR_VARIABLE said)
  if(failed)
    file(REMOVE ${out})
    message(FATAL_ERROR "failed (${failed}): ${ARGN}\n${said}")
  endif()
  # What ptxas says of code that it had to repair: a pipeline of wgmma is gone then.
  if(said MATCHES "C75[0-9][0-9]")
    file(REMOVE ${out})
    message(FATAL_ERROR "${ARGN}\n${said}")
  elseif(said MATCHES "warning")
    message(WARNING "${ARGN}\n${said}")
  endif()
endfunction()

set(compiler "")
foreach(tool ${NVCC} ${PTXAS} ${own_ptxas})
  execute_process(COMMAND ${tool} --version OUTPUT_VARIABLE text RESULT_VARIABLE failed)
  if(failed)
    message(FATAL_ERROR "${tool} does not run: ${failed}")
  endif()
  string(APPEND compiler "${text}")
endforeach()
file(READ ${CMAKE_CURRENT_LIST_FILE} script)
# Without the folder of the sources (-I): pip unpacks them to a new one each time.
set(common "${compiler}${script}${flags}")

# Compiles a source to PTX of compute_`number`, of the oldest version that has its forms, and which
# the oldest drivers load: 8.0 is that of CUDA 12.0 and driver 525, where nvcc of CUDA 13 writes 9.0,
# that of driver 580. Which forms a version has, the assembler knows.
function(compile_ptx source number digest out)
  run(${out} ${NVCC} ${flags} -I${CMAKE_CURRENT_LIST_DIR}/../csrc -arch=compute_${number}
      -ptx ${source} -o ${out})
  file(READ ${out} ptx)
  # Names of files without the folders of the machine that compiled.
  string(REGEX REPLACE "(\n[ \t]*\\.file[ \t]+[0-9]+ \")[^\"\n]*/" "\\1" ptx "${ptx}")
  # What it was made of, for builds that take a ready file (cuda.cmake); fatbinary keeps no comments.
  string(APPEND ptx "\n.file 9999 \"${digest}\"\n")
  string(REGEX MATCH "\n\\.version ([0-9.]+)" found "${ptx}")
  set(own_version ${CMAKE_MATCH_1})
  foreach(version 8.0 8.3 8.6 8.7 8.8)
    if(NOT version VERSION_LESS own_version)
      break()
    endif()
    string(REPLACE "${found}" "\n.version ${version}" lowered "${ptx}")
    if(version VERSION_LESS 8.3)
      # Which bytes of a load are not used is a hint, and PTX 8.3's.
      string(REGEX REPLACE "[ \t]*\\.pragma \"used_bytes_mask[^\n]*\n" "" lowered "${lowered}")
    endif()
    file(WRITE ${out} "${lowered}")
    execute_process(COMMAND ${own_ptxas} -arch=compute_${number} ${out} RESULT_VARIABLE failed
                    OUTPUT_QUIET ERROR_QUIET)
    if(NOT failed)
      return()
    endif()
  endforeach()
  file(WRITE ${out} "${ptx}")
endfunction()

# Makes PTX or machine code of a source and sets `out` to the file, where it stays: what others build
# at the same time is whole as well.
function(image source architecture digest out)
  string(REGEX REPLACE "^(compute|sm)_" "" number ${architecture})
  if(architecture MATCHES "^compute_")
    set(kind ptx)
  else()
    set(kind cubin)
  endif()
  string(SHA256 hash "${common}${assembler_flags}${digest}${architecture}")
  set(file ${cache}/${hash}.${kind})
  set(${out} ${file} PARENT_SCOPE)
  if(EXISTS ${file})
    return()
  endif()
  string(RANDOM LENGTH 12 suffix)
  if(kind STREQUAL ptx)
    compile_ptx(${source} ${number} "${digest}" ${file}.${suffix})
  else()
    # 8.0 to 8.9 differ in what the assembler makes of the same forms.
    string(REGEX REPLACE "^8[0-9]$" "80" virtual ${number})
    image(${source} compute_${virtual} "${digest}" ptx)
    set(assembler ${PTXAS})
    if(number MATCHES "^11[0-9]") # CUDA 12 has it under another number
      set(assembler ${own_ptxas})
    endif()
    run(${file}.${suffix} ${assembler} ${assembler_flags} -arch=sm_${number} ${ptx}
        -o ${file}.${suffix})
  endif()
  file(RENAME ${file}.${suffix} ${file})
endfunction()

set(parts "")
foreach(source ${SOURCES})
  gptoss_kernels_digest(${source} "${HEADERS}" digest)
  get_filename_component(name ${source} NAME_WE)
  set(images "")
  foreach(architecture ${ARCHITECTURES})
    image(${source} ${architecture} "${digest}" file)
    string(REGEX REPLACE "^(compute|sm)_" "" number ${architecture})
    if(architecture MATCHES "^compute_")
      list(APPEND images --image3=kind=ptx,sm=${number},file=${file})
    else()
      list(APPEND images --image3=kind=elf,sm=${number},file=${file})
    endif()
  endforeach()
  set(part ${OUT}.${name}.part)
  run(${part} ${fatbinary} --64 --compress=false --create=${part} ${images})
  list(APPEND parts ${part})
endforeach()
execute_process(COMMAND ${CMAKE_COMMAND} -E cat ${parts} OUTPUT_FILE ${OUT} RESULT_VARIABLE failed)
file(REMOVE ${parts})
if(failed)
  file(REMOVE ${OUT})
  message(FATAL_ERROR "joining ${parts} failed: ${failed}")
endif()
