// How tests steer and observe the emulated NPU. One language of words, three ways in: emulated_npu::control() from a
// test that links the library (emulated_npu_dep), the environment variable EMULATED_NPU read once at start, and the
// command line tool emulated-npu. Words are separated by blanks; README.md lists them.
#pragma once

extern "C" {
long emulated_npu_control(const char* words);
const char* emulated_npu_last_message();
}

namespace emulated_npu {

// Carries out each word and returns the value of the last: a counter's value, 0 for a setting or an action, -1 for what
// is not understood. Callable from any thread.
inline long control(const char* words) { return emulated_npu_control(words); }

// Why the last command failed, in words; empty if none has failed since the word "clear". Valid until the calling
// thread asks again.
inline const char* last_message() { return emulated_npu_last_message(); }

}  // namespace emulated_npu
