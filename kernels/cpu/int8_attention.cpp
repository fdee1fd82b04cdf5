#include "kernels/cpu/int8_attention.h"

#include <emmintrin.h>

#include <algorithm>

#include "kernels/cpu/panels.h"

namespace whisperxdna2 {
namespace {

constexpr int kRegister = 16;  // bytes

__m128i load(const int8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
// Eight of sixteen bytes as int16.
__m128i widen_low(__m128i x) { return _mm_srai_epi16(_mm_unpacklo_epi8(x, x), 8); }
__m128i widen_high(__m128i x) { return _mm_srai_epi16(_mm_unpackhi_epi8(x, x), 8); }

int32_t sum_of_head(const int8_t* row) {
  __m128i sum = _mm_setzero_si128();
  for (int c = 0; c < kHeadWidth; c += kRegister) {
    sum = _mm_add_epi64(sum, _mm_sad_epu8(_mm_xor_si128(load(row + c), _mm_set1_epi8(-128)), _mm_setzero_si128()));
  }
  return _mm_cvtsi128_si32(_mm_add_epi64(sum, _mm_unpackhi_epi64(sum, sum))) - 128 * kHeadWidth;
}

// A head's keys as Int8AttentionTask wants them.
void pack_keys(const int8_t* k, ptrdiff_t stride, int rows, int columns, const Int8Kernels& kernels, uint8_t* to,
               int32_t* start) {
  std::fill_n(start, columns, 0);
  if (kernels.format8 == Int8Format::kPairs) {
    thread_local AlignedVector<int16_t> wide;
    wide.resize(static_cast<size_t>(rows) * kHeadWidth);
    for (int row = 0; row < rows; ++row) {
      std::copy_n(k + row * stride, kHeadWidth, &wide[static_cast<size_t>(row) * kHeadWidth]);
    }
    pack_panels(wide.data(), kHeadWidth * sizeof(int16_t), rows, kHeadWidth / 2, kernels.panel, to);
  } else {
    pack_panels(k, stride, rows, kHeadWidth / 4, kernels.panel, to);
    for (int row = 0; row < rows; ++row) start[row] = -128 * sum_of_head(k + row * stride);
  }
}

void pack_values(const int8_t* v, ptrdiff_t stride, int rows, int16_t* to) {
  static const int8_t kZeros[kHeadWidth] = {};
  for (int row = 0; row < rows; row += 2, to += 2 * kHeadWidth) {
    const int8_t* even = v + row * stride;
    const int8_t* odd = row + 1 < rows ? even + stride : kZeros;
    for (int c = 0; c < kHeadWidth; c += kRegister) {
      const __m128i a = load(even + c), b = load(odd + c);
      __m128i* block = reinterpret_cast<__m128i*>(to + 2 * c);
      _mm_storeu_si128(block, _mm_unpacklo_epi16(widen_low(a), widen_low(b)));
      _mm_storeu_si128(block + 1, _mm_unpackhi_epi16(widen_low(a), widen_low(b)));
      _mm_storeu_si128(block + 2, _mm_unpacklo_epi16(widen_high(a), widen_high(b)));
      _mm_storeu_si128(block + 3, _mm_unpackhi_epi16(widen_high(a), widen_high(b)));
    }
  }
}

}  // namespace

void int8_attention(const int8_t* qkv, ptrdiff_t stride, int rows, int heads, const Int8AttentionUnits& units,
                    const Int8Rows& out, Int8AttentionScratch* scratch, const Workers& workers,
                    const Int8Kernels& kernels) {
  const int width = heads * kHeadWidth;
  const int columns = (rows + kernels.panel - 1) / kernels.panel * kernels.panel;
  const size_t keys_size = static_cast<size_t>(columns) * kHeadWidth * element_size(kernels.format8);  // of a head
  const size_t values_size = static_cast<size_t>(rows + 1) / 2 * 2 * kHeadWidth;
  scratch->keys.resize(keys_size * heads);
  scratch->key_start.resize(static_cast<size_t>(columns) * heads);
  scratch->values.resize(values_size * heads);
  scratch->results.resize(static_cast<size_t>(rows) * width);

  ThreadPool& pool = ThreadPool::instance();
  pool.parallel_for(workers, heads, [&](int head) {
    const int8_t* k = qkv + width + head * kHeadWidth;
    pack_keys(k, stride, rows, columns, kernels, &scratch->keys[keys_size * head],
              &scratch->key_start[static_cast<size_t>(columns) * head]);
    pack_values(k + width, stride, rows, &scratch->values[values_size * head]);
  });

  const int tiles = (rows + kInt8AttentionRows - 1) / kInt8AttentionRows;
  pool.parallel_for(workers, heads * tiles, [&](int i) {
    const int head = i / tiles, row = i % tiles * kInt8AttentionRows;
    // One tile per thread, not per task: it stays in the cache.
    thread_local AlignedVector<int32_t> scores;
    thread_local AlignedVector<int16_t> weights;
    const size_t tile = static_cast<size_t>(kInt8AttentionRows) * columns;
    scores.resize(std::max(scores.size(), tile));
    weights.resize(std::max(weights.size(), tile));
    Int8AttentionTask t{};
    t.queries = qkv + row * stride + head * kHeadWidth;
    t.stride = stride;
    t.rows = std::min(kInt8AttentionRows, rows - row);
    t.keys = rows;
    t.packed_keys = &scratch->keys[keys_size * head];
    t.key_start = &scratch->key_start[static_cast<size_t>(columns) * head];
    t.values = &scratch->values[values_size * head];
    t.steps_per_unit = kStepsPerNeper * units.score[head];
    t.unit = units.value + head * kHeadWidth;
    t.out = &scratch->results[static_cast<size_t>(row) * width + head * kHeadWidth];
    t.out_stride = width;
    t.scores = scores.data();
    t.weights = weights.data();
    kernels.attention(t);
  });

  pool.parallel_for(workers, tiles, [&](int i) {
    for (int row = i * kInt8AttentionRows; row < std::min(rows, (i + 1) * kInt8AttentionRows); ++row) {
      out.unit[row] = kernels.quantize_row(&scratch->results[static_cast<size_t>(row) * width], width, out.input,
                                           out.values + row * out.stride);
    }
  });
}

}  // namespace whisperxdna2
