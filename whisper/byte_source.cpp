#include "whisper/byte_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace whisperxdna2 {
namespace {

int64_t modified_at(const struct stat& status) {
  return static_cast<int64_t>(status.st_mtim.tv_sec) * 1000000000 + status.st_mtim.tv_nsec;
}

}  // namespace

ByteSource::ByteSource(std::string path) : path_(std::move(path)) {
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  descriptor_ = open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor_ < 0) {
    const int error = errno;
    const bool missing = error == ENOENT || error == ENOTDIR || error == ELOOP;
    throw Error(missing ? ErrorCode::kNotFound : ErrorCode::kNoResource,
                path_ + " cannot be opened: " + std::strerror(error));
  }
  struct stat status;
  if (fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
    close(descriptor_);
    throw Error(ErrorCode::kUnsupported, path_ + " is not a regular file");
  }
  size_ = static_cast<uint64_t>(status.st_size);
  modified_ = modified_at(status);
}

ByteSource::~ByteSource() { close(descriptor_); }

void ByteSource::read(uint64_t offset, void* to, uint64_t count) const {
  if (offset > size_ || count > size_ - offset)
    throw Error(ErrorCode::kInvalidFile, path_ + ": bytes " + std::to_string(offset) + " to " +
                                             std::to_string(offset + count) +
                                             " lie beyond its end");
  char* out = static_cast<char*>(to);
  while (count > 0) {
    const ssize_t got = pread(descriptor_, out, count, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0)
      throw Error(ErrorCode::kNoResource, path_ + " cannot be read: " + std::strerror(errno));
    if (got == 0)
      throw Error(ErrorCode::kInvalidFile, path_ + " became shorter while it was being read");
    out += got;
    offset += static_cast<uint64_t>(got);
    count -= static_cast<uint64_t>(got);
  }
}

void ByteSource::expect_unchanged() const {
  struct stat status;
  if (fstat(descriptor_, &status) != 0 || static_cast<uint64_t>(status.st_size) != size_ ||
      modified_at(status) != modified_)
    throw Error(ErrorCode::kInvalidFile, path_ + " changed while it was being read; try again");
}

std::string printable(const std::string& text) {
  std::string result = text;
  std::replace_if(
      result.begin(), result.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return result;
}

std::string read_text_file(const std::string& path, uint64_t limit) {
  const ByteSource source(path);
  if (source.size() > limit)
    throw Error(ErrorCode::kInvalidFile, path + " has " + std::to_string(source.size()) +
                                             " bytes; at most " + std::to_string(limit) +
                                             " are expected");
  std::string text(source.size(), '\0');
  source.read(0, text.data(), text.size());
  return text;
}

void Reader::fail(const std::string& message) const {
  throw Error(ErrorCode::kInvalidFile,
              source_.path() + ": " + message + " (at byte " + std::to_string(position_) + ")");
}

const char* Reader::take(uint64_t count, const char* what) {
  if (count > left()) fail(std::string("the file ends inside the ") + what);
  if (position_ < ahead_begin_ || position_ + count > ahead_begin_ + ahead_.size()) {
    ahead_.resize(std::min(kAhead, left()));
    ahead_begin_ = position_;
    source_.read(position_, ahead_.data(), ahead_.size());
  }
  const char* at = ahead_.data() + (position_ - ahead_begin_);
  position_ += count;
  return at;
}

std::string Reader::text(uint64_t length, uint64_t limit, const char* what) {
  if (length > std::min(limit, kAhead))
    fail(std::string("the ") + what + " claims " + std::to_string(length) + " bytes");
  const char* at = take(length, what);
  return std::string(at, length);
}

std::string Reader::name(uint64_t length, uint64_t limit, const char* what) {
  std::string name = text(length, limit, what);
  if (name.empty() || name != printable(name))
    fail(std::string("the ") + what + " is \"" + printable(name) + "\"");
  return name;
}

void Reader::skip(uint64_t count, const std::string& what) {
  if (count > left()) fail("the file ends inside " + what);
  position_ += count;
}

}  // namespace whisperxdna2
