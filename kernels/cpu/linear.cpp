#include "kernels/cpu/linear.h"

#include <algorithm>

#include "kernels/cpu/gemm_tasks.h"

namespace whisperxdna2 {
namespace {

constexpr int kTaskRows = 96;  // of x: they stay in the second cache

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
  for_gemm_tasks(workers, rows, kTaskRows, w.out_, kTaskColumns, kernels.panel,
                 [&](int row, int count, int first_panel, int last_panel) {
    GemmTask t{};
    t.a = x + row * x_stride;
    t.a_stride = x_stride;
    t.rows = count;
    t.b = w.panels_.data();
    t.k = w.in_;
    t.n = w.out_;
    t.first_panel = first_panel;
    t.last_panel = last_panel;
    t.bias = w.bias_.empty() ? nullptr : w.bias_.data();
    t.y = y + row * y_stride;
    t.y_stride = y_stride;
    t.epilogue = epilogue;
    kernels.gemm(t);
  });
}

}  // namespace whisperxdna2
