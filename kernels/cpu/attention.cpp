#include "kernels/cpu/attention.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/panels.h"

namespace whisperxdna2 {
namespace {

constexpr int kTileRows = 24;  // queries of a task; their scores over 1500 keys fit the second cache

}  // namespace

void attention(const float* qkv, int rows, int heads, float* out, AttentionScratch* scratch, const Workers& workers,
               const F32Kernels& kernels) {
  const int width = heads * kHeadWidth;
  const ptrdiff_t stride = 3 * width;
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
    const float* k = qkv + width + head * kHeadWidth;
    pack_panels(k, stride * sizeof *k, rows, kHeadWidth, panel, scratch->keys.data() + keys_size * head);
    float* values = scratch->values.data() + values_size * head;
    for (int row = 0; row < rows; ++row) {
      const float* v = k + width + row * stride;
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
    float inverse[kTileRows];
    GemmTask t{};
    t.rows = std::min(kTileRows, rows - row);
    t.a = qkv + row * stride + head * kHeadWidth;
    t.a_stride = stride;
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
