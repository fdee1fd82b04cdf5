#include "kernels/cpu/int8_linear.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "kernels/cpu/gemm_tasks.h"

namespace whisperxdna2 {
namespace {

// Inputs of 14 bits are divided into bytes by each task: more columns and fewer rows.
constexpr int kTaskRows14 = 64, kTaskColumns14 = 512;
static_assert(kTaskRows14 <= kInt8TaskRows);

}  // namespace

Int8Linear::Int8Linear(const Int8Layer& l, const Int8Kernels& kernels)
    : out_(l.out),
      in_(l.in),
      format_(l.input_14bit ? Int8Format::kPairs : kernels.format8),
      input_14bit_(l.input_14bit),
      stage_(l.stage),
      panels_(static_cast<size_t>(l.out) * l.in),
      start_(l.bias, l.bias + l.out),
      multiplier_(l.multiplier, l.multiplier + l.out) {
  if (l.out <= 0 || l.in <= 0 || l.out % 64 != 0 || l.in % 64 != 0) {
    throw std::invalid_argument("int8 layers have multiples of 64 inputs and outputs");
  }
  if (l.stage.mode == OutputMode::kInt16) scale_.assign(l.scale, l.scale + l.out);
  if (l.row_bias) row_bias_.assign(l.row_bias, l.row_bias + l.out);
  const Int8Format order = input_14bit_ ? kernels.weights14 : format_;
  const int panel = kernels.panel, step = steps_k(order);
  for (int n = 0; n < out_; ++n) {
    const int8_t* from = l.weight + static_cast<size_t>(n) * in_;
    int8_t* to = &panels_[static_cast<size_t>(n / panel) * panel * in_ + (n % panel) * step];
    for (int k = 0; k < in_; k += step) std::copy_n(from + k, step, to + static_cast<size_t>(k) * panel);
    if (order != Int8Format::kQuads) continue;
    const int32_t sum = std::accumulate(from, from + in_, 0);
    if (input_14bit_) {
      weight_sum_.push_back(sum);
    } else {
      // The inputs carry an offset of 128. Modulo 2^32: only the whole sum need fit.
      start_[n] = static_cast<int32_t>(static_cast<uint32_t>(start_[n]) - 128u * static_cast<uint32_t>(sum));
    }
  }
}

void int8_linear(const Int8Linear& l, const void* x, const float* row_unit, int rows, void* y, ptrdiff_t y_stride,
                 const Workers& workers, const Int8Kernels& kernels) {
  const OutputMode mode = l.stage_.mode;
  const size_t y_size = mode == OutputMode::kInt8 ? 1 : mode == OutputMode::kGelu14 ? sizeof(int16_t) : sizeof(float);
  const int task_rows = l.input_14bit_ ? kTaskRows14 : kInt8TaskRows;
  const int task_columns = l.input_14bit_ ? kTaskColumns14 : kTaskColumns;
  for_gemm_tasks(workers, rows, task_rows, l.out_, task_columns, kernels.panel,
                 [&](int row, int count, int first_panel, int last_panel) {
    Int8GemmTask t{};
    t.a_stride = static_cast<ptrdiff_t>(l.in_ * element_size(l.format_));
    t.a = static_cast<const uint8_t*>(x) + row * t.a_stride;
    t.rows = count;
    t.b = l.panels_.data();
    t.k = l.in_;
    t.first_panel = first_panel;
    t.last_panel = last_panel;
    t.start = l.start_.data();
    thread_local AlignedVector<uint8_t> scratch;
    if (!l.weight_sum_.empty()) {
      t.weight_sum = l.weight_sum_.data();
      scratch.resize(std::max(scratch.size(), static_cast<size_t>(l.in_) * kInt8ScratchPerInput));
      t.scratch = scratch.data();
    }
    t.multiplier = l.multiplier_.data();
    t.scale = l.scale_.data();
    if (!l.row_bias_.empty()) {
      t.row_unit = row_unit + row;
      t.row_bias = l.row_bias_.data();
    }
    t.stage = l.stage_;
    t.y = static_cast<uint8_t*>(y) + row * y_stride * static_cast<ptrdiff_t>(y_size);
    t.y_stride = y_stride;
    (l.input_14bit_ ? kernels.gemm14 : kernels.gemm8)(t);
  });
}

}  // namespace whisperxdna2
