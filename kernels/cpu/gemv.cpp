#include "kernels/cpu/gemv.h"

#include <algorithm>

#include "kernels/cpu/gemv_kernels.h"
#include "kernels/cpu/thread_pool.h"

namespace whisperxdna2 {
namespace {

constexpr int kTaskBytes = 1 << 18;  // of the matrix: some microseconds of work, more than it costs to hand it over

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
  // Whole blocks of 8 outputs, so that an output's sum does not depend on the division.
  const int per_task = std::max(8, kTaskBytes / (w.in * element) / 8 * 8);
  const auto kernel = kernels(isa).multiply[static_cast<int>(w.type)];
  ThreadPool::instance().parallel_for(threads, (w.out + per_task - 1) / per_task, [&](int i) {
    MultiplyTask t{w.data, w.in, i * per_task, std::min(w.out, (i + 1) * per_task), bias, x, x_stride, rows,
                   y,      y_stride, epilogue};
    kernel(t);
  });
}

void attend(const float* query, const float* keys, const float* values, ptrdiff_t stride, int count, int width,
            float* scores, float* weights, float* out, Isa isa) {
  kernels(isa).attend(query, keys, values, stride, count, width, scores, weights, out);
}

float log_sum_exp(const float* x, int count, Isa isa) { return kernels(isa).log_sum_exp(x, count); }

}  // namespace whisperxdna2
