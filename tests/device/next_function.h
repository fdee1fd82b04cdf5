// The C library's functions behind those that this library interposes.
#pragma once

#include <dlfcn.h>

#include <atomic>

// Declares `next`: the function of that name after this library's, as a `type`. It is kept without a lock, as one of a
// static variable's initialization would be: dlsym() waits for the loader, and who holds that may be in the constructor
// of a library that calls the same function.
#define NEXT_AS(type, name)                              \
  static std::atomic<void*> known_next{nullptr};         \
  if (!known_next) known_next = dlsym(RTLD_NEXT, #name); \
  const auto next = reinterpret_cast<type>(known_next.load())
#define NEXT(name) NEXT_AS(decltype(&::name), name)
