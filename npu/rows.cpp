#include "npu/rows.h"

#include <immintrin.h>

#include "kernels/arithmetic.h"

namespace whisperxdna2::npu {
namespace {

__m256 scaled(const int8_t* hi, const uint8_t* lo, const float* scale) {
  const __m256i h = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(hi)));
  const __m256i l = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(lo)));
  return _mm256_mul_ps(_mm256_loadu_ps(scale), _mm256_cvtepi32_ps(_mm256_or_si256(_mm256_slli_epi32(h, 8), l)));
}

void add(__m256 what, float* x) { _mm256_storeu_ps(x, _mm256_add_ps(_mm256_loadu_ps(x), what)); }

}  // namespace

void add_row(const int8_t* hi, const uint8_t* lo, const float* scale, int n, float* x) {
  for (int i = 0; i < n; i += 8) add(scaled(hi + i, lo + i, scale + i), x + i);
}

void add_row(const int8_t* hi, const uint8_t* lo, const float* scale, float row_unit, const float* bias, int n,
             float* x) {
  const __m256 unit = _mm256_set1_ps(row_unit);
  for (int i = 0; i < n; i += 8) {
    const __m256 product = _mm256_mul_ps(scaled(hi + i, lo + i, scale + i), unit);
    add(_mm256_add_ps(product, _mm256_loadu_ps(bias + i)), x + i);
  }
}

}  // namespace whisperxdna2::npu
