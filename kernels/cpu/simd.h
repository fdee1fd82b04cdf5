// Vectors of f32 with one interface for each instruction set. Included only by the files that are compiled for one.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace whisperxdna2 {
namespace {  // each including file has its own copy, compiled for its own instruction set

// IEEE half to single, exactly; no infinities or NaNs come in.
inline float widen_half(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, magnitude = h & 0x7FFF;
  float r;
  if (magnitude < 0x400) {
    r = static_cast<float>(magnitude) * 0x1p-24f;
  } else {
    const uint32_t bits = (magnitude << 13) + (112u << 23);
    std::memcpy(&r, &bits, sizeof r);
  }
  return sign ? -r : r;
}

// Single to half, to nearest, ties to even; what is too large becomes the largest half. No NaNs come in.
inline uint16_t narrow_to_half(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const float magnitude = std::fabs(x);
  if (magnitude >= 65504.0f) return sign | 0x7BFF;
  if (magnitude < 0x1p-14f) return sign | static_cast<uint16_t>(std::nearbyint(magnitude * 0x1p24f));
  bits &= 0x7FFFFFFF;
  return sign | static_cast<uint16_t>((bits + 0xFFF + (bits >> 13 & 1) - (112u << 23)) >> 13);
}

inline float widen_bf16(uint16_t h) {
  const uint32_t bits = static_cast<uint32_t>(h) << 16;
  float r;
  std::memcpy(&r, &bits, sizeof r);
  return r;
}

struct F32x1 {
  static constexpr int kLanes = 1;
  static constexpr bool kPrefetches = false;
  float v;
  static F32x1 load(const float* p) { return {*p}; }
  static F32x1 load_half(const uint16_t* p) { return {widen_half(*p)}; }
  static F32x1 load_bf16(const uint16_t* p) { return {widen_bf16(*p)}; }
  static F32x1 set(float x) { return {x}; }
  void store(float* p) const { *p = v; }
  void store_half(uint16_t* p) const { *p = narrow_to_half(v); }
  friend F32x1 operator+(F32x1 a, F32x1 b) { return {a.v + b.v}; }
  friend F32x1 operator-(F32x1 a, F32x1 b) { return {a.v - b.v}; }
  friend F32x1 operator*(F32x1 a, F32x1 b) { return {a.v * b.v}; }
  friend F32x1 operator/(F32x1 a, F32x1 b) { return {a.v / b.v}; }
  static F32x1 max(F32x1 a, F32x1 b) { return {a.v > b.v ? a.v : b.v}; }
  static F32x1 min(F32x1 a, F32x1 b) { return {a.v < b.v ? a.v : b.v}; }
  // a * b + c
  static F32x1 fma(F32x1 a, F32x1 b, F32x1 c) { return {a.v * b.v + c.v}; }
  F32x1 round() const { return {std::nearbyint(v)}; }
  // x 2^n for an integral n in [-126, 127]
  static F32x1 scale(F32x1 x, F32x1 n) {
    const int32_t bits = (static_cast<int32_t>(n.v) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return {x.v * power};
  }
  F32x1 abs() const { return {std::fabs(v)}; }
  float sum() const { return v; }
  float largest() const { return v; }
};

#if defined(__AVX2__)
struct F32x8 {
  static constexpr int kLanes = 8;
  static constexpr bool kPrefetches = false;
  __m256 v;
  static F32x8 load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static F32x8 load_half(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  static F32x8 load_bf16(const uint16_t* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
  }
  static F32x8 set(float x) { return {_mm256_set1_ps(x)}; }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
  void store_half(uint16_t* p) const {
    const __m256 most = _mm256_set1_ps(65504.0f), least = _mm256_set1_ps(-65504.0f);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm256_cvtps_ph(_mm256_max_ps(_mm256_min_ps(v, most), least), _MM_FROUND_TO_NEAREST_INT));
  }
  friend F32x8 operator+(F32x8 a, F32x8 b) { return {_mm256_add_ps(a.v, b.v)}; }
  friend F32x8 operator-(F32x8 a, F32x8 b) { return {_mm256_sub_ps(a.v, b.v)}; }
  friend F32x8 operator*(F32x8 a, F32x8 b) { return {_mm256_mul_ps(a.v, b.v)}; }
  friend F32x8 operator/(F32x8 a, F32x8 b) { return {_mm256_div_ps(a.v, b.v)}; }
  static F32x8 max(F32x8 a, F32x8 b) { return {_mm256_max_ps(a.v, b.v)}; }
  static F32x8 min(F32x8 a, F32x8 b) { return {_mm256_min_ps(a.v, b.v)}; }
  static F32x8 fma(F32x8 a, F32x8 b, F32x8 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
  F32x8 round() const { return {_mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
  static F32x8 scale(F32x8 x, F32x8 n) {
    const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
    return {_mm256_mul_ps(x.v, _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23)))};
  }
  F32x8 abs() const { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), v)}; }
  float sum() const {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps(x, x, 1)));
  }
  float largest() const {
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps(x, x, 1)));
  }
};
#endif

#if defined(__AVX512F__)
struct F32x16 {
  static constexpr int kLanes = 16;
  static constexpr bool kPrefetches = true;
  __m512 v;
  static F32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static F32x16 load_half(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  static F32x16 load_bf16(const uint16_t* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
  }
  static F32x16 set(float x) { return {_mm512_set1_ps(x)}; }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void store_half(uint16_t* p) const {
    const __m512 most = _mm512_set1_ps(65504.0f), least = _mm512_set1_ps(-65504.0f);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(_mm512_max_ps(_mm512_min_ps(v, most), least), _MM_FROUND_TO_NEAREST_INT));
  }
  friend F32x16 operator+(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
  friend F32x16 operator-(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
  friend F32x16 operator*(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
  friend F32x16 operator/(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
  static F32x16 max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
  static F32x16 min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
  static F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  F32x16 round() const { return {_mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
  static F32x16 scale(F32x16 x, F32x16 n) { return {_mm512_scalef_ps(x.v, n.v)}; }
  F32x16 abs() const { return {_mm512_abs_ps(v)}; }
  float sum() const { return _mm512_reduce_add_ps(v); }
  float largest() const { return _mm512_reduce_max_ps(v); }
};
#endif

// e^x for x <= 0 (smaller than -87 gives next to zero), by Cody and Waite's reduction as in Cephes' expf
// (netlib.org/cephes) and `polynomial` within half a factor of two.
template <class V, class Polynomial>
inline V exp_by(V x, const Polynomial& polynomial) {
  x = V::max(x, V::set(-87.0f));
  const V n = (x * V::set(1.44269504088896341f)).round();
  x = V::fma(n, V::set(-0.693359375f), x);
  x = V::fma(n, V::set(2.12194440e-4f), x);
  return V::scale(polynomial(x), n);
}

// With a relative error below 2e-7. Polynomials of least relative error.
template <class V>
inline V exp(V x) {
  return exp_by(x, [](V r) {
    V p = V::set(8.290314788e-03f);
    p = V::fma(p, r, V::set(4.189793082e-02f));
    p = V::fma(p, r, V::set(0.166676357f));
    p = V::fma(p, r, V::set(0.499991502f));
    p = V::fma(p, r, V::set(0.999999745f));
    return V::fma(p, r, V::set(1.0f));
  });
}

// Below 1.1e-4, a twentieth of what rounding to bf16 adds.
template <class V>
inline V exp_for_bf16(V x) {
  return exp_by(x, [](V r) {
    V p = V::set(0.165179751f);
    p = V::fma(p, r, V::set(0.504130398f));
    p = V::fma(p, r, V::set(1.000195805f));
    return V::fma(p, r, V::set(1.0f));
  });
}

// x * Phi(x) = max(x, 0) - |x| Phi(-|x|), Phi by Abramowitz and Stegun 7.1.26 (absolute error of erf below 1.5e-7).
template <class V>
inline V gelu(V x) {
  const V z = x.abs();
  const V t = V::set(1.0f) / V::fma(z, V::set(0.3275911f * 0.70710678118654752f), V::set(1.0f));
  V p = V::set(0.5f * 1.061405429f);
  p = V::fma(p, t, V::set(0.5f * -1.453152027f));
  p = V::fma(p, t, V::set(0.5f * 1.421413741f));
  p = V::fma(p, t, V::set(0.5f * -0.284496736f));
  p = V::fma(p, t, V::set(0.5f * 0.254829592f));
  const V e = exp(z * z * V::set(-0.5f));
  return V::max(x, V::set(0.0f)) - z * e * (p * t);
}

}  // namespace
}  // namespace whisperxdna2
