# CUDA sources as C++ on the CPU; README.md says what for.
#
#   longlora_emulated(TARGET)                        .cu files of a library that is there, with the emulator's headers
#   longlora_emulated_library(TARGET SOURCES...)      a static library of .cu and .cpp files, the same way
#
# Who links such a library has the emulator's headers as well.
set(LONGLORA_EMULATOR_DIR ${CMAKE_CURRENT_LIST_DIR})

file(GLOB emulator_sources CONFIGURE_DEPENDS ${LONGLORA_EMULATOR_DIR}/*.cpp)
add_library(longlora_emulator STATIC ${emulator_sources})
target_link_libraries(longlora_emulator PUBLIC longlora_flags)
target_include_directories(longlora_emulator BEFORE PUBLIC ${LONGLORA_EMULATOR_DIR})

function(longlora_emulated target)
  # Before all others, so that kernels/cuda/machine.cuh is the emulator's.
  target_include_directories(${target} BEFORE PUBLIC ${LONGLORA_EMULATOR_DIR})
  target_compile_definitions(${target} PUBLIC LONGLORA_CUDA=1 LONGLORA_CUDA_EMULATED=1)
  # A GPU's memory has no types: what was stored as 16 bytes is read as floats.
  target_compile_options(${target} PUBLIC -fno-strict-aliasing)
  # GCC's remark that parameters as far aligned as a tensor map were passed in another way before 4.6.
  target_compile_options(${target} PUBLIC -Wno-psabi)
  target_link_libraries(${target} PUBLIC longlora_emulator)
  get_target_property(sources ${target} SOURCES)
  list(FILTER sources INCLUDE REGEX "\\.cu$")
  if(sources)
    set_source_files_properties(${sources} PROPERTIES LANGUAGE CXX)    # in this directory only
  endif()
endfunction()

function(longlora_emulated_library target)
  add_library(${target} STATIC ${ARGN})
  longlora_emulated(${target})
endfunction()
