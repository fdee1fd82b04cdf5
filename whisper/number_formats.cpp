#include "whisper/number_formats.h"

#include <algorithm>
#include <cstring>

namespace whisperxdna2 {
namespace {

uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Exact for finite values: moves exponent and mantissa into place and corrects the exponent's bias by a multiplication,
// which also normalizes subnormals. Branch-free, so that compilers vectorize it. Infinity and NaN stay so.
float from_f16(uint16_t half) {
  const float magnitude = float_of(static_cast<uint32_t>(half & 0x7fff) << 13) * 0x1p112f;
  const uint32_t special = (half & 0x7c00) == 0x7c00 ? 0x7f800000u : 0u;
  return float_of(bits_of(magnitude) | special | static_cast<uint32_t>(half & 0x8000) << 16);
}

// Computes all cases and selects, for the vectorizer's sake.
uint16_t to_f16(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t sign = bits >> 16 & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  const uint32_t normal = (magnitude + 0xfff + (magnitude >> 13 & 1) - 0x38000000) >> 13;
  // Adding 0.5 leaves units of 2^-24 in the low mantissa bits, rounded by the addition itself.
  const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000;
  const uint32_t special = magnitude > 0x7f800000 ? 0x7e00 : 0x7c00;
  const uint32_t finite = magnitude < 0x38800000 ? subnormal : normal;
  return static_cast<uint16_t>(sign | (magnitude >= 0x477ff000 ? special : finite));
}

uint16_t load16(const uint8_t* at) {
  uint16_t value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// One ggml block of 32 elements; `at` points to its scale. kBits: 4, 5 or 8.
template <int kBits, bool kHasMinimum>
void decode_block(const uint8_t* at, float* to) {
  const float scale = from_f16(load16(at));
  at += 2;
  float minimum = 0;
  if (kHasMinimum) {
    minimum = from_f16(load16(at));
    at += 2;
  }
  if (kBits == 8) {
    for (int i = 0; i < 32; ++i) to[i] = scale * static_cast<float>(static_cast<int8_t>(at[i]));
    return;
  }
  uint32_t high = 0;  // bit i is bit 4 of element i
  if (kBits == 5) {
    std::memcpy(&high, at, sizeof high);
    at += 4;
  }
  const int zero = kHasMinimum ? 0 : 1 << (kBits - 1);
  for (int i = 0; i < 16; ++i) {
    const int first = (at[i] & 15) | static_cast<int>(high >> i & 1) << 4;
    const int second = (at[i] >> 4) | static_cast<int>(high >> (i + 16) & 1) << 4;
    to[i] = scale * static_cast<float>(first - zero) + minimum;
    to[i + 16] = scale * static_cast<float>(second - zero) + minimum;
  }
}

template <int kBits, bool kHasMinimum>
void decode_blocks(const uint8_t* at, int64_t count, int bytes, float* to) {
  for (int64_t i = 0; i < count; i += 32, at += bytes) decode_block<kBits, kHasMinimum>(at, to + i);
}

struct Format {
  const char* name;
  int elements, bytes;
  DType dtype;
};

const Format& format(Storage storage) {
  static constexpr Format formats[] = {
      {"f32", 1, 4, DType::kF32},    {"f16", 1, 2, DType::kF16},    {"bf16", 1, 2, DType::kBF16},
      {"int8", 1, 1, DType::kF16},   {"q8_0", 32, 34, DType::kF16}, {"q5_0", 32, 22, DType::kF16},
      {"q5_1", 32, 24, DType::kF16}, {"q4_0", 32, 18, DType::kF16}, {"q4_1", 32, 20, DType::kF16},
  };
  return formats[static_cast<int>(storage)];
}

// Any of `count` elements with all exponent bits set?
template <typename T>
bool any_special(const T* data, int64_t count, T exponent) {
  T found = 0;
  for (int64_t i = 0; i < count; ++i) found |= static_cast<T>((data[i] & exponent) == exponent);
  return found != 0;
}

template <typename T>
int64_t first_special(const void* data, int64_t count, T exponent) {
  const T* values = static_cast<const T*>(data);
  constexpr int64_t kBlock = 1024;
  for (int64_t i = 0; i < count; i += kBlock) {
    if (!any_special(values + i, std::min(kBlock, count - i), exponent)) continue;
    while ((values[i] & exponent) != exponent) ++i;
    return i;
  }
  return -1;
}

}  // namespace

const char* storage_name(Storage storage) { return format(storage).name; }
int block_elements(Storage storage) { return format(storage).elements; }
int block_bytes(Storage storage) { return format(storage).bytes; }
DType dtype_of(Storage storage) { return format(storage).dtype; }
int dtype_bytes(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }

void to_f32(Storage storage, const void* from, int64_t count, float* to) {
  const uint8_t* at = static_cast<const uint8_t*>(from);
  switch (storage) {
    case Storage::kF32:
      std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
      break;
    case Storage::kF16:
      for (int64_t i = 0; i < count; ++i) to[i] = from_f16(load16(at + 2 * i));
      break;
    case Storage::kBF16:
      for (int64_t i = 0; i < count; ++i)
        to[i] = float_of(static_cast<uint32_t>(load16(at + 2 * i)) << 16);
      break;
    case Storage::kInt8:
      for (int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(static_cast<int8_t>(at[i]));
      break;
    case Storage::kQ8_0:
      decode_blocks<8, false>(at, count, 34, to);
      break;
    case Storage::kQ5_0:
      decode_blocks<5, false>(at, count, 22, to);
      break;
    case Storage::kQ5_1:
      decode_blocks<5, true>(at, count, 24, to);
      break;
    case Storage::kQ4_0:
      decode_blocks<4, false>(at, count, 18, to);
      break;
    case Storage::kQ4_1:
      decode_blocks<4, true>(at, count, 20, to);
      break;
  }
}

void f32_to_f16(const float* from, int64_t count, uint16_t* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = to_f16(from[i]);
}

int64_t first_not_finite(DType dtype, const void* data, int64_t count) {
  switch (dtype) {
    case DType::kF32:
      return first_special<uint32_t>(data, count, 0x7f800000);
    case DType::kF16:
      return first_special<uint16_t>(data, count, 0x7c00);
    case DType::kBF16:
      return first_special<uint16_t>(data, count, 0x7f80);
  }
  return -1;
}

}  // namespace whisperxdna2
