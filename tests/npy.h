// Reads the arrays that NumPy saves (.npy, format 1.0) from tests/data: float32, int32 or int16,
// little-endian, C order. Anything else, or a file of the wrong size, throws: a test must not go on
// with data it did not ask for.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

template <typename T>
struct Npy {
  std::vector<int64_t> shape;
  std::vector<T> data;
};

// `path` is relative to tests/data.
template <typename T>
Npy<T> load_npy(const std::string& path) {
  static_assert(std::is_same<T, float>::value || std::is_same<T, int32_t>::value ||
                    std::is_same<T, int16_t>::value,
                "float, int32_t or int16_t");
  const char* root = std::getenv("WHISPERXDNA2_TEST_DATA");
  if (!root)
    throw std::runtime_error("WHISPERXDNA2_TEST_DATA is not set: run the test through meson test");
  const std::string full = std::string(root) + "/" + path;
  const auto refuse = [&full](const std::string& why) {
    throw std::runtime_error(full + ": " + why);
  };

  // No streams: <fstream> does not compile after Check's header, which defines a macro `fail`.
  const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(full.c_str(), "rb"), std::fclose);
  if (!file) refuse("cannot be opened");
  std::string bytes;
  char block[65536];
  while (const size_t got = std::fread(block, 1, sizeof block, file.get()))
    bytes.append(block, got);
  if (bytes.size() < 10 || bytes.compare(0, 8, std::string("\x93NUMPY\x01\x00", 8)) != 0)
    refuse("not a .npy file of format 1.0");
  const size_t header_size = static_cast<uint8_t>(bytes[8]) | static_cast<uint8_t>(bytes[9]) << 8;
  if (bytes.size() < 10 + header_size) refuse("header cut short");
  const std::string header = bytes.substr(10, header_size);

  const std::string type = std::is_same<T, float>::value ? "<f4" : sizeof(T) == 4 ? "<i4" : "<i2";
  if (header.find("'descr': '" + type + "'") == std::string::npos) refuse("not of type " + type);
  if (header.find("'fortran_order': False") == std::string::npos) refuse("not in C order");
  const std::string key = "'shape': (";
  const size_t shape_begin = header.find(key);
  const size_t shape_end = header.find(')', shape_begin == std::string::npos ? 0 : shape_begin);
  if (shape_begin == std::string::npos || shape_end == std::string::npos) refuse("no shape");

  Npy<T> array;
  uint64_t count = 1;
  const char* at = header.c_str() + shape_begin + key.size();
  while (at < header.c_str() + shape_end) {
    if (*at == ',' || *at == ' ') {
      ++at;
      continue;
    }
    char* next;
    const long long extent = std::strtoll(at, &next, 10);
    if (next == at || extent < 0) refuse("bad shape");
    array.shape.push_back(extent);
    if (extent != 0 && count > bytes.size() / extent) refuse("shape larger than the file");
    count *= extent;
    at = next;
  }
  const size_t data_begin = 10 + header_size;
  if (bytes.size() - data_begin != count * sizeof(T)) refuse("size does not match the shape");
  array.data.resize(count);
  if (count) std::memcpy(array.data.data(), bytes.data() + data_begin, count * sizeof(T));
  return array;
}
