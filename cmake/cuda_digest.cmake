# What kernels were made of: PTX says it, so that a build can tell whether a file fits its sources.

# Sets `out` to the name and the hash of a source and of all headers, as PTX has it.
function(gptoss_kernels_digest source headers out)
  get_filename_component(name ${source} NAME)
  file(READ ${source} text)
  list(SORT headers COMPARE FILE_BASENAME)
  foreach(header ${headers})
    file(READ ${header} more)
    string(APPEND text "${more}")
  endforeach()
  string(SHA256 hash "${text}")
  set(${out} "gptoss kernels of ${name} ${hash}" PARENT_SCOPE)
endfunction()

# Fails where a file of kernels was made of other sources: structs that kernels take are those of the
# sources here, or nothing fits. Machine code does not say what it was made of.
function(gptoss_check_kernels kernels sources headers)
  file(READ ${kernels} magic LIMIT 4 HEX)
  if(NOT magic STREQUAL 50ed55ba)
    message(FATAL_ERROR "GPTOSS_CUDA_FATBIN: ${kernels} is no fat binary: expected it to begin with "
      "50ed55ba, got \"${magic}\"")
  endif()
  file(STRINGS ${kernels} made_of REGEX "gptoss kernels of ")
  if(NOT made_of)
    message(FATAL_ERROR "GPTOSS_CUDA_FATBIN: ${kernels} does not say which sources it was made of: "
      "expected PTX of gptoss's kernels in it, not compressed; GPTOSS_CUDA_ARCHITECTURES=compute_80 "
      "has some")
  endif()
  list(JOIN made_of "\n" made_of)
  foreach(source ${sources})
    gptoss_kernels_digest(${source} "${headers}" digest)
    string(FIND "${made_of}" "${digest}" at)
    if(at EQUAL -1)
      message(FATAL_ERROR "GPTOSS_CUDA_FATBIN: ${kernels} was not made of these sources: "
        "expected \"${digest}\" in it; tools/build_fatbin makes it anew")
    endif()
  endforeach()
endfunction()
