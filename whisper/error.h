// The one exception type that leaves this library.
#pragma once

#include <stdexcept>
#include <string>

namespace whisperxdna2 {

// What went wrong, in the terms a caller can act on. The element maps each to a GStreamer error domain and code.
enum class ErrorCode {
  kNotFound,     // a file, model or device that was named does not exist
  kInvalidFile,  // a file is truncated, foreign or contradicts itself; the message names the tensor and the offset
  kUnsupported,  // well-formed, but of a kind that is refused (for example a pickle file, or an XDNA1 device)
  kNoResource,   // out of memory, disk, contexts or permissions
  kDevice,       // a device failed, timed out or vanished while working
  kInterrupted,  // the caller asked the operation to stop; never shown to a user
  kInvalidUse,   // a programming error of the caller
};

// `what()` is one sentence that names the thing and says what to do. Thrown by value, caught by reference.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace whisperxdna2
