#include "whisper/derived_file.h"

#include <unistd.h>
#include <zlib.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "whisper/model.h"

namespace whisperxdna2 {
namespace {

struct Header {
  char magic[8];
  uint64_t size;
  uint32_t crc;
  uint32_t reserved;
};
static_assert(sizeof(Header) == 24);
constexpr char kMagic[8] = {'W', 'X', 'D', '2', 'D', 'R', 'V', '1'};
constexpr uint64_t kLargest = uint64_t{4} << 30;

uint32_t checksum(const std::string& payload) {
  return static_cast<uint32_t>(
      crc32_z(crc32_z(0, nullptr, 0), reinterpret_cast<const Bytef*>(payload.data()), payload.size()));
}

}  // namespace

std::string derived_path(const std::string& content_key, const std::string& kind, int version) {
  return cache_directory() + "/derived/" + content_key + "-" + kind + "-v" + std::to_string(version);
}

std::optional<std::string> read_derived(const std::string& content_key, const std::string& kind, int version) {
  return read_derived_at(derived_path(content_key, kind, version));
}

std::optional<std::string> read_derived_at(const std::string& path) {
  try {
    std::error_code ec;
    const uintmax_t file_size = std::filesystem::file_size(path, ec);
    if (ec || file_size < sizeof(Header) || file_size > kLargest) return std::nullopt;
    std::ifstream in(path, std::ios::binary);
    Header h;
    if (!in.read(reinterpret_cast<char*>(&h), sizeof h)) return std::nullopt;
    if (std::memcmp(h.magic, kMagic, sizeof kMagic) != 0 || h.size != file_size - sizeof h) return std::nullopt;
    std::string payload(h.size, '\0');
    if (!in.read(payload.data(), static_cast<std::streamsize>(h.size)) || checksum(payload) != h.crc) {
      return std::nullopt;
    }
    return payload;
  } catch (const std::exception&) {
    return std::nullopt;
  }
}

std::string write_derived(const std::string& content_key, const std::string& kind, int version,
                          const std::string& payload) {
  return write_derived_at(derived_path(content_key, kind, version), payload);
}

std::string write_derived_at(const std::string& name, const std::string& payload) {
  std::error_code ec;
  const std::filesystem::path path = name;
  std::filesystem::create_directories(path.parent_path(), ec);
  if (ec) return "cannot create " + path.parent_path().string() + ": " + ec.message();

  std::string temporary = path.string() + ".XXXXXX";
  const int fd = mkstemp(temporary.data());
  if (fd < 0) return "cannot write " + path.string() + ": " + std::generic_category().message(errno);
  Header h{};
  std::memcpy(h.magic, kMagic, sizeof kMagic);
  h.size = payload.size();
  h.crc = checksum(payload);
  int error = 0;
  const auto write_all = [&](const char* data, size_t size) {
    while (size > 0 && error == 0) {
      const ssize_t n = write(fd, data, size);
      if (n < 0) {
        if (errno != EINTR) error = errno;
        continue;
      }
      data += n;
      size -= static_cast<size_t>(n);
    }
  };
  write_all(reinterpret_cast<const char*>(&h), sizeof h);
  write_all(payload.data(), payload.size());
  if (close(fd) != 0 && error == 0) error = errno;
  if (error == 0 && rename(temporary.c_str(), path.c_str()) != 0) error = errno;
  if (error == 0) return "";
  unlink(temporary.c_str());
  return "cannot write " + path.string() + ": " + std::generic_category().message(error);
}

}  // namespace whisperxdna2
