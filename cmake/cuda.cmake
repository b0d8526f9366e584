# The CUDA backend. Its host side is plain C++ over the driver, which is opened at run time; its
# kernels are one file of fat binaries, which is embedded:
#   GPTOSS_CUDA_FATBIN         a file that is ready: no nvcc is needed
#   GPTOSS_CUDA_ARCHITECTURES  what is compiled otherwise, as nvcc names it: compute_80 is PTX that
#                              every card since then can load, sm_90a machine code; AUTO adds the
#                              card's own
# Sets GPTOSS_CUDA_STATUS to what is built, or to nothing.
set(GPTOSS_CUDA_FATBIN "$ENV{GPTOSS_CUDA_FATBIN}" CACHE FILEPATH "Kernels that are compiled already")
set(GPTOSS_CUDA_ARCHITECTURES "compute_80" CACHE STRING "What kernels are compiled for")
set(GPTOSS_CUDA_STATUS "")

file(GLOB cuda_sources CONFIGURE_DEPENDS csrc/cuda/kernels/*.cu)
file(GLOB cuda_headers CONFIGURE_DEPENDS csrc/cuda/kernels/*.h csrc/cuda/kernels/*.cuh)
include(cmake/cuda_cards.cmake)
include(cmake/cuda_digest.cmake)

set(cuda_kernels "")
if(GPTOSS_CUDA AND GPTOSS_CUDA_FATBIN)
  get_filename_component(cuda_kernels "${GPTOSS_CUDA_FATBIN}" ABSOLUTE)
  if(NOT EXISTS "${cuda_kernels}")
    message(FATAL_ERROR "GPTOSS_CUDA_FATBIN: there is no ${cuda_kernels}")
  endif()
  gptoss_check_kernels(${cuda_kernels} "${cuda_sources}" "${cuda_headers}")
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
    ${cuda_kernels} ${cuda_sources} ${cuda_headers}) # is checked again when one of them changes
  set(GPTOSS_CUDA_STATUS "kernels of ${cuda_kernels}")
elseif(GPTOSS_CUDA)
  find_program(GPTOSS_NVCC nvcc HINTS ENV CUDA_HOME /usr/local/cuda PATH_SUFFIXES bin)
  set(architectures ${GPTOSS_CUDA_ARCHITECTURES})
  if(GPTOSS_CUDA STREQUAL "AUTO")
    # What the card is, where there is one; else nothing is built, and that quickly.
    set(cards "")
    find_program(GPTOSS_NVIDIA_SMI nvidia-smi)
    if(GPTOSS_NVCC AND GPTOSS_NVIDIA_SMI)
      execute_process(COMMAND ${GPTOSS_NVIDIA_SMI} --query-gpu=compute_cap,driver_version
                              --format=csv,noheader
                      OUTPUT_VARIABLE cards ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
      execute_process(COMMAND ${GPTOSS_NVCC} --version OUTPUT_VARIABLE nvcc_version)
      execute_process(COMMAND ${GPTOSS_NVCC} --list-gpu-code OUTPUT_VARIABLE nvcc_codes)
    endif()
    gptoss_architectures_of_cards("${cards}" "${nvcc_version}" "${nvcc_codes}" of_cards)
    if(of_cards STREQUAL NONE)
      set(GPTOSS_NVCC_OR_CARD_MISSING TRUE)
    elseif(of_cards STREQUAL PTX)
      message(STATUS "gptoss: CUDA kernels as PTX alone: nvcc is newer than the driver here")
    else()
      list(APPEND architectures ${of_cards})
      list(REMOVE_DUPLICATES architectures)
    endif()
  elseif(NOT GPTOSS_NVCC)
    message(FATAL_ERROR "GPTOSS_CUDA=ON needs nvcc of CUDA 12 or newer, or GPTOSS_CUDA_FATBIN")
  endif()
  if(GPTOSS_NVCC_OR_CARD_MISSING)
    message(STATUS "gptoss without cuda: no card and nvcc here, and no GPTOSS_CUDA_FATBIN")
  else()
    set(cuda_kernels ${CMAKE_BINARY_DIR}/gptoss_kernels.fatbin)
    string(REPLACE ";" "," architecture_list "${architectures}")
    string(REPLACE ";" "," source_list "${cuda_sources}")
    string(REPLACE ";" "," header_list "${cuda_headers}")
    set(cuda_script ${CMAKE_CURRENT_LIST_DIR}/cuda_kernels.cmake)
    set(cuda_digest_script ${CMAKE_CURRENT_LIST_DIR}/cuda_digest.cmake)
    set(cuda_command ${CMAKE_COMMAND} -DNVCC=${GPTOSS_NVCC} -DARCHITECTURES=${architecture_list}
      -DHEADERS=${header_list})
    # Each alone, beside the others; what joins them finds them in the cache.
    set(cuda_parts "")
    foreach(source ${cuda_sources})
      get_filename_component(name ${source} NAME_WE)
      set(part ${CMAKE_BINARY_DIR}/cuda_kernels/${name}.fatbin)
      add_custom_command(
        OUTPUT ${part}
        COMMAND ${cuda_command} -DSOURCES=${source} -DOUT=${part} -P ${cuda_script}
        DEPENDS ${source} ${cuda_headers} ${cuda_script} ${cuda_digest_script}
        COMMENT "CUDA kernels of ${name} for ${architecture_list}"
        VERBATIM)
      list(APPEND cuda_parts ${part})
    endforeach()
    file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/cuda_kernels)
    add_custom_command(
      OUTPUT ${cuda_kernels}
      COMMAND ${cuda_command} -DSOURCES=${source_list} -DOUT=${cuda_kernels} -P ${cuda_script}
      DEPENDS ${cuda_sources} ${cuda_headers} ${cuda_script} ${cuda_digest_script} ${cuda_parts}
      COMMENT "CUDA kernels for ${architecture_list}"
      VERBATIM)
    set(GPTOSS_CUDA_STATUS "kernels for ${architecture_list}")
  endif()
endif()

# What a model would take of a card is known without kernels too.
set(cuda_host_sources
  csrc/cuda/driver.cpp
  csrc/cuda/fat_binary.cpp
  csrc/cuda/memory.cpp
  csrc/cuda/module.cpp
  csrc/cuda/plan.cpp
  csrc/cuda/step_memory.cpp
  csrc/cuda/weights.cpp)
target_sources(gptoss_core PRIVATE ${cuda_host_sources})
if(GPTOSS_COMPILE_ONCE)
  set_source_files_properties(${cuda_host_sources} PROPERTIES UNITY_GROUP cuda)
endif()
if(GPTOSS_CUDA_STATUS)
  target_sources(gptoss_core PRIVATE
    csrc/cuda/backend.cpp
    csrc/cuda/cpu_experts.cpp
    csrc/cuda/embedded.cpp
    csrc/cuda/forward.cpp
    csrc/cuda/graphs.cpp
    csrc/cuda/stage.cpp)
  set_source_files_properties(csrc/cuda/embedded.cpp PROPERTIES
    OBJECT_DEPENDS ${cuda_kernels}
    COMPILE_DEFINITIONS "GPTOSS_CUDA_KERNELS_FILE=\"${cuda_kernels}\"")
else()
  target_sources(gptoss_core PRIVATE csrc/no_cuda/cuda.cpp)
endif()
