#include "kernels/cpu/linear.h"

#include <algorithm>


namespace whisperxdna2 {
namespace {

// A task covers this many rows and columns: its rows of x stay in the second cache, and a window makes some dozens of
// tasks, so that two threads end together.
constexpr int kTaskRows = 96;
constexpr int kTaskColumns = 256;

}  // namespace

PackedLinear::PackedLinear(const float* weight, const float* bias, int out, int in, const F32Kernels& kernels)
    : out_(out), in_(in) {
  const int panel = kernels.panel;
  const int panels = (out + panel - 1) / panel;
  panels_.resize(static_cast<size_t>(panels) * panel * in);
  for (int n = 0; n < out; ++n) {
    float* p = &panels_[(static_cast<size_t>(n / panel) * in) * panel + n % panel];
    for (int k = 0; k < in; ++k) p[static_cast<size_t>(k) * panel] = weight[static_cast<size_t>(n) * in + k];
  }
  if (bias) {
    bias_.assign(static_cast<size_t>(panels) * panel, 0.0f);
    std::copy(bias, bias + out, bias_.begin());
  }
}

void linear(const PackedLinear& w, const float* x, ptrdiff_t x_stride, int rows, float* y, ptrdiff_t y_stride,
            Epilogue epilogue, const Workers& workers, const F32Kernels& kernels) {
  const int panels = (w.out_ + kernels.panel - 1) / kernels.panel;
  const int panels_per_task = std::max(1, kTaskColumns / kernels.panel);
  const int row_tasks = (rows + kTaskRows - 1) / kTaskRows;
  const int column_tasks = (panels + panels_per_task - 1) / panels_per_task;
  ThreadPool::instance().parallel_for(workers, row_tasks * column_tasks, [&](int i) {
    const int row = i / column_tasks * kTaskRows;
    GemmTask t{};
    t.a = x + row * x_stride;
    t.a_stride = x_stride;
    t.rows = std::min(kTaskRows, rows - row);
    t.b = w.panels_.data();
    t.k = w.in_;
    t.n = w.out_;
    t.first_panel = i % column_tasks * panels_per_task;
    t.last_panel = std::min(panels, t.first_panel + panels_per_task);
    t.bias = w.bias_.empty() ? nullptr : w.bias_.data();
    t.y = y + row * y_stride;
    t.y_stride = y_stride;
    t.epilogue = epilogue;
    kernels.gemm(t);
  });
}

}  // namespace whisperxdna2
