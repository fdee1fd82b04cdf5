// A vocabulary file from arbitrary bytes; the first one chooses which.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "whisper/error.h"
#include "whisper/vocabulary.h"

using namespace whisperxdna2;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::string directory = [] {
    char pattern[] = "/dev/shm/whisperxdna2-fuzz-XXXXXX";
    if (!mkdtemp(pattern)) std::abort();
    static std::string path = pattern;
    std::atexit([] { rmdir(path.c_str()); });
    return path;
  }();
  static const char* const names[] = {"vocabulary.txt", "vocabulary.json", "tokenizer.json",
                                      "vocab.json"};
  if (size == 0) return 0;
  const std::string path = directory + "/" + names[data[0] & 3];
  std::FILE* file = std::fopen(path.c_str(), "w");
  if (!file || std::fwrite(data + 1, 1, size - 1, file) != size - 1) std::abort();
  std::fclose(file);
  try {
    if (read_vocabulary(directory, 51865).size() > 51865) std::abort();
  } catch (const Error& error) {
    if (!*error.what()) std::abort();
  }
  unlink(path.c_str());
  return 0;
}
