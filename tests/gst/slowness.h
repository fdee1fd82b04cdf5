// For the programs that run the element, on the scripted engine or on the real one.
#pragma once

#include <cstdlib>

// By how much longer than usual things may take here: $WHISPERXDNA2_SLOWNESS, for sanitizers and memcheck.
inline int slowness() {
  const char* factor = std::getenv("WHISPERXDNA2_SLOWNESS");
  return factor ? std::atoi(factor) : 1;
}
