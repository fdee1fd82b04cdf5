#include "kernels/cpu/attention.h"

#include <xmmintrin.h>

#include <algorithm>
#include <cstring>

namespace whisperxdna2 {
namespace {

constexpr int kTileRows = 24;  // queries of a task; their scores over 1500 keys fit the second cache

// A head's part of a row, from `column`; in `buffer` where it is not f32 yet.
const float* head_part(const AttentionInput& in, int row, int column, float* buffer, const F32Kernels& kernels) {
  const ptrdiff_t at = row * in.stride + column;
  if (in.values) return in.values + at;
  kernels.dequantize(in.integers + at, in.scale + column, kHeadWidth, buffer);
  return buffer;
}

// A head's keys, from `column`, as panels [head width][panel], the last one filled up with zeros.
void pack_keys(const AttentionInput& in, int rows, int columns, int column, float* keys, const F32Kernels& kernels) {
  const int panel = kernels.panel;
  float buffer[4][kHeadWidth];
  for (int row = 0; row < columns;) {
    float* to = keys + static_cast<size_t>(row / panel) * panel * kHeadWidth + row % panel;
    if (panel % 4 == 0 && row + 4 <= rows) {
      const float* k[4];
      for (int r = 0; r < 4; ++r) k[r] = head_part(in, row + r, column, buffer[r], kernels);
      for (int c = 0; c < kHeadWidth; c += 4, to += 4 * panel) {
        __m128 x0 = _mm_loadu_ps(k[0] + c), x1 = _mm_loadu_ps(k[1] + c), x2 = _mm_loadu_ps(k[2] + c), x3 = _mm_loadu_ps(k[3] + c);
        _MM_TRANSPOSE4_PS(x0, x1, x2, x3);
        _mm_storeu_ps(to, x0);
        _mm_storeu_ps(to + panel, x1);
        _mm_storeu_ps(to + 2 * panel, x2);
        _mm_storeu_ps(to + 3 * panel, x3);
      }
      row += 4;
    } else {
      const float* k = row < rows ? head_part(in, row, column, buffer[0], kernels) : nullptr;
      for (int c = 0; c < kHeadWidth; ++c) to[static_cast<size_t>(c) * panel] = k ? k[c] : 0.0f;
      ++row;
    }
  }
}

}  // namespace

void attention(const AttentionInput& qkv, int rows, int heads, float* out, AttentionScratch* scratch, const Workers& workers,
               const F32Kernels& kernels) {
  const int width = heads * kHeadWidth;
  const int panel = kernels.panel;
  const int key_panels = (rows + panel - 1) / panel;
  const int columns = key_panels * panel;
  const int value_panels = kHeadWidth / panel;
  const size_t keys_size = static_cast<size_t>(columns) * kHeadWidth;          // of a head
  const size_t values_size = static_cast<size_t>(kHeadWidth) * rows;
  const int tiles = (rows + kTileRows - 1) / kTileRows;
  scratch->keys.resize(keys_size * heads);
  scratch->values.resize(values_size * heads);

  ThreadPool& pool = ThreadPool::instance();
  pool.parallel_for(workers, heads, [&](int head) {
    float buffer[kHeadWidth];
    pack_keys(qkv, rows, columns, width + head * kHeadWidth, scratch->keys.data() + keys_size * head, kernels);
    float* values = scratch->values.data() + values_size * head;
    for (int row = 0; row < rows; ++row) {
      const float* v = head_part(qkv, row, 2 * width + head * kHeadWidth, buffer, kernels);
      for (int p = 0; p < value_panels; ++p) {
        std::memcpy(values + (static_cast<size_t>(p) * rows + row) * panel, v + p * panel, panel * sizeof *v);
      }
    }
  });

  pool.parallel_for(workers, heads * tiles, [&](int i) {
    const int head = i / tiles, row = i % tiles * kTileRows;
    // One tile per thread, not per task: it stays in the cache.
    thread_local AlignedVector<float> tile;
    tile.resize(std::max(tile.size(), static_cast<size_t>(kTileRows) * columns));
    float* scores = tile.data();
    float inverse[kTileRows], queries[kTileRows * kHeadWidth];
    GemmTask t{};
    t.rows = std::min(kTileRows, rows - row);
    t.a = head_part(qkv, row, head * kHeadWidth, queries, kernels);
    t.a_stride = qkv.values ? qkv.stride : kHeadWidth;
    for (int r = 1; !qkv.values && r < t.rows; ++r) {
      head_part(qkv, row + r, head * kHeadWidth, queries + r * kHeadWidth, kernels);
    }
    t.b = scratch->keys.data() + keys_size * head;
    t.k = kHeadWidth;
    t.n = columns;
    t.last_panel = key_panels;
    t.y = scores;
    t.y_stride = columns;
    kernels.gemm(t);

    kernels.softmax(scores, columns, t.rows, rows, inverse);

    t.a = scores;
    t.a_stride = columns;
    t.b = scratch->values.data() + values_size * head;
    t.k = rows;
    t.n = kHeadWidth;
    t.last_panel = value_panels;
    t.y = out + static_cast<ptrdiff_t>(row) * width + head * kHeadWidth;
    t.y_stride = width;
    t.epilogue = Epilogue::kScaleRow;
    t.row_scale = inverse;
    kernels.gemm(t);
  });
}

}  // namespace whisperxdna2
