#include "whisper/weight_pages.h"

#include <sys/mman.h>
#include <xxhash.h>

#include <algorithm>
#include <cstdio>

namespace whisperxdna2 {
namespace {

constexpr uint64_t kAlignment = 64;  // cache line, and widest vector
constexpr int64_t kChunk = 1 << 18;  // elements converted at once, at most
constexpr int64_t kChunkRows = 64;   // chunks of more rows have a multiple of it: readers may work in blocks of rows

uint64_t aligned(uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Divides each of the `count / length` rows by its scale.
void divide_rows(float* values, int64_t count, int64_t length, const float* scales) {
  for (; count > 0; count -= length, values += length, ++scales) {
    const float scale = *scales;
    for (int64_t i = 0; i < length; ++i) values[i] /= scale;
  }
}

// Reads a tensor as `dtype` in chunks of whole rows: into `to`, if it is not null, else into memory of its own. take()
// is given each chunk.
void read(const StoredTensor& tensor, DType dtype, int64_t elements, char* to,
          const std::function<void(int64_t first, int64_t count, const char* data)>& take) {
  const Storage storage = tensor.storage;
  const bool as_it_is = storage != Storage::kInt8 && dtype_of(storage) == dtype && block_elements(storage) == 1;
  const int64_t row = elements / static_cast<int64_t>(tensor.shape[0]);
  std::vector<float> scales;
  if (storage == Storage::kInt8) {
    scales.resize(tensor.shape[0]);
    tensor.source->read(tensor.scale_offset, scales.data(), scales.size() * sizeof(float));
  }
  const int64_t rows = std::max<int64_t>(kChunk / row, 1);
  const int64_t chunk = std::min(elements, (rows < kChunkRows ? rows : rows / kChunkRows * kChunkRows) * row);
  const auto stored_bytes = [&](int64_t count) {
    return static_cast<uint64_t>(count / block_elements(storage) * block_bytes(storage));
  };
  std::vector<char> raw(as_it_is ? 0 : stored_bytes(chunk)), own(to ? 0 : chunk * dtype_bytes(dtype));
  std::vector<float> values(as_it_is ? 0 : chunk);
  for (int64_t first = 0; first < elements; first += chunk) {
    const int64_t count = std::min(chunk, elements - first);
    char* const at = to ? to + first * dtype_bytes(dtype) : own.data();
    const uint64_t offset = tensor.offset + stored_bytes(first);
    if (as_it_is) {
      tensor.source->read(offset, at, stored_bytes(count));
    } else {
      tensor.source->read(offset, raw.data(), stored_bytes(count));
      to_f32(storage, raw.data(), count, values.data());
      if (storage == Storage::kInt8) divide_rows(values.data(), count, row, scales.data() + first / row);
      if (dtype == DType::kF32) {
        std::copy_n(values.data(), count, reinterpret_cast<float*>(at));
      } else {
        f32_to_f16(values.data(), count, reinterpret_cast<uint16_t*>(at));
      }
    }
    take(first, count, at);
  }
}

Storage storage_of(DType dtype) {
  return dtype == DType::kF32 ? Storage::kF32 : dtype == DType::kF16 ? Storage::kF16 : Storage::kBF16;
}

struct FreeState {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

// XXH3-128.
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
  std::unique_ptr<XXH3_state_t, FreeState> state_;
};

// XXH3-64.
class ShortDigest {
 public:
  ShortDigest() : state_(XXH3_createState()) { XXH3_64bits_reset(state_.get()); }
  void add(const void* data, size_t bytes) { XXH3_64bits_update(state_.get(), data, bytes); }
  uint64_t value() const { return XXH3_64bits_digest(state_.get()); }

 private:
  std::unique_ptr<XXH3_state_t, FreeState> state_;
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
  slot->pages = this;
  slot->index = entries_.size();
  entries_.push_back({name, stored, slot->dtype, slot->shape, bytes_, 0, slot});
  bytes_ += aligned(bytes_of(slot->dtype, slot->shape));
}

void WeightPages::examine(const std::function<void(uint64_t)>& count) {
  void* memory = mmap(nullptr, bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    throw Error(ErrorCode::kNoResource, "There is no memory for the model: " +
                                            std::to_string(bytes_ >> 20) + " MiB are needed");
  memory_ = static_cast<char*>(memory);
  madvise(memory_, bytes_, MADV_HUGEPAGE);  // a hint; a third less time for base
  Digest digest;
  for (Entry& entry : entries_) {
    ShortDigest own;
    digest.add(entry.name.data(), entry.name.size());
    digest.add(&entry.dtype, sizeof entry.dtype);
    digest.add(entry.shape.data(), entry.shape.size() * sizeof(int));
    // Each chunk is looked at while it is still in the processor's cache.
    read(entry.stored, entry.dtype, elements_of(entry.shape), nullptr,
         [&](int64_t first, int64_t n, const char* data) {
           const int64_t bad = first_not_finite(entry.dtype, data, n);
           if (bad >= 0)
             throw Error(ErrorCode::kInvalidFile, describe(entry.stored, entry.name) +
                                                      " holds NaN or infinity in element " +
                                                      std::to_string(first + bad));
           digest.add(data, n * dtype_bytes(entry.dtype));
           own.add(data, n * dtype_bytes(entry.dtype));
         });
    entry.digest = own.value();
    entry.slot->data = memory_ + entry.offset;
    count(aligned(bytes_of(entry.dtype, entry.shape)));
  }
  digest_ = digest.hex();
}

void WeightPages::refuse_changed(const Entry& entry) const {
  throw Error(ErrorCode::kInvalidFile,
              entry.stored.source->path() + " has changed since it was loaded; start again");
}

void WeightPages::load_all() {
  for (const Entry& entry : entries_) {
    ShortDigest own;
    read(entry.stored, entry.dtype, elements_of(entry.shape), memory_ + entry.offset,
         [&](int64_t, int64_t n, const char* data) { own.add(data, n * dtype_bytes(entry.dtype)); });
    if (own.value() != entry.digest) refuse_changed(entry);
  }
}

void WeightPages::each_chunk(
    size_t index, const std::function<void(int64_t first, int64_t count, const float* values)>& take) {
  const Entry& entry = entries_[index];
  ShortDigest own;
  std::vector<float> values;
  read(entry.stored, entry.dtype, elements_of(entry.shape), nullptr, [&](int64_t first, int64_t n, const char* data) {
    own.add(data, n * dtype_bytes(entry.dtype));
    values.resize(n);
    to_f32(storage_of(entry.dtype), data, n, values.data());
    take(first, n, values.data());
  });
  if (own.value() != entry.digest) refuse_changed(entry);
}

std::shared_ptr<const void> WeightPages::hold() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!present_) {
    mprotect(memory_, bytes_, PROT_READ | PROT_WRITE);
    try {
      load_all();
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
