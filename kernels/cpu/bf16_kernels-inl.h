// The kernels in bf16, written once for any vector type V of simd.h. Included by one file for each instruction set.
#pragma once

#include "kernels/cpu/bf16_kernels.h"
#include "kernels/cpu/f32_kernels-inl.h"

namespace whisperxdna2 {
namespace {

// Pairs of bf16 in every lane of V: load() of different ones, broadcast() of the same.
template <class V>
struct Pairs;

template <>
struct Pairs<F32x1> {
  float first, second;
  static Pairs load(const uint16_t* p) { return {widen_bf16(p[0]), widen_bf16(p[1])}; }
  static Pairs broadcast(const uint16_t* p) { return load(p); }
  // sum += the products
  static void add(F32x1* sum, Pairs a, Pairs b) { sum->v = sum->v + a.first * b.first + a.second * b.second; }
  static void store(F32x1 x, uint16_t* to) {
    uint32_t bits;
    std::memcpy(&bits, &x.v, sizeof bits);
    *to = static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
  }
};

#if defined(__AVX2__)
template <>
struct Pairs<F32x8> {
  __m256 first, second;
  static Pairs of(__m256i both) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(both, 16)),
            _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(INT32_MIN >> 15)))};
  }
  static Pairs load(const uint16_t* p) { return of(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static Pairs broadcast(const uint16_t* p) {
    int32_t both;
    std::memcpy(&both, p, sizeof both);
    return of(_mm256_set1_epi32(both));
  }
  static void add(F32x8* sum, Pairs a, Pairs b) {
    sum->v = _mm256_fmadd_ps(a.second, b.second, _mm256_fmadd_ps(a.first, b.first, sum->v));
  }
  static void store(F32x8 x, uint16_t* to) {
    const __m256i bits = _mm256_castps_si256(x.v),
                  odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i wide =
        _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF))), 16);
    const __m128i narrow = _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), narrow);
  }
};
#endif

#if defined(__AVX512BF16__)
template <>
struct Pairs<F32x16> {
  __m512i both;
  static Pairs load(const uint16_t* p) { return {_mm512_loadu_si512(p)}; }
  static Pairs broadcast(const uint16_t* p) {
    int32_t both;
    std::memcpy(&both, p, sizeof both);
    return {_mm512_set1_epi32(both)};
  }
  // By hand, as I32x16::add_quads().
  static void add(F32x16* sum, Pairs a, Pairs b) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum->v) : "v"(b.both), "v"(a.both));
  }
  static void store(F32x16 x, uint16_t* to) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x.v)));
  }
};
#endif

template <class V>
inline void finish_row(const BF16GemmTask& t, const float* sums, int row, int n, int count) {
  const ptrdiff_t at = row * t.y_stride + n;
  for (int c = 0; c < count; c += V::kLanes) {
    V v = V::load(sums + c);
    switch (t.epilogue) {
      case Epilogue::kNone:
        break;
      case Epilogue::kGelu:
        v = gelu(v);
        break;
      case Epilogue::kAdd:
        v = v + V::load(static_cast<const float*>(t.y) + at + c);
        break;
      case Epilogue::kScaleRow:
        v = v * V::set(t.row_scale[row]);
        break;
    }
    if (t.y_is_bf16) {
      Pairs<V>::store(v, static_cast<uint16_t*>(t.y) + at + c);
    } else {
      v.store(static_cast<float*>(t.y) + at + c);
    }
  }
}

// R rows by one panel, as gemm_block().
template <class V, int R>
inline void bf16_block(const BF16GemmTask& t, int ahead, int row, int panel) {
  constexpr int kPanel = kPanelVectors * V::kLanes;
  const uint16_t* a = t.a + row * t.a_stride;
  const uint16_t* b = t.b + static_cast<ptrdiff_t>(panel) * kPanel * t.k;
  V sum[R][kPanelVectors];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int c = 0; c < kPanelVectors; ++c) {
      sum[r][c] = t.bias ? V::load(t.bias + panel * kPanel + c * V::kLanes) : V::set(0);
    }
  }
  const char* next = fetched_ahead(b + static_cast<ptrdiff_t>(kPanel) * t.k, ahead, row, t.k / 2);
  for (int k = 0; k < t.k; k += 2, b += 2 * kPanel, next += R * ahead) {
    if constexpr (V::kPrefetches) __builtin_prefetch(next, 0, 2);
    Pairs<V> column[kPanelVectors];
    for (int c = 0; c < kPanelVectors; ++c) column[c] = Pairs<V>::load(b + 2 * c * V::kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Pairs<V> x = Pairs<V>::broadcast(a + r * t.a_stride + k);
#pragma GCC unroll 16
      for (int c = 0; c < kPanelVectors; ++c) Pairs<V>::add(&sum[r][c], x, column[c]);
    }
  }
  alignas(64) float sums[R][kPanel];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int c = 0; c < kPanelVectors; ++c) sum[r][c].store(&sums[r][c * V::kLanes]);
  }
  for (int r = 0; r < R; ++r) finish_row<V>(t, sums[r], row + r, panel * kPanel, kPanel);
}

template <class V, int R>
void bf16_gemm(const BF16GemmTask& t) {
  const int ahead = bytes_ahead(kPanelVectors * V::kLanes * 2 * sizeof(uint16_t), t.rows);
  for (int panel = t.first_panel; panel < t.last_panel; ++panel) {
    for_row_blocks<R>(t.rows, [&](auto n, int row) { bf16_block<V, n>(t, ahead, row, panel); });
  }
}

template <class V>
void bf16_narrow(const float* from, size_t count, uint16_t* to) {
  size_t i = 0;
  for (; i + V::kLanes <= count; i += V::kLanes) Pairs<V>::store(V::load(from + i), to + i);
  for (; i < count; ++i) Pairs<F32x1>::store(F32x1::load(from + i), to + i);
}

template <class V>
void bf16_softmax(const float* scores, ptrdiff_t stride, int count, int columns, uint16_t* to, ptrdiff_t to_stride,
                  float* inverse) {
  const int whole = columns / V::kLanes * V::kLanes;
  for (int r = 0; r < count; ++r, scores += stride, to += to_stride) {
    const float most = largest_of<V>(scores, columns);
    V sum = V::set(0);
    for (int c = 0; c < whole; c += V::kLanes) {
      const V e = exp_for_bf16(V::load(scores + c) - V::set(most));
      Pairs<V>::store(e, to + c);
      sum = sum + e;
    }
    float total = sum.sum();
    for (int c = whole; c < columns; ++c) {
      const F32x1 e = exp_for_bf16(F32x1::set(scores[c] - most));
      Pairs<F32x1>::store(e, to + c);
      total += e.v;
    }
    inverse[r] = 1.0f / total;
  }
}

// R: rows of a block, as many as the instruction set has registers for.
template <class V, int R>
constexpr BF16Kernels make_bf16_kernels() {
  return {kPanelVectors * V::kLanes, bf16_gemm<V, R>, bf16_softmax<V>, bf16_narrow<V>};
}

}  // namespace
}  // namespace whisperxdna2
