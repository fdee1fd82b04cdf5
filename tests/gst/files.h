// Files for pipelines to read and write.
#pragma once

#include <glib.h>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

inline std::string make_directory() {
  gchar* path = g_dir_make_tmp("whisperxdna2-XXXXXX", nullptr);
  const std::string directory = path;
  g_free(path);
  return directory;
}

inline std::string contents(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream all;
  all << in.rdbuf();
  return all.str();
}

inline void write_file(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

// 16 kHz, mono, 16 bits.
inline void write_wav(const std::string& path, const std::vector<float>& samples) {
  std::string wav;
  const auto put = [&wav](uint32_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) wav += static_cast<char>(value >> (8 * i));
  };
  const uint32_t size = static_cast<uint32_t>(samples.size() * 2);
  wav += "RIFF";
  put(36 + size, 4);
  wav += "WAVEfmt ";
  put(16, 4);
  put(1, 2);  // PCM
  put(1, 2);
  put(16000, 4);
  put(32000, 4);
  put(2, 2);
  put(16, 2);
  wav += "data";
  put(size, 4);
  for (float x : samples) put(static_cast<uint16_t>(std::lround(x * 32768)), 2);
  write_file(path, wav);
}
