#include "kernels/cpu/bf16_attention.h"

#include <algorithm>

#include "kernels/cpu/panels.h"

namespace whisperxdna2 {
namespace {

constexpr int kTileRows = 28;  // queries of a task: two blocks of AVX-512

// A head's values as panels [rows / 2, rounded up][panel][2]. The one there may be too many is zero, whatever its
// weight is.
void pack_values(const uint16_t* v, ptrdiff_t stride, int rows, int panel, uint16_t* to) {
  static const uint16_t kZeros[kHeadWidth] = {};
  for (int first = 0; first < kHeadWidth; first += panel) {
    for (int row = 0; row < rows; row += 2, to += 2 * panel) {
      const uint16_t* even = v + row * stride + first;
      const uint16_t* odd = row + 1 < rows ? even + stride : kZeros;
      for (int c = 0; c < panel; ++c) {
        to[2 * c] = even[c];
        to[2 * c + 1] = odd[c];
      }
    }
  }
}

}  // namespace

void bf16_attention(const uint16_t* qkv, int rows, int heads, uint16_t* out, BF16AttentionScratch* scratch,
                    const Workers& workers, const BF16Kernels& kernels) {
  const int width = heads * kHeadWidth;
  const ptrdiff_t stride = 3 * width;
  const int panel = kernels.panel;
  const int key_panels = (rows + panel - 1) / panel;
  const int columns = key_panels * panel;
  const int weights = (rows + 1) / 2 * 2;  // of a query, in pairs
  const size_t keys_size = static_cast<size_t>(columns) * kHeadWidth;  // of a head
  const size_t values_size = static_cast<size_t>(weights) * kHeadWidth;
  const int tiles = (rows + kTileRows - 1) / kTileRows;
  scratch->keys.resize(keys_size * heads);
  scratch->values.resize(values_size * heads);

  ThreadPool& pool = ThreadPool::instance();
  pool.parallel_for(workers, heads, [&](int head) {
    const uint16_t* k = qkv + width + head * kHeadWidth;
    pack_panels(k, stride * sizeof *k, rows, kHeadWidth / 2, panel, scratch->keys.data() + keys_size * head);
    pack_values(k + width, stride, rows, panel, scratch->values.data() + values_size * head);
  });

  pool.parallel_for(workers, heads * tiles, [&](int i) {
    const int head = i / tiles, row = i % tiles * kTileRows;
    // One tile per thread, not per task: it stays in the cache.
    thread_local AlignedVector<float> tile;
    thread_local AlignedVector<uint16_t> narrow;
    tile.resize(std::max(tile.size(), static_cast<size_t>(kTileRows) * columns));
    narrow.resize(
        std::max(narrow.size(), static_cast<size_t>(kTileRows) * weights));  // always finite: see pack_values()
    float inverse[kTileRows];
    BF16GemmTask t{};
    t.a = qkv + row * stride + head * kHeadWidth;
    t.a_stride = stride;
    t.rows = std::min(kTileRows, rows - row);
    t.b = scratch->keys.data() + keys_size * head;
    t.k = kHeadWidth;
    t.n = columns;
    t.last_panel = key_panels;
    t.y = tile.data();
    t.y_stride = columns;
    kernels.gemm(t);

    kernels.softmax(tile.data(), columns, t.rows, rows, narrow.data(), weights, inverse);

    t.a = narrow.data();
    t.a_stride = weights;
    t.b = scratch->values.data() + values_size * head;
    t.k = weights;
    t.n = kHeadWidth;
    t.last_panel = kHeadWidth / panel;
    t.y = out + static_cast<ptrdiff_t>(row) * width + head * kHeadWidth;
    t.y_stride = width;
    t.y_is_bf16 = true;
    t.epilogue = Epilogue::kScaleRow;
    t.row_scale = inverse;
    kernels.gemm(t);
  });
}

}  // namespace whisperxdna2
