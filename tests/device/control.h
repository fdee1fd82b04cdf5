// How tests steer and observe the emulated NPU. One language of words, three ways in: emulated_npu::control() from a test
// that has the library linked or preloaded, the environment variable EMULATED_NPU read once at start, and the command
// line tool emulated-npu. Words are separated by blanks; README.md lists them.
#pragma once

#include <dlfcn.h>

namespace emulated_npu {

// Carries out each word and returns the value of the last: a counter's value, 0 for a setting or an action, -1 for what
// is not understood or where the library is not loaded. Callable from any thread.
inline long control(const char* words) {
  using Function = long (*)(const char*);
  const auto function = reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, "emulated_npu_control"));
  return function ? function(words) : -1;
}

// Why the last command failed, in words; empty if none has failed since the word "clear". Valid until the calling thread
// asks again.
inline const char* last_message() {
  using Function = const char* (*)();
  const auto function = reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, "emulated_npu_last_message"));
  return function ? function() : "the emulated NPU is not loaded";
}

}  // namespace emulated_npu
