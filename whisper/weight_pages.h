// A model's tensors in their files, and in memory while somebody holds them.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "whisper/checkpoint.h"

namespace whisperxdna2 {

// When held, tensors lie one after another in anonymous memory, each aligned to 64 bytes: f32, f16 and bf16 as in the
// file, all else as f16. So int8 takes twice what it takes in the file, and 32 elements of a ggml block, 64 bytes then,
// take
//   q8_0  34 bytes in the file: 1.9 times     q5_1  24: 2.7     q5_0  22: 2.9     q4_1  20: 3.2     q4_0  18: 3.6
class WeightPages : public std::enable_shared_from_this<WeightPages> {
 public:
  WeightPages() = default;
  ~WeightPages();
  WeightPages(const WeightPages&) = delete;
  WeightPages& operator=(const WeightPages&) = delete;

  // Appends a tensor that is to be kept as `slot->dtype` with `slot->shape`. `slot` must live as long as this.
  void add(const std::string& name, const StoredTensor& stored, Tensor* slot);
  uint64_t bytes() const { return bytes_; }

  // Reserves the address range and reads all tensors once, to see what they are; they are not kept. Throws Error:
  // kInvalidFile (NaN or infinity, a file that shrank), kNoResource. `count` is told how many bytes each tensor takes,
  // and may throw.
  void examine(const std::function<void(uint64_t)>& count);
  // XXH3-128 in hex over names, types, shapes and values.
  const std::string& digest() const { return digest_; }

  // See Model::hold_encoder_weights() and hold_decoder_weights().
  std::shared_ptr<const void> hold();

  // Gives the values of a tensor in f32, as Tensor::each_chunk() says.
  void each_chunk(size_t index, const std::function<void(int64_t first, int64_t count, const float* values)>& take);

 private:
  struct Entry {
    std::string name;
    StoredTensor stored;
    DType dtype;
    std::vector<int> shape;
    uint64_t offset;  // in the memory
    uint64_t digest;  // XXH3-64 of the values
    Tensor* slot;
  };

  void load_all();
  void release();
  [[noreturn]] void refuse_changed(const Entry& entry) const;

  std::vector<Entry> entries_;
  uint64_t bytes_ = 0;
  char* memory_ = nullptr;
  std::string digest_;
  std::mutex mutex_;  // guards what follows, and the memory's protection
  int holders_ = 0;
  bool present_ = false;
};

}  // namespace whisperxdna2
