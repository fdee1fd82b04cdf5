// One of the small files of a model's directory from arbitrary bytes; the first byte chooses which.
// The others are those of a Hugging Face model in parts, with two tensors, which its reader
// accepts.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "tests/fuzz/allocated.h"
#include "whisper/checkpoint.h"
#include "whisper/error.h"
#include "whisper/vocabulary.h"

using namespace whisperxdna2;

namespace {

const char* const kVocabularies[] = {"vocabulary.txt", "vocabulary.json", "tokenizer.json",
                                     "vocab.json"};
const char* const kOthers[] = {"config.json", "generation_config.json",
                               "model.safetensors.index.json"};
constexpr char kShard[] = "model-00001-of-00001.safetensors";

// In memory; removed when the process ends.
class Directory {
 public:
  Directory() {
    char pattern[] = "/dev/shm/whisperxdna2-fuzz-XXXXXX";
    if (!mkdtemp(pattern)) std::abort();
    path_ = pattern;
    std::string shard =
        R"({"model.encoder.conv1.bias":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},)"
        R"("model.encoder.conv2.bias":{"dtype":"F16","shape":[2],"data_offsets":[4,8]}})";
    const uint64_t length = shard.size();
    shard.insert(0, reinterpret_cast<const char*>(&length), sizeof length);
    put(kShard, shard + "datadata");
  }
  ~Directory() {
    for (const char* name : kVocabularies) remove(name);
    for (const char* name : kOthers) remove(name);
    remove(kShard);
    rmdir(path_.c_str());
  }

  // All of them as they should be.
  void restore() const {
    for (const char* name : kVocabularies) remove(name);
    put("vocab.json", R"({"!": 0, "a": 1})");
    put("config.json",
        R"({"model_type": "whisper", "d_model": 64, "encoder_layers": 1, "decoder_layers": 1,
            "encoder_attention_heads": 1, "decoder_attention_heads": 1, "num_mel_bins": 80, "vocab_size": 51865,
            "max_source_positions": 1500, "max_target_positions": 448})");
    put("generation_config.json",
        R"({"alignment_heads": [[0, 0]], "no_timestamps_token_id": 50363})");
    put("model.safetensors.index.json",
        R"({"weight_map": {"model.encoder.conv1.bias": "model-00001-of-00001.safetensors"}})");
  }
  void put(const std::string& name, const std::string& data) const {
    std::FILE* file = std::fopen((path_ + "/" + name).c_str(), "w");
    if (!file || std::fwrite(data.data(), 1, data.size(), file) != data.size()) std::abort();
    std::fclose(file);
  }
  void remove(const char* name) const { unlink((path_ + "/" + name).c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Directory directory;
  if (size == 0) return 0;
  const int which = data[0] % 7;
  directory.restore();
  if (which < 4) directory.remove("vocab.json");
  directory.put(which < 4 ? kVocabularies[which] : kOthers[which - 4],
                std::string(reinterpret_cast<const char*>(data + 1), size - 1));
  const Allocated allocated;
  try {
    if (which < 4) {
      if (read_vocabulary(directory.path(), 51865).size() > 51865) std::abort();
    } else {
      read_hugging_face(directory.path());
    }
  } catch (const Error& error) {
    if (!*error.what()) std::abort();
  }
  if (allocated.most() > 2 * size + (64 << 20)) std::abort();
  return 0;
}
