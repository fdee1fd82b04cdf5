// Memory of a model's tensors, which can be given back and filled again.
#pragma once

#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "whisper/checkpoint.h"

namespace whisperxdna2 {

// Tensors one after another in anonymous memory, each aligned to 64 bytes.
class WeightPages : public std::enable_shared_from_this<WeightPages> {
 public:
  WeightPages() = default;
  ~WeightPages();
  WeightPages(const WeightPages&) = delete;
  WeightPages& operator=(const WeightPages&) = delete;

  // Appends a tensor that is to be kept as `slot->dtype` with `slot->shape`. `slot` gets its data in fill().
  void add(const std::string& name, const StoredTensor& stored, Tensor* slot);
  uint64_t bytes() const { return bytes_; }

  // Takes the memory and reads all tensors. Throws Error: kInvalidFile (NaN or infinity, a file that shrank), kNoResource.
  // `count` is told how many bytes each tensor took, and may throw.
  void fill(const std::function<void(uint64_t)>& count);
  // XXH3-128 in hex over names, types, shapes and values.
  const std::string& digest() const { return digest_; }

  // See Model::hold_encoder_weights().
  std::shared_ptr<const void> hold();

 private:
  struct Entry {
    std::string name;
    StoredTensor stored;
    DType dtype;
    std::vector<int> shape;
    uint64_t offset;  // in the memory
    Tensor* slot;     // told its data by fill()
  };

  std::string read_all(const std::function<void(uint64_t)>& count);
  void release();

  std::vector<Entry> entries_;
  uint64_t bytes_ = 0;
  char* memory_ = nullptr;
  std::string digest_;
  std::mutex mutex_;  // guards what follows, and the memory's protection
  int holders_ = 0;
  bool present_ = false;
};

}  // namespace whisperxdna2
