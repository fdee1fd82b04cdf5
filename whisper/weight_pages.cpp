#include "whisper/weight_pages.h"

#include <sys/mman.h>
#include <xxhash.h>

#include <algorithm>
#include <cstdio>

namespace whisperxdna2 {
namespace {

constexpr uint64_t kAlignment = 64;  // cache line, and widest vector
constexpr int64_t kChunk = 1 << 18;  // elements converted at once

uint64_t aligned(uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Divides each of the `count / length` rows by its scale.
void divide_rows(float* values, int64_t count, int64_t length, const float* scales) {
  for (; count > 0; count -= length, values += length, ++scales) {
    const float scale = *scales;
    for (int64_t i = 0; i < length; ++i) values[i] /= scale;
  }
}

// Reads a tensor into `to` as `dtype`.
void load(const StoredTensor& tensor, DType dtype, int64_t elements, void* to) {
  const Storage storage = tensor.storage;
  if (storage != Storage::kInt8 && dtype_of(storage) == dtype && block_elements(storage) == 1) {
    tensor.source->read(tensor.offset, to, tensor.bytes);
    return;
  }
  const int64_t row = elements / static_cast<int64_t>(tensor.shape[0]);
  std::vector<float> scales;
  if (storage == Storage::kInt8) {
    scales.resize(tensor.shape[0]);
    tensor.source->read(tensor.scale_offset, scales.data(), scales.size() * sizeof(float));
  }
  const int64_t chunk = std::max<int64_t>(kChunk / row, 1) * row;  // whole rows
  std::vector<char> raw(
      static_cast<size_t>(chunk / block_elements(storage) * block_bytes(storage)));
  std::vector<float> values(static_cast<size_t>(chunk));
  uint64_t offset = tensor.offset;
  for (int64_t first = 0; first < elements; first += chunk) {
    const int64_t count = std::min(chunk, elements - first);
    const uint64_t bytes =
        static_cast<uint64_t>(count / block_elements(storage) * block_bytes(storage));
    tensor.source->read(offset, raw.data(), bytes);
    offset += bytes;
    to_f32(storage, raw.data(), count, values.data());
    if (storage == Storage::kInt8)
      divide_rows(values.data(), count, row, scales.data() + first / row);
    if (dtype == DType::kF32) {
      std::copy_n(values.data(), count, static_cast<float*>(to) + first);
    } else {
      f32_to_f16(values.data(), count, static_cast<uint16_t*>(to) + first);
    }
  }
}

class Digest {
 public:
  Digest() : state_(XXH3_createState()) { XXH3_128bits_reset(state_.get()); }
  void add(const void* data, size_t bytes) { XXH3_128bits_update(state_.get(), data, bytes); }
  std::string hex() const {
    const XXH128_hash_t hash = XXH3_128bits_digest(state_.get());
    char text[33];
    std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(hash.high64),
                  static_cast<unsigned long long>(hash.low64));
    return text;
  }

 private:
  struct Free {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };
  std::unique_ptr<XXH3_state_t, Free> state_;
};

int64_t elements_of(const std::vector<int>& shape) {
  int64_t product = 1;
  for (const int size : shape) product *= size;
  return product;
}

uint64_t bytes_of(DType dtype, const std::vector<int>& shape) {
  return static_cast<uint64_t>(elements_of(shape)) * static_cast<uint64_t>(dtype_bytes(dtype));
}

}  // namespace

WeightPages::~WeightPages() {
  if (memory_) munmap(memory_, bytes_);
}

void WeightPages::add(const std::string& name, const StoredTensor& stored, Tensor* slot) {
  entries_.push_back({name, stored, slot->dtype, slot->shape, bytes_, slot});
  bytes_ += aligned(bytes_of(slot->dtype, slot->shape));
}

void WeightPages::fill(const std::function<void(uint64_t)>& count) {
  void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    throw Error(ErrorCode::kNoResource, "There is no memory for the model: " +
                                            std::to_string(bytes_ >> 20) + " MiB are needed");
  memory_ = static_cast<char*>(memory);
  madvise(memory_, bytes_, MADV_HUGEPAGE);  // a hint; a third less time for base
  digest_ = read_all(count);
  present_ = true;
  for (const Entry& entry : entries_) entry.slot->data = memory_ + entry.offset;
}

std::string WeightPages::read_all(const std::function<void(uint64_t)>& count) {
  Digest digest;
  for (const Entry& entry : entries_) {
    char* at = memory_ + entry.offset;
    const int64_t elements = elements_of(entry.shape);
    load(entry.stored, entry.dtype, elements, at);
    // Each tensor is looked at while it is still in the processor's cache.
    const int64_t bad = first_not_finite(entry.dtype, at, elements);
    if (bad >= 0)
      throw Error(ErrorCode::kInvalidFile, describe(entry.stored, entry.name) +
                                               " holds NaN or infinity in element " +
                                               std::to_string(bad));
    digest.add(entry.name.data(), entry.name.size());
    digest.add(&entry.dtype, sizeof entry.dtype);
    digest.add(entry.shape.data(), entry.shape.size() * sizeof(int));
    digest.add(at, bytes_of(entry.dtype, entry.shape));
    count(aligned(bytes_of(entry.dtype, entry.shape)));
  }
  return digest.hex();
}

std::shared_ptr<const void> WeightPages::hold() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!present_) {
    mprotect(memory_, bytes_, PROT_READ | PROT_WRITE);
    try {
      if (read_all([](uint64_t) {}) != digest_)
        throw Error(ErrorCode::kInvalidFile, entries_.front().stored.source->path() +
                                                 " has changed since it was loaded; start again");
    } catch (...) {
      release();
      throw;
    }
    present_ = true;
  }
  ++holders_;
  return std::shared_ptr<const void>(this, [self = shared_from_this()](const void*) {
    const std::lock_guard<std::mutex> guard(self->mutex_);
    if (--self->holders_ == 0) self->release();
  });
}

void WeightPages::release() {
  present_ = false;
  madvise(memory_, bytes_, MADV_DONTNEED);
  mprotect(memory_, bytes_, PROT_NONE);  // a late reader must not see zeros
}

}  // namespace whisperxdna2
