// AVX-512 in software, so that the AVX-512 kernels run on any processor. Included by the compiler's -include ahead of a
// kernel's source: SIMDe's names take the place of the intrinsics, and <immintrin.h>, which SIMDe has read already, is
// not read again. What SIMDe 0.7 lacks or gets wrong is defined here, after Intel's intrinsics guide.
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#include <cmath>
#include <cstdint>

#if defined(__AVX512F__)
#error "compile this without AVX-512"
#endif

inline simde__m512 emulated_cvtepi32_ps(simde__m512i a) {
  simde__m512i_private from = simde__m512i_to_private(a);
  simde__m512_private to;
  for (int i = 0; i < 16; ++i) to.f32[i] = static_cast<float>(from.i32[i]);
  return simde__m512_from_private(to);
}
// For values that fit int32.
inline simde__m512i emulated_cvtps_epi32(simde__m512 a) {
  simde__m512_private from = simde__m512_to_private(a);
  simde__m512i_private to;
  for (int i = 0; i < 16; ++i) to.i32[i] = static_cast<int32_t>(std::nearbyint(from.f32[i]));
  return simde__m512i_from_private(to);
}
inline simde__m512i emulated_srav_epi32(simde__m512i a, simde__m512i counts) {
  simde__m512i_private v = simde__m512i_to_private(a), s = simde__m512i_to_private(counts);
  for (int i = 0; i < 16; ++i) v.i32[i] >>= s.i32[i];  // counts of 0..31
  return simde__m512i_from_private(v);
}
inline simde__mmask16 emulated_testn_epi32_mask(simde__m512i a, simde__m512i b) {
  return static_cast<simde__mmask16>(~simde_mm512_test_epi32_mask(a, b));
}
// Halves are combined until one value is left, as compilers do.
inline float emulated_reduce_add_ps(simde__m512 a) {
  simde__m512_private v = simde__m512_to_private(a);
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) v.f32[i] += v.f32[i + half];
  }
  return v.f32[0];
}
inline float emulated_reduce_max_ps(simde__m512 a) {
  simde__m512_private v = simde__m512_to_private(a);
  for (int i = 1; i < 16; ++i) v.f32[0] = v.f32[i] > v.f32[0] ? v.f32[i] : v.f32[0];
  return v.f32[0];
}
// The halves by the processor's own F16C.
inline simde__m512 emulated_cvtph_ps(__m256i a) {
  simde__m512_private to;
  to.m256[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(a));
  to.m256[1] = _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1));
  return simde__m512_from_private(to);
}
inline __m256i emulated_cvtps_ph(simde__m512 a) {
  const simde__m512_private from = simde__m512_to_private(a);
  return _mm256_set_m128i(_mm256_cvtps_ph(from.m256[1], _MM_FROUND_TO_NEAREST_INT),
                          _mm256_cvtps_ph(from.m256[0], _MM_FROUND_TO_NEAREST_INT));
}
inline simde__m512i emulated_cvtepu16_epi32(__m256i a) {
  simde__m512i_private to;
  to.m256i[0] = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(a));
  to.m256i[1] = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(a, 1));
  return simde__m512i_from_private(to);
}
inline __m256i emulated_cvtepi32_epi16(simde__m512i a) {
  const simde__m512i_private from = simde__m512i_to_private(a);
  int16_t to[16];
  for (int i = 0; i < 16; ++i) to[i] = static_cast<int16_t>(from.i32[i]);
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(to));
}
inline simde__m512i emulated_mulhi_epu16(simde__m512i a, simde__m512i b) {
  simde__m512i_private x = simde__m512i_to_private(a), y = simde__m512i_to_private(b);
  x.m256i[0] = _mm256_mulhi_epu16(x.m256i[0], y.m256i[0]);
  x.m256i[1] = _mm256_mulhi_epu16(x.m256i[1], y.m256i[1]);
  return simde__m512i_from_private(x);
}
#undef _mm512_cvtepi32_epi16
#undef _mm512_mulhi_epu16
#define _mm512_cvtepi32_epi16 emulated_cvtepi32_epi16
#define _mm512_mulhi_epu16 emulated_mulhi_epu16
#undef _mm512_cvtepu16_epi32
#define _mm512_cvtepu16_epi32 emulated_cvtepu16_epi32
#undef _mm512_cvtph_ps
#undef _mm512_cvtps_ph
#define _mm512_cvtph_ps emulated_cvtph_ps
#define _mm512_cvtps_ph(a, rounding) emulated_cvtps_ph(a)
#undef _mm512_reduce_add_ps  // later versions of SIMDe have some of them
#undef _mm512_reduce_max_ps
#undef _mm512_testn_epi32_mask
#undef _mm512_srav_epi32
#undef _mm512_srai_epi32
#undef _mm512_cvtepi32_ps
#undef _mm512_cvtps_epi32
#define _mm512_reduce_add_ps emulated_reduce_add_ps
#define _mm512_reduce_max_ps emulated_reduce_max_ps
#define _mm512_testn_epi32_mask emulated_testn_epi32_mask
#define _mm512_srav_epi32 emulated_srav_epi32
#define _mm512_srai_epi32(a, s) emulated_srav_epi32(a, simde_mm512_set1_epi32(s))
#define _mm512_cvtepi32_ps emulated_cvtepi32_ps
#define _mm512_cvtps_epi32 emulated_cvtps_epi32

#undef _mm512_madd_epi16  // declared with four arguments
#define _mm512_madd_epi16(a, b) simde_mm512_madd_epi16(a, b)

#define __AVX512F__ 1
