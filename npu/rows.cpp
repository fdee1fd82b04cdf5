#include "npu/rows.h"

#include <immintrin.h>

#include "kernels/arithmetic.h"

namespace whisperxdna2::npu {
namespace {

__m256i quantize8(const float* x, __m256 inverse_scale) {
  const __m256 high = _mm256_set1_ps(kInt8Limit), low = _mm256_set1_ps(-kInt8Limit);
  // min and max return their second operand if one is not a number, as the definition's comparisons do.
  __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x), inverse_scale);
  v = _mm256_max_ps(_mm256_min_ps(v, high), low);
  return _mm256_cvtps_epi32(v);
}

}  // namespace

void quantize_row(const float* x, int n, float inverse_scale, int8_t* to) {
  const __m256 inverse = _mm256_set1_ps(inverse_scale);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);  // undoes the packing within lanes
  for (int i = 0; i < n; i += 32) {
    const __m256i a = _mm256_packs_epi32(quantize8(x + i, inverse), quantize8(x + i + 8, inverse));
    const __m256i b = _mm256_packs_epi32(quantize8(x + i + 16, inverse), quantize8(x + i + 24, inverse));
    const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), order);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), bytes);
  }
}

void add_row(const int8_t* hi, const uint8_t* lo, const float* scale, int n, float* x) {
  for (int i = 0; i < n; i += 8) {
    const __m256i h = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(hi + i)));
    const __m256i l = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(lo + i)));
    const __m256i v = _mm256_or_si256(_mm256_slli_epi32(h, 8), l);
    const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(scale + i), _mm256_cvtepi32_ps(v));
    _mm256_storeu_ps(x + i, _mm256_add_ps(_mm256_loadu_ps(x + i), scaled));
  }
}

}  // namespace whisperxdna2::npu
