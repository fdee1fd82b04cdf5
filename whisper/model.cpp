#include "whisper/model.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "whisper/checkpoint.h"
#include "whisper/prepared.h"
#include "whisper/weight_pages.h"

namespace whisperxdna2 {
namespace {

// Identifies what a path held when it was loaded. For a directory, the file of weights counts.
struct FileKey {
  std::string path;
  dev_t device = 0;
  ino_t inode = 0;
  off_t size = 0;
  int64_t modified = 0;  // ns

  bool operator<(const FileKey& other) const {
    return std::tie(path, device, inode, size, modified) <
           std::tie(other.path, other.device, other.inode, other.size, other.modified);
  }
};

// The models in use. A slot's mutex is held while its model is loaded, so that a second thread waits for the first one
// and different models load at the same time.
struct Slot {
  std::timed_mutex mutex;
  std::weak_ptr<const Model> model;
};

struct Cache {
  std::mutex mutex;
  std::map<FileKey, std::shared_ptr<Slot>> slots;

  static Cache& instance() {
    static Cache* cache = new Cache;  // outlives every thread
    return *cache;
  }

  std::shared_ptr<Slot> slot(const FileKey& key) {
    const std::lock_guard<std::mutex> lock(mutex);
    for (auto entry = slots.begin(); entry != slots.end();) {
      // Nobody loads it (the only reference is this one) and nobody holds it.
      const bool dead = entry->second.use_count() == 1 && entry->second->model.expired();
      entry = dead ? slots.erase(entry) : std::next(entry);
    }
    std::shared_ptr<Slot>& found = slots[key];
    if (!found) found = std::make_shared<Slot>();
    return found;
  }
};

std::string with_advice(const std::string& message) {
  return message +
         ". `whisperxdna2-fetch-model base` (in the source tree: `tools/fetch-model base`) fetches a "
         "model; model-path names another one";
}

constexpr char kConversion[] =
    "Convert it: `ct2-transformers-converter --model DIR --output_dir OUT --quantization float16 "
    "--copy_files tokenizer.json` for a Hugging Face directory, whisper.cpp's "
    "models/convert-pt-to-ggml.py for OpenAI's .pt";

// Where the weights are and who reads them.
struct Found {
  std::string weights;
  Checkpoint (*read)(const std::string& path);
};

bool exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

Found find_in_directory(const std::string& path) {
  if (exists(path + "/model.bin")) return {path + "/model.bin", read_ct2};
  if (exists(path + "/model.safetensors")) return {path + "/model.safetensors", read_hugging_face};
  const std::string index = path + "/model.safetensors.index.json";
  if (exists(index)) return {index, read_hugging_face};
  for (const char* name : {"/pytorch_model.bin", "/pytorch_model.bin.index.json"})
    if (exists(path + name))
      throw Error(ErrorCode::kUnsupported,
                  path + name + " is a Python pickle, which may execute code and is not read. " +
                      kConversion);
  throw Error(
      ErrorCode::kNotFound,
      with_advice("There is no model in " + path +
                  ": neither model.bin (CTranslate2) nor model.safetensors " + "(Hugging Face)"));
}

Found find_in_file(const std::string& path) {
  const ByteSource source(path);
  std::string head(std::min<uint64_t>(source.size(), 17), '\0');
  source.read(0, head.data(), head.size());
  const auto starts = [&](const std::string& magic, size_t at = 0) {
    return head.size() >= at + magic.size() && head.compare(at, magic.size(), magic) == 0;
  };
  if (starts("lmgg")) return {path, read_ggml};
  const size_t slash = path.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash);
  const auto refuse = [&](const std::string& what) {
    throw Error(ErrorCode::kUnsupported, path + " is " + what);
  };
  if (starts("WhisperSpec", 6))
    refuse("the weights of a CTranslate2 directory: name the directory, " + directory);
  if (starts("{\"", 8)) refuse("a safetensors file: name its directory, " + directory);
  if (starts("PK\x03\x04") || starts("\x80\x02"))
    refuse(std::string("a Python pickle, which may execute code and is not read. ") + kConversion);
  if (starts("GGUF"))
    refuse("a GGUF file; Whisper's ggml format is another one (whisper.cpp's models/README.md)");
  throw Error(
      ErrorCode::kInvalidFile,
      with_advice(
          path +
          " is no Whisper model: neither a ggml file nor a directory in the CTranslate2 or " +
          "Hugging Face format"));
}

Found find_weights(const std::string& path) {
  struct stat status;
  if (stat(path.c_str(), &status) != 0)
    throw Error(errno == EACCES ? ErrorCode::kNoResource : ErrorCode::kNotFound,
                with_advice("There is no model at " + path + ": " + std::strerror(errno)));
  return S_ISDIR(status.st_mode) ? find_in_directory(path) : find_in_file(path);
}

FileKey key_of(const std::string& path, const std::string& weights) {
  struct stat status;
  if (stat(weights.c_str(), &status) != 0)
    throw Error(ErrorCode::kNotFound, weights + ": " + std::strerror(errno));
  return {path, status.st_dev, status.st_ino, status.st_size,
          static_cast<int64_t>(status.st_mtim.tv_sec) * 1000000000 + status.st_mtim.tv_nsec};
}

std::string home_directory() {
  const char* home = std::getenv("HOME");
  return home && *home ? home : "/";
}

}  // namespace

int64_t Tensor::elements() const {
  int64_t product = 1;
  for (const int size : shape) product *= size;
  return product;
}

void Tensor::each_chunk(
    const std::function<void(int64_t first, int64_t count, const float* values)>& take) const {
  if (pages) return pages->each_chunk(index, take);
  std::vector<float> values(static_cast<size_t>(elements()));
  const Storage storage = dtype == DType::kF32   ? Storage::kF32
                          : dtype == DType::kF16 ? Storage::kF16
                                                 : Storage::kBF16;
  whisperxdna2::to_f32(storage, data, elements(), values.data());
  take(0, elements(), values.data());
}

std::vector<float> Tensor::to_f32() const {
  std::vector<float> all;
  all.reserve(static_cast<size_t>(elements()));
  each_chunk([&](int64_t, int64_t count, const float* values) { all.insert(all.end(), values, values + count); });
  return all;
}

std::shared_ptr<const void> Model::hold_encoder_weights() const {
  return encoder_pages ? encoder_pages->hold() : nullptr;  // null: made by hand, in a test
}

std::shared_ptr<const void> Model::hold_decoder_weights() const {
  return decoder_pages ? decoder_pages->hold() : nullptr;
}

std::shared_ptr<const Model> load_model(const std::string& path,
                                        const std::function<void(double)>& progress,
                                        const std::atomic<bool>* cancel) {
  const std::string stopped = "Loading " + path + " was stopped";
  const auto check = [&] {
    if (cancel && *cancel) throw Error(ErrorCode::kInterrupted, stopped);
  };
  const Found found = find_weights(path);
  const std::shared_ptr<Slot> slot = Cache::instance().slot(key_of(path, found.weights));
  check();
  const std::unique_lock<std::timed_mutex> lock = lock_unless_canceled(slot->mutex, cancel, stopped);
  if (std::shared_ptr<const Model> model = slot->model.lock()) return model;
  std::shared_ptr<const Model> model = build_model(found.read(path), path, [&](double fraction) {
    check();
    if (progress) progress(fraction);
  });
  slot->model = model;
  return model;
}

std::string cache_directory() {
  // A relative path is to be ignored (XDG Base Directory Specification).
  const char* base = std::getenv("XDG_CACHE_HOME");
  const std::string root = base && base[0] == '/' ? base : home_directory() + "/.cache";
  return root + "/whisperxdna2";
}

std::string default_model_path() { return cache_directory() + "/models/base"; }

}  // namespace whisperxdna2
