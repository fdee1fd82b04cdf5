// Bounded reading of untrusted files.
//
// Files are read with pread(2) into memory of our own and never mapped: a mapping of a file that somebody truncates
// raises SIGBUS in whatever process maps it, and the tensors of a CTranslate2 file lie at odd addresses, where neither
// SIMD nor C++ may read them as numbers. The copy costs 0.04 s for Whisper base. The descriptor stays open, so a file
// that is removed or replaced while in use goes on to be what it was; one that shrinks or changes in place is an Error.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "whisper/error.h"

namespace whisperxdna2 {

// One open regular file. Thread-safe.
class ByteSource {
 public:
  // Throws Error: kNotFound, kNoResource (permissions, descriptors), kUnsupported where `path` is no regular file.
  explicit ByteSource(std::string path);
  ~ByteSource();
  ByteSource(const ByteSource&) = delete;
  ByteSource& operator=(const ByteSource&) = delete;

  const std::string& path() const { return path_; }
  // When it was opened.
  uint64_t size() const { return size_; }

  // Copies bytes [offset, offset + count). Throws Error(kInvalidFile) where they are not all in the file (any more).
  void read(uint64_t offset, void* to, uint64_t count) const;

  // Throws Error(kInvalidFile) where it has been written to since it was opened.
  void expect_unchanged() const;

 private:
  std::string path_;
  int descriptor_;
  uint64_t size_;
  int64_t modified_;  // ns
};

// `text` with everything but printable ASCII replaced by '?': what a file says, fit for a message.
std::string printable(const std::string& text);

// The whole of a small file. Throws Error(kInvalidFile) where it is larger than `limit` bytes.
std::string read_text_file(const std::string& path, uint64_t limit);

// A cursor over a ByteSource for little-endian fields. Every access is checked against the end of the file before
// anything is allocated; `what` names the field in the message.
class Reader {
 public:
  explicit Reader(const ByteSource& source) : source_(source) {}

  uint64_t position() const { return position_; }
  uint64_t left() const { return source_.size() - position_; }

  template <typename T>
  T get(const char* what) {
    static_assert(std::is_arithmetic_v<T>);
    T value;
    std::memcpy(&value, take(sizeof(T), what), sizeof(T));
    return value;
  }
  // `length` bytes. Throws Error(kInvalidFile) also where length > limit.
  std::string text(uint64_t length, uint64_t limit, const char* what);
  // A text of at least one byte, all of them printable ASCII.
  std::string name(uint64_t length, uint64_t limit, const char* what);
  void skip(uint64_t count, const std::string& what);

  // Throws Error(kInvalidFile): "PATH: MESSAGE (at byte N)".
  [[noreturn]] void fail(const std::string& message) const;

 private:
  // Points to `count` bytes (at most kAhead) and moves on.
  const char* take(uint64_t count, const char* what);

  static constexpr uint64_t kAhead = 1 << 13;
  const ByteSource& source_;
  uint64_t position_ = 0;
  std::vector<char> ahead_;  // bytes from ahead_begin_ on
  uint64_t ahead_begin_ = 0;
};

}  // namespace whisperxdna2
