// Vectors of int32 with one interface for each instruction set. Included only by the files that are compiled for one.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/arithmetic.h"

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace whisperxdna2 {
namespace {  // each including file has its own copy, compiled for its own instruction set

// One lane: the definition itself.
struct I32x1 {
  static constexpr int kLanes = 1;
  static constexpr int kPartBytes = 16384;  // half of the first cache
  static constexpr bool kOverlaps = false;
  int32_t v;

  static I32x1 load(const int32_t* p) { return {*p}; }
  static I32x1 set(int32_t x) { return {x}; }
  void store(int32_t* p) const { *p = v; }
  // Four bytes of inputs in every lane.
  static I32x1 broadcast(const uint8_t* p) {
    int32_t x;
    std::memcpy(&x, p, sizeof x);
    return {x};
  }
  static void widen(const int8_t* from, int16_t* to, int count) {
    for (int i = 0; i < count; ++i) to[i] = from[i];
  }
  // *this += the product of two int16 inputs and two int16 weights
  void add_pairs(I32x1 x, const void* weights) {
    int16_t a[2], w[2];
    std::memcpy(a, &x.v, sizeof a);
    std::memcpy(w, weights, sizeof w);
    v += a[0] * w[0] + a[1] * w[1];
  }

  static I32x1 add(I32x1 a, I32x1 b) { return {a.v + b.v}; }
  static I32x1 bit_and(I32x1 a, I32x1 b) { return {a.v & b.v}; }
  template <int S>
  static I32x1 shift_right(I32x1 a) {
    return {a.v >> S};
  }
  template <int S>
  static I32x1 shift_left(I32x1 a) {
    return {static_cast<int32_t>(static_cast<uint32_t>(a.v) << S)};
  }
  static I32x1 output(I32x1 sum, const int32_t* multiplier, const OutputStage& stage) {
    return {whisperxdna2::output(sum.v, 0, static_cast<int16_t>(*multiplier), stage)};
  }
  void add_scaled(const float* scale, float* y) const { *y += dequantize(v, *scale); }
  void add_scaled(const float* scale, float row_unit, const float* bias, float* y) const {
    *y += dequantize(v, *scale, row_unit, *bias);
  }
  void store_int8(int8_t* y) const { *y = static_cast<int8_t>(v); }
  void store_int16(int16_t* y) const { *y = static_cast<int16_t>(v); }

  // The weights of keys with these scores, an even number. Returns their sum.
  static int32_t weights(const int32_t* scores, int count, int32_t largest, float steps_per_unit, int16_t* to) {
    int32_t sum = 0;
    for (int i = 0; i < count; ++i) sum += to[i] = attention_weight(largest - scores[i], steps_per_unit);
    return sum;
  }
  static int32_t largest(const int32_t* scores, int count) { return *std::max_element(scores, scores + count); }
  void store_f32(float* y) const { *y = static_cast<float>(v); }
  // The last step of attention: y[i] = x[i] * factor * units[i]
  static void scale(const float* x, int count, float factor, const float* units, float* y) {
    for (int i = 0; i < count; ++i) y[i] = x[i] * factor * units[i];
  }
  static I32x1 quantize(const float* x, float inverse_scale, int limit) {
    return {whisperxdna2::quantize(*x, inverse_scale, limit)};
  }
  static float largest_magnitude(const float* x, int count) {
    float most = 0;
    for (int i = 0; i < count; ++i) most = std::max(most, std::fabs(x[i]));
    return most;
  }
};

// shift_round_saturate() in lanes. Written for any V with the operations below.
template <class V>
struct Rounder {
  V mask, half, low, high;
  typename V::Count shift;

  Rounder(int s, int32_t low_limit, int32_t high_limit)
      : mask(V::set((int32_t{1} << s) - 1)),
        half(V::set(s > 0 ? int32_t{1} << (s - 1) : INT32_MAX)),  // shift 0: nothing to round
        low(V::set(low_limit)),
        high(V::set(high_limit)),
        shift(V::count(s)) {}

  V operator()(V v) const {
    const V floor = V::shift_right(v, shift);
    const V odd = V::bit_and(floor, V::set(1));
    // rest > half, or rest == half and floor odd; rest + 1 <= 2^30
    const V rounded = V::increment_where_greater(floor, V::add(V::bit_and(v, mask), odd), half);
    return V::max(V::min(rounded, high), low);
  }
};

// The same for v = sums of products, which are below 2^30, so that half of the divisor can be added to them.
template <class V>
struct ProductRounder {
  V mask, half, low, high;
  typename V::Count shift;

  ProductRounder(int s, int32_t low_limit, int32_t high_limit)
      : mask(V::set(s > 0 ? (int32_t{1} << s) - 1 : -1)),
        half(V::set(s > 0 ? int32_t{1} << (s - 1) : 0)),
        low(V::set(low_limit)),
        high(V::set(high_limit)),
        shift(V::count(s)) {}

  // v is `half` + the products.
  V operator()(V v) const { return V::max(below(v), low); }
  // The same for a v that cannot become less than `low`, or leave the limits at all.
  V below(V v) const { return V::min(within(v), high); }
  V within(V v) const { return V::even_where_zero(V::shift_right(v, shift), v, mask); }
};

// output() in lanes; the bias is in the sum already. In five parts of similar size, so that something else can be
// computed between them.
template <class V, OutputMode M>
struct OutputVectors {
  explicit OutputVectors(const OutputStage& stage)
      : first_(stage.s1, INT16_MIN, INT16_MAX),
        second_(stage.s2,
                M == OutputMode::kInt8    ? INT8_MIN
                : M == OutputMode::kGelu14 ? -INT16_MAX  // GELU takes none less
                                          : INT16_MIN,
                M == OutputMode::kInt8 ? INT8_MAX : INT16_MAX),
        position_(stage.gelu.s, INT16_MIN, INT16_MAX),
        q_(9, INT16_MIN, INT16_MAX),
        last_(stage.gelu.t + stage.gelu.out_shift, -kInt14Limit, kInt14Limit),
        c_(V::set(stage.gelu.c)),
        minus_d_(V::set(-stage.gelu.d & 0xffff)),
        t_(V::set(int32_t{1} << stage.gelu.t)) {}

  struct Steps {
    V v;  // the sum at first, the result at the end
    V y;
  };
  template <int S>
  [[gnu::always_inline]] void advance(Steps* x, const int32_t* multiplier) const {
    if constexpr (S == 0) x->v = first_(x->v);
    if constexpr (S == 1) x->v = second_(V::multiply_add(second_.half, x->v, V::load(multiplier)));
    if constexpr (M != OutputMode::kGelu14) return;
    if constexpr (S == 2) {
      x->y = x->v;
      x->v = position_.below(V::multiply_add(position_.half, V::abs(x->v), c_));
    }
    if constexpr (S == 3) {
      // Pairs: slope and entry of the segment, part of the segment and 512.
      const V part = V::bit_or(V::bit_and(x->v, V::set(511)), V::set(512 << 16));
      x->v = q_.within(V::multiply_add(q_.half, V::gelu_segment(x->v), part));
    }
    if constexpr (S == 4) {
      const V relu = V::multiply_add(last_.half, V::max(x->y, V::set(0)), t_);
      x->v = last_(V::multiply_add(relu, x->v, minus_d_));
    }
  }

 private:
  const Rounder<V> first_;
  const ProductRounder<V> second_, position_, q_, last_;
  const V c_, minus_d_, t_;
};

template <OutputMode M>
struct OutputVectors<I32x1, M> {
  explicit OutputVectors(const OutputStage& stage) : stage_(stage) {}
  struct Steps {
    I32x1 v;
  };
  template <int S>
  void advance(Steps* x, const int32_t* multiplier) const {
    if (S == 0) x->v = I32x1::output(x->v, multiplier, stage_);
  }

 private:
  const OutputStage stage_;
};

#if defined(__AVX2__)
inline int32_t sum_of(__m256i v) {
  __m128i x = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  x = _mm_add_epi32(x, _mm_shuffle_epi32(x, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32(x, 0xB1)));
}
inline int32_t largest_of(__m256i v) {
  __m128i x = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  x = _mm_max_epi32(x, _mm_shuffle_epi32(x, 0x4E));
  return _mm_cvtsi128_si32(_mm_max_epi32(x, _mm_shuffle_epi32(x, 0xB1)));
}

struct I32x8 {
  static constexpr int kLanes = 8;
  static constexpr int kPartBytes = 16384;  // half of the first cache
  static constexpr bool kOverlaps = false;
  using Count = __m128i;
  __m256i v;

  static I32x8 load(const int32_t* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
  void store(int32_t* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
  static I32x8 broadcast(const uint8_t* p) {
    int32_t x;
    std::memcpy(&x, p, sizeof x);
    return {_mm256_set1_epi32(x)};
  }
  static void widen(const int8_t* from, int16_t* to, int count) {
    for (int i = 0; i < count; i += 16) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), _mm256_cvtepi8_epi16(bytes));
    }
  }
  void add_pairs(I32x8 x, const void* weights) {
    const __m256i w = _mm256_loadu_si256(static_cast<const __m256i*>(weights));
    // v += madd(x, w), the addition by hand, to keep the sum in its register from one step to the next. Left alone, GCC
    // 12 reorders the steps of a block and needs more registers than there are, and the spilled sums halve the speed.
    asm volatile("vpaddd %1, %0, %0" : "+x"(v) : "x"(_mm256_madd_epi16(x.v, w)));
  }

  static I32x8 set(int32_t x) { return {_mm256_set1_epi32(x)}; }
  static Count count(int s) { return _mm_cvtsi32_si128(s); }
  static I32x8 add(I32x8 a, I32x8 b) { return {_mm256_add_epi32(a.v, b.v)}; }
  static I32x8 bit_and(I32x8 a, I32x8 b) { return {_mm256_and_si256(a.v, b.v)}; }
  static I32x8 min(I32x8 a, I32x8 b) { return {_mm256_min_epi32(a.v, b.v)}; }
  static I32x8 max(I32x8 a, I32x8 b) { return {_mm256_max_epi32(a.v, b.v)}; }
  static I32x8 abs(I32x8 a) { return {_mm256_abs_epi32(a.v)}; }
  static I32x8 shift_right(I32x8 a, Count s) { return {_mm256_sra_epi32(a.v, s)}; }
  template <int S>
  static I32x8 shift_right(I32x8 a) {
    return {_mm256_srai_epi32(a.v, S)};
  }
  template <int S>
  static I32x8 shift_left(I32x8 a) {
    return {_mm256_slli_epi32(a.v, S)};
  }
  // x, its lowest bit cleared where v has none of the mask's bits.
  static I32x8 even_where_zero(I32x8 x, I32x8 v, I32x8 mask) {
    const __m256i zero = _mm256_cmpeq_epi32(_mm256_and_si256(v.v, mask.v), _mm256_setzero_si256());
    return {_mm256_andnot_si256(_mm256_srli_epi32(zero, 31), x.v)};
  }
  static I32x8 increment_where_greater(I32x8 x, I32x8 a, I32x8 b) {
    return {_mm256_sub_epi32(x.v, _mm256_cmpgt_epi32(a.v, b.v))};
  }
  static I32x8 bit_or(I32x8 a, I32x8 b) { return {_mm256_or_si256(a.v, b.v)}; }
  // sum + the products of the int16 in the halves of a and b: of one where an upper half is zero.
  static I32x8 multiply_add(I32x8 sum, I32x8 a, I32x8 b) { return add(sum, {_mm256_madd_epi16(a.v, b.v)}); }
  // Slope and, in the upper half, entry of the segment with the position p.
  static I32x8 gelu_segment(I32x8 p) {
    // One load brings an entry and its successor.
    const __m256i both = _mm256_i32gather_epi32(reinterpret_cast<const int*>(kGeluTable), _mm256_srli_epi32(p.v, 9), 2);
    const __m256i entry = _mm256_slli_epi32(both, 16);
    return {_mm256_or_si256(_mm256_srli_epi32(_mm256_sub_epi32(both, entry), 16), entry)};
  }

  void add_scaled(const float* scale, float* y) const {
    const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(v), _mm256_loadu_ps(scale));
    _mm256_storeu_ps(y, _mm256_add_ps(_mm256_loadu_ps(y), scaled));
  }
  void add_scaled(const float* scale, float row_unit, const float* bias, float* y) const {
    const __m256 unscaled = _mm256_cvtepi32_ps(v);
    const __m256 scaled = _mm256_mul_ps(_mm256_mul_ps(unscaled, _mm256_loadu_ps(scale)), _mm256_set1_ps(row_unit));
    _mm256_storeu_ps(y, _mm256_add_ps(_mm256_loadu_ps(y), _mm256_add_ps(scaled, _mm256_loadu_ps(bias))));
  }
  void store_int16(int16_t* y) const {
    const __m128i narrow = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(y), narrow);
  }
  void store_int8(int8_t* y) const {
    const __m128i narrow = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(y), _mm_packs_epi16(narrow, narrow));
  }

  static int32_t weights(const int32_t* scores, int count, int32_t largest, float steps_per_unit, int16_t* to) {
    const __m256i most = _mm256_set1_epi32(largest), one = _mm256_set1_epi32(kExpOne);
    const __m256i c1 = _mm256_set1_epi32(kExpC1), c2 = _mm256_set1_epi32(kExpC2), c3 = _mm256_set1_epi32(kExpC3);
    const __m256 factor = _mm256_set1_ps(steps_per_unit), most_steps = _mm256_set1_ps(kMostSteps);
    __m256i sum = _mm256_setzero_si256();
    for (int i = 0; i < count; i += 8) {
      const __m256i difference = _mm256_sub_epi32(most, load(scores + i).v);
      const __m256i t =
          _mm256_cvtps_epi32(_mm256_min_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(difference), factor), most_steps));
      const __m256i x = _mm256_srli_epi32(_mm256_slli_epi32(t, 21), 16);
      // Upper halves are zero and stay so.
      __m256i y = _mm256_sub_epi32(c2, _mm256_mulhi_epu16(x, c3));
      y = _mm256_sub_epi32(c1, _mm256_mulhi_epu16(x, y));
      y = _mm256_sub_epi32(one, _mm256_mulhi_epu16(x, y));
      y = _mm256_srlv_epi32(y, _mm256_srli_epi32(t, 11));
      const __m256i p = _mm256_avg_epu16(y, _mm256_setzero_si256());
      sum = _mm256_add_epi32(sum, p);
      I32x8{p}.store_int16(to + i);
    }
    return sum_of(sum);
  }
  static int32_t largest(const int32_t* scores, int count) {
    I32x8 most = load(scores);
    for (int i = 8; i < count; i += 8) most = max(most, load(scores + i));
    return largest_of(most.v);
  }
  static void scale(const float* x, int count, float factor, const float* units, float* y) {
    const __m256 row = _mm256_set1_ps(factor);
    for (int i = 0; i < count; i += 8) {
      _mm256_storeu_ps(y + i, _mm256_mul_ps(_mm256_mul_ps(_mm256_loadu_ps(x + i), row), _mm256_loadu_ps(units + i)));
    }
  }
  static I32x8 quantize(const float* x, float inverse_scale, int limit) {
    const __m256 high = _mm256_set1_ps(static_cast<float>(limit)), low = _mm256_set1_ps(static_cast<float>(-limit));
    const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x), _mm256_set1_ps(inverse_scale));
    // minps gives its second operand where one is NaN.
    return {_mm256_cvtps_epi32(_mm256_max_ps(_mm256_min_ps(scaled, high), low))};
  }
  static float largest_magnitude(const float* x, int count) {
    __m256 most = _mm256_setzero_ps();
    for (int i = 0; i < count; i += 8) {
      most = _mm256_max_ps(most, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), _mm256_loadu_ps(x + i)));
    }
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(most), _mm256_extractf128_ps(most, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
  }
  void store_f32(float* y) const { _mm256_storeu_ps(y, _mm256_cvtepi32_ps(v)); }

};
#endif

#if defined(__AVX512F__)
struct GeluSlopes {
  int16_t v[kGeluSegments] = {};
  constexpr GeluSlopes() {
    for (int i = 0; i < kGeluSegments; ++i) v[i] = static_cast<int16_t>(kGeluTable[i + 1] - kGeluTable[i]);
  }
};
constexpr GeluSlopes kSlopes;

struct I32x16 {
  static constexpr int kLanes = 16;
  static constexpr int kPartBytes = 32768;  // half of the first cache or two thirds
  static constexpr bool kOverlaps = true;
  using Count = __m512i;
  __m512i v;

  static I32x16 load(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
  void store(int32_t* p) const { _mm512_storeu_si512(p, v); }
  static I32x16 broadcast(const uint8_t* p) {
    int32_t x;
    std::memcpy(&x, p, sizeof x);
    return {_mm512_set1_epi32(x)};
  }
  // *this += the product of four uint8 inputs and four int8 weights. By hand where the processor's own instructions are
  // compiled for: GCC 12 copies a sum before it adds to it by intrinsic, and spills every copy.
  void add_quads(I32x16 x, const void* weights) {
    const __m512i w = _mm512_loadu_si512(weights);
#if defined(__AVX512VNNI__)
    asm("vpdpbusd %2, %1, %0" : "+v"(v) : "v"(x.v), "v"(w));
#else
    v = _mm512_dpbusd_epi32(v, x.v, w);
#endif
  }

  // For an int16 and an int8 that was widened.
  void add_pairs(I32x16 x, const void* weights) {
    const __m512i w = _mm512_loadu_si512(weights);
#if defined(__AVX512VNNI__)
    asm("vpdpwssd %2, %1, %0" : "+v"(v) : "v"(x.v), "v"(w));
#else
    v = _mm512_dpwssd_epi32(v, x.v, w);
#endif
  }

  static int32_t weights(const int32_t* scores, int count, int32_t largest, float steps_per_unit, int16_t* to) {
    const __m512i most = _mm512_set1_epi32(largest), one = _mm512_set1_epi16(static_cast<int16_t>(kExpOne));
    const __m512i c1 = _mm512_set1_epi16(static_cast<int16_t>(kExpC1)), c2 = _mm512_set1_epi16(kExpC2);
    const __m512i c3 = _mm512_set1_epi16(kExpC3), ones = _mm512_set1_epi16(1);
    const __m512 factor = _mm512_set1_ps(steps_per_unit), most_steps = _mm512_set1_ps(kMostSteps);
    const auto steps = [&](int i) {
      const __m512 difference = _mm512_cvtepi32_ps(_mm512_sub_epi32(most, load(scores + i).v));
      return _mm512_cvtps_epi32(_mm512_min_ps(_mm512_mul_ps(difference, factor), most_steps));
    };
    I32x16 sum = set(0);
    for (int i = 0; i < count; i += 32) {
      const __m512i t = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(steps(i))),
                                           _mm512_cvtepi32_epi16(steps(i + 16)), 1);
      const __m512i x = _mm512_slli_epi16(t, 5);
      __m512i y = _mm512_sub_epi16(c2, _mm512_mulhi_epu16(x, c3));
      y = _mm512_sub_epi16(c1, _mm512_mulhi_epu16(x, y));
      y = _mm512_sub_epi16(one, _mm512_mulhi_epu16(x, y));
      y = _mm512_avg_epu16(_mm512_srlv_epi16(y, _mm512_srli_epi16(t, 11)), _mm512_setzero_si512());
      _mm512_storeu_si512(to + i, y);
      sum.add_pairs({y}, &ones);
    }
    return sum_of(_mm256_add_epi32(_mm512_castsi512_si256(sum.v), _mm512_extracti64x4_epi64(sum.v, 1)));
  }
  static int32_t largest(const int32_t* scores, int count) {
    I32x16 most = load(scores);
    for (int i = 16; i < count; i += 16) most = max(most, load(scores + i));
    return largest_of(_mm256_max_epi32(_mm512_castsi512_si256(most.v), _mm512_extracti64x4_epi64(most.v, 1)));
  }
  static void scale(const float* x, int count, float factor, const float* units, float* y) {
    const __m512 row = _mm512_set1_ps(factor);
    for (int i = 0; i < count; i += 16) {
      _mm512_storeu_ps(y + i, _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(x + i), row), _mm512_loadu_ps(units + i)));
    }
  }
  static I32x16 quantize(const float* x, float inverse_scale, int limit) {
    const __m512 high = _mm512_set1_ps(static_cast<float>(limit)), low = _mm512_set1_ps(static_cast<float>(-limit));
    const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(x), _mm512_set1_ps(inverse_scale));
    return {_mm512_cvtps_epi32(_mm512_max_ps(_mm512_min_ps(scaled, high), low))};
  }
  static float largest_magnitude(const float* x, int count) {
    __m512 most = _mm512_setzero_ps();
    for (int i = 0; i < count; i += 16) most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_loadu_ps(x + i)));
    return _mm512_reduce_max_ps(most);
  }
  void store_f32(float* y) const { _mm512_storeu_ps(y, _mm512_cvtepi32_ps(v)); }

  // Of int16.
  static int32_t least_of(const uint8_t* a, int count) {
    __m512i least = _mm512_loadu_si512(a);
    for (int i = 32; i < count; i += 32) least = _mm512_min_epi16(least, _mm512_loadu_si512(a + 2 * i));
    const __m256i half = _mm256_min_epi16(_mm512_castsi512_si256(least), _mm512_extracti64x4_epi64(least, 1));
    const __m128i quarter = _mm_min_epi16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    // The instruction knows unsigned numbers.
    return _mm_extract_epi16(_mm_minpos_epu16(_mm_xor_si128(quarter, _mm_set1_epi16(INT16_MIN))), 0) + INT16_MIN;
  }
  // R rows of `inputs` int16, less the row's `least`, as lower and upper bytes, rows at `stride`. What is kept of the
  // upper ones are the steps of four inputs in which not all R rows are zero. Returns their number. `inputs` is a
  // multiple of 64.
  template <int R>
  static int split(const uint8_t* a, ptrdiff_t a_stride, int inputs, const int32_t* least, uint8_t* lo, uint8_t* hi,
                   ptrdiff_t stride, int32_t* steps) {
    int count = 0;
    __m512i step = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (int i = 0; i < inputs; i += 64, step = _mm512_add_epi32(step, _mm512_set1_epi32(16))) {
      __m512i upper[R], any = _mm512_setzero_si512();
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const uint8_t* x = a + r * a_stride + 2 * i;
        const __m512i start = _mm512_set1_epi16(static_cast<int16_t>(least[r]));
        const __m512i first = _mm512_sub_epi16(_mm512_loadu_si512(x), start);
        const __m512i second = _mm512_sub_epi16(_mm512_loadu_si512(x + 64), start);
        uint8_t* to = lo + r * stride + i;
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi16_epi8(first));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 32), _mm512_cvtepi16_epi8(second));
        upper[r] = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi16_epi8(_mm512_srli_epi16(first, 8))),
                                      _mm512_cvtepi16_epi8(_mm512_srli_epi16(second, 8)), 1);
        any = _mm512_or_si512(any, upper[r]);
      }
      const __mmask16 kept = _mm512_test_epi32_mask(any, any);
      _mm512_storeu_si512(steps + count, _mm512_maskz_compress_epi32(kept, step));
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        _mm512_storeu_si512(hi + r * stride + 4 * count, _mm512_maskz_compress_epi32(kept, upper[r]));
      }
      count += __builtin_popcount(kept);
    }
    return count;
  }

  static I32x16 set(int32_t x) { return {_mm512_set1_epi32(x)}; }
  static Count count(int s) { return _mm512_set1_epi32(s); }
  static I32x16 add(I32x16 a, I32x16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
  static I32x16 bit_and(I32x16 a, I32x16 b) { return {_mm512_and_epi32(a.v, b.v)}; }
  static I32x16 min(I32x16 a, I32x16 b) { return {_mm512_min_epi32(a.v, b.v)}; }
  static I32x16 max(I32x16 a, I32x16 b) { return {_mm512_max_epi32(a.v, b.v)}; }
  static I32x16 abs(I32x16 a) { return {_mm512_abs_epi32(a.v)}; }
  static I32x16 shift_right(I32x16 a, Count s) { return {_mm512_srav_epi32(a.v, s)}; }
  template <int S>
  static I32x16 shift_right(I32x16 a) {
    return {_mm512_srai_epi32(a.v, S)};
  }
  template <int S>
  static I32x16 shift_left(I32x16 a) {
    return {_mm512_slli_epi32(a.v, S)};
  }
  static I32x16 even_where_zero(I32x16 x, I32x16 v, I32x16 mask) {
    return {_mm512_mask_and_epi32(x.v, _mm512_testn_epi32_mask(v.v, mask.v), x.v, _mm512_set1_epi32(-2))};
  }
  static I32x16 increment_where_greater(I32x16 x, I32x16 a, I32x16 b) {
    return {_mm512_mask_add_epi32(x.v, _mm512_cmpgt_epi32_mask(a.v, b.v), x.v, _mm512_set1_epi32(1))};
  }
  static I32x16 multiply32(I32x16 a, I32x16 b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
  static I32x16 bit_or(I32x16 a, I32x16 b) { return {_mm512_or_epi32(a.v, b.v)}; }
  static I32x16 multiply_add(I32x16 sum, I32x16 a, I32x16 b) { return {_mm512_dpwssd_epi32(sum.v, a.v, b.v)}; }
  static I32x16 gelu_segment(I32x16 p) {
    // The tables lie in registers. Words carry an index by turns.
    const __mmask32 even = 0x55555555, odd = 0xaaaaaaaa;
    const __m512i even_index = _mm512_srli_epi32(p.v, 9), odd_index = _mm512_slli_epi32(p.v, 7);
    const __m512i slope = _mm512_maskz_permutex2var_epi16(even, _mm512_loadu_si512(kSlopes.v), even_index,
                                                          _mm512_loadu_si512(kSlopes.v + 32));
    const __m512i entry = _mm512_maskz_permutex2var_epi16(odd, _mm512_loadu_si512(kGeluTable), odd_index,
                                                          _mm512_loadu_si512(kGeluTable + 32));
    return {_mm512_or_si512(slope, entry)};
  }

  void add_scaled(const float* scale, float* y) const {
    const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(v), _mm512_loadu_ps(scale));
    _mm512_storeu_ps(y, _mm512_add_ps(_mm512_loadu_ps(y), scaled));
  }
  void add_scaled(const float* scale, float row_unit, const float* bias, float* y) const {
    const __m512 scaled =
        _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(v), _mm512_loadu_ps(scale)), _mm512_set1_ps(row_unit));
    _mm512_storeu_ps(y, _mm512_add_ps(_mm512_loadu_ps(y), _mm512_add_ps(scaled, _mm512_loadu_ps(bias))));
  }
  void store_int16(int16_t* y) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(y), _mm512_cvtsepi32_epi16(v));
  }
  void store_int8(int8_t* y) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(y), _mm512_cvtsepi32_epi8(v));
  }

};
#endif

}  // namespace
}  // namespace whisperxdna2
