#include "kernels/cpu/gemv.h"

#include <algorithm>

#include "kernels/cpu/gemv_kernels.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/thread_pool.h"

namespace whisperxdna2 {
namespace {

constexpr int kTaskBytes = 1 << 16;  // of the matrix: some microseconds of work, more than it costs to hand it over

const GemvKernels& kernels(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return kGemvAvx512;
    case Isa::kAvx2:
      return kGemvAvx2;
    default:
      return kGemvScalar;
  }
}

}  // namespace

void multiply(const MatrixView& w, const float* bias, const float* x, ptrdiff_t x_stride, int rows, float* y,
              ptrdiff_t y_stride, Epilogue epilogue, int threads, Isa isa) {
  const int element = w.type == MatrixType::kF32 ? 4 : 2;
  struct {
    MultiplyTask whole;
    int per_task;
    void (*kernel)(const MultiplyTask&);
  } job;
  job.whole = {w.data, w.in, 0, w.out, bias, x, x_stride, rows, y, y_stride, epilogue};
  // Whole blocks of 8 outputs, so that an output's sum does not depend on the division.
  job.per_task = std::max(8, kTaskBytes / (w.in * element) / 8 * 8);
  job.kernel = kernels(isa).multiply[static_cast<int>(w.type)];
  // One captured reference: std::function then needs no memory of its own.
  ThreadPool::instance().parallel_for(threads, (w.out + job.per_task - 1) / job.per_task, [&job](int i) {
    MultiplyTask t = job.whole;
    t.first = i * job.per_task;
    t.last = std::min(t.last, t.first + job.per_task);
    job.kernel(t);
  });
}

void widen_row(const MatrixView& w, int row, float* out) {
  const ptrdiff_t at = static_cast<ptrdiff_t>(row) * w.in;
  for (int i = 0; i < w.in; ++i) {
    switch (w.type) {
      case MatrixType::kF32:
        out[i] = static_cast<const float*>(w.data)[at + i];
        break;
      case MatrixType::kF16:
        out[i] = widen_half(static_cast<const uint16_t*>(w.data)[at + i]);
        break;
      case MatrixType::kBF16:
        out[i] = widen_bf16(static_cast<const uint16_t*>(w.data)[at + i]);
        break;
    }
  }
}

void attend(const float* query, const uint16_t* keys, const uint16_t* values, int count, float* scores, float* weights,
            float* out, Isa isa) {
  kernels(isa).attend(query, keys, values, count, scores, weights, out);
}

void narrow(const float* from, int count, uint16_t* to, Isa isa) { kernels(isa).narrow(from, count, to); }

float largest(const float* x, int count, Isa isa) { return kernels(isa).largest(x, count); }

float log_sum_exp(const float* x, int count, Isa isa) { return kernels(isa).log_sum_exp(x, count); }

}  // namespace whisperxdna2
