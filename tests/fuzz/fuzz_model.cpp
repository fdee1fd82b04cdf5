// A model file from arbitrary bytes. FORMAT is 0 for CTranslate2, 1 for ggml, 2 for Hugging Face.
//
// The input is expanded first, so that small inputs can describe whole models: pieces of u16 length, that many bytes,
// u24 number of zeros (a hole in the file).
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/fuzz/allocated.h"
#include "whisper/checkpoint.h"
#include "whisper/weight_pages.h"

using namespace whisperxdna2;

namespace {

constexpr off_t kMaxFile = 32 << 20;

[[noreturn]] void give_up(const char* what) {
  std::perror(what);
  std::abort();
}

void write_all(int descriptor, const void* data, size_t size, off_t at) {
  if (pwrite(descriptor, data, size, at) != static_cast<ssize_t>(size)) give_up("pwrite");
}

// 50257 distinct text tokens and none of the control tokens.
std::vector<std::string> synthetic_vocabulary() {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  for (int i = 256; i < 50256; ++i)
    tokens.push_back({static_cast<char>((i - 256) >> 8), static_cast<char>(i & 255)});
  tokens.emplace_back();
  return tokens;
}

// A directory in memory with everything but the weights; removed when the process ends.
class Directory {
 public:
  Directory() {
    char pattern[] = "/dev/shm/whisperxdna2-fuzz-XXXXXX";
    if (!mkdtemp(pattern)) give_up(pattern);
    path_ = pattern;
    // As in make_models.py.
    put("config.json",
        R"({"model_type": "whisper", "d_model": 64, "encoder_layers": 1, "decoder_layers": 1,
            "encoder_attention_heads": 1, "decoder_attention_heads": 1, "num_mel_bins": 80, "vocab_size": 51865,
            "max_source_positions": 1500, "max_target_positions": 448, "alignment_heads": [[0, 0]]})");
    put("vocabulary.txt", "!\n");
    weights_ = path_ + (FORMAT == 2 ? "/model.safetensors" : "/model.bin");
    descriptor_ = open(weights_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (descriptor_ < 0) give_up(weights_.c_str());
  }
  ~Directory() {
    close(descriptor_);
    for (const char* name : {"/config.json", "/vocabulary.txt", "/model.safetensors", "/model.bin"})
      unlink((path_ + name).c_str());
    rmdir(path_.c_str());
  }

  void expand(const uint8_t* data, size_t size) const {
    if (ftruncate(descriptor_, 0) != 0) give_up("ftruncate");
    off_t at = 0;
    while (size >= 2 && at < kMaxFile) {
      size_t length = data[0] | data[1] << 8;
      data += 2, size -= 2;
      if (length > size) length = size;
      write_all(descriptor_, data, length, at);
      at += static_cast<off_t>(length);
      data += length, size -= length;
      if (size < 3) break;
      at += data[0] | data[1] << 8 | data[2] << 16;
      data += 3, size -= 3;
    }
    if (ftruncate(descriptor_, at < kMaxFile ? at : kMaxFile) != 0) give_up("ftruncate");
  }

  const std::string& path() const { return path_; }
  const std::string& weights() const { return weights_; }

 private:
  void put(const char* name, const std::string& text) {
    std::FILE* file = std::fopen((path_ + "/" + name).c_str(), "w");
    if (!file || std::fwrite(text.data(), 1, text.size(), file) != text.size()) give_up(name);
    std::fclose(file);
  }

  std::string path_, weights_;
  int descriptor_;
};

Checkpoint read(const Directory& directory) {
#if FORMAT == 0
  return read_ct2(directory.path());
#elif FORMAT == 1
  return read_ggml(directory.weights());
#else
  return read_hugging_face(directory.path());
#endif
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Directory directory;
  static const std::vector<std::string> vocabulary = synthetic_vocabulary();
  directory.expand(data, size);
  struct stat status;
  if (stat(directory.weights().c_str(), &status) != 0) give_up("stat");
  // Only ggml has block formats, of four and five bits, which become sixteen: up to 3.6 times as much (weight_pages.h).
  const uint64_t limit =
      (FORMAT == 1 ? 4 : 2) * static_cast<uint64_t>(status.st_size) + (64 << 20);
  const Allocated allocated;
  uint64_t pages = 0;
  try {
    Checkpoint checkpoint = read(directory);
    checkpoint.vocabulary = vocabulary;
    const auto model = build_model(std::move(checkpoint), directory.path());
    pages = model->encoder_pages->bytes() + model->decoder_pages->bytes();
    model->hold_encoder_weights().reset();
    model->hold_decoder_weights().reset();
  } catch (const Error& error) {
    if (!*error.what()) std::abort();
  }
  if (allocated.most() + pages > limit) std::abort();
  return 0;
}
