# Sets `out` to the architectures of the cards here, as machine code of this nvcc, or to NONE where
# there is no card, and PTX where the driver is older than the machine code: CUDA 13 makes such as
# drivers from 580 on load, while PTX is lowered to what older ones do (cuda_kernels.cmake).
#   cards   what nvidia-smi says: "9.0, 570.86.15", a line for each
#   nvcc    what nvcc --version says
function(gptoss_architectures_of_cards cards nvcc out)
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
  set(architectures "")
  foreach(capability ${capabilities})
    string(REGEX REPLACE "[., ]" "" capability "${capability}")
    if(capability GREATER_EQUAL 80)
      list(APPEND architectures sm_${capability})
    endif()
  endforeach()
  list(REMOVE_DUPLICATES architectures)
  set(${out} "${architectures}" PARENT_SCOPE)
endfunction()
