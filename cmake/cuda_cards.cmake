# Sets `out` to the architectures of the cards here, as machine code of this nvcc, or to NONE where
# there is no card, and PTX where the driver is older than the machine code: CUDA 13 makes such as
# drivers from 580 on load, while PTX is lowered to what older ones do (cuda_kernels.cmake).
#   cards   what nvidia-smi says: "9.0, 570.86.15", a line for each
#   nvcc    what nvcc --version says
#   codes   what nvcc --list-gpu-code says; cards that came later get PTX alone
function(gptoss_architectures_of_cards cards nvcc codes out)
  string(REGEX MATCHALL "[0-9]+\\.[0-9]+, " capabilities "${cards}")
  if(NOT capabilities)
    set(${out} NONE PARENT_SCOPE)
    return()
  endif()
  string(REGEX REPLACE "^[^,]*, ([0-9]+).*" "\\1" driver "${cards}")
  if(nvcc MATCHES "release 1[3-9]" AND driver LESS 580)
    set(${out} PTX PARENT_SCOPE)
    return()
  endif()
  string(REGEX MATCHALL "sm_[0-9a-z]+" codes "${codes}")
  set(architectures "")
  foreach(capability ${capabilities})
    string(REGEX REPLACE "[., ]" "" capability "${capability}")
    if(capability LESS 80)
      continue()
    elseif(NOT sm_${capability} IN_LIST codes)
      message(STATUS "gptoss: no machine code for sm_${capability}, which nvcc here does not know, but PTX")
    else()
      list(APPEND architectures sm_${capability})
    endif()
  endforeach()
  list(REMOVE_DUPLICATES architectures)
  set(${out} "${architectures}" PARENT_SCOPE)
endfunction()
