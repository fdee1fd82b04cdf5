// Number formats of weights: conversions and checks.
#pragma once

#include <cstdint>

#include "whisper/model.h"

namespace whisperxdna2 {

// How the elements of a tensor lie in a file. The block formats are ggml's (ggml/src/ggml-common.h block_q8_0 ...): 32
// elements of a row share an f16 scale, and in the _1 kinds an f16 minimum. kInt8 is CTranslate2's; the scales are kept
// elsewhere.
enum class Storage : uint8_t { kF32, kF16, kBF16, kInt8, kQ8_0, kQ5_0, kQ5_1, kQ4_0, kQ4_1 };

const char* storage_name(Storage storage);
// Elements that are stored together: 1 or 32.
int block_elements(Storage storage);
int block_bytes(Storage storage);
// kF32, kF16 and kBF16 are kept in memory as they are, the others become f16.
DType dtype_of(Storage storage);
int dtype_bytes(DType dtype);

// Reads `count` elements (whole blocks) at `from`, of any alignment, as f32; exact. kInt8 gives the bare integers.
void to_f32(Storage storage, const void* from, int64_t count, float* to);

// Round to nearest, ties to even; overflow gives infinity.
void f32_to_f16(const float* from, int64_t count, uint16_t* to);

// Index of the first NaN or infinity among `count` elements, -1 where there is none.
int64_t first_not_finite(DType dtype, const void* data, int64_t count);

}  // namespace whisperxdna2
