#include "kernels/cpu/bf16_linear.h"

#include <algorithm>
#include <stdexcept>

#include "kernels/cpu/gemm_tasks.h"

namespace whisperxdna2 {
namespace {

constexpr int kTaskRows = 98;  // of x: they stay in the second cache

}  // namespace

BF16Linear::BF16Linear(const float* weight, const float* bias, int out, int in, const BF16Kernels& kernels)
    : out_(out), in_(in), panels_(static_cast<size_t>(out) * in) {
  if (out % 64 != 0 || in % 2 != 0) {
    throw std::invalid_argument("bf16 layers have multiples of 64 outputs and of 2 inputs");
  }
  if (bias) bias_.assign(bias, bias + out);
  const int panel = kernels.panel;
  AlignedVector<uint16_t> row(in);
  for (int n = 0; n < out; ++n) {
    kernels.narrow(weight + static_cast<size_t>(n) * in, in, row.data());
    uint16_t* to = &panels_[static_cast<size_t>(n / panel) * panel * in + 2 * (n % panel)];
    for (int k = 0; k < in; k += 2, to += 2 * panel) std::copy_n(&row[k], 2, to);
  }
}

void bf16_linear(const BF16Linear& w, const uint16_t* x, ptrdiff_t x_stride, int rows, void* y, ptrdiff_t y_stride,
                 bool y_is_bf16, Epilogue epilogue, const Workers& workers, const BF16Kernels& kernels) {
  const ptrdiff_t y_row = y_stride * static_cast<ptrdiff_t>(y_is_bf16 ? sizeof(uint16_t) : sizeof(float));
  for_gemm_tasks(workers, rows, kTaskRows, w.out_, kTaskColumns, kernels.panel,
                 [&](int row, int count, int first_panel, int last_panel) {
    BF16GemmTask t{};
    t.a = x + row * x_stride;
    t.a_stride = x_stride;
    t.rows = count;
    t.b = w.panels_.data();
    t.k = w.in_;
    t.n = w.out_;
    t.first_panel = first_panel;
    t.last_panel = last_panel;
    t.bias = w.bias_.empty() ? nullptr : w.bias_.data();
    t.y = static_cast<uint8_t*>(y) + row * y_row;
    t.y_stride = y_stride;
    t.y_is_bf16 = y_is_bf16;
    t.epilogue = epilogue;
    kernels.gemm(t);
  });
}

}  // namespace whisperxdna2
