// The integer product, written once for any vector type V of int8_simd.h. Included by one file for each instruction
// set.
#pragma once

#include <type_traits>

#include "kernels/cpu/int8_kernels.h"
#include "kernels/cpu/int8_simd.h"

namespace whisperxdna2 {
namespace {

// Longer sums are done in parts, the unfinished ones kept aside; integers do not mind.
struct Part {
  const uint8_t* a;      // first row, first step
  const uint8_t* b;      // [steps][panel][4 bytes], widened for kPairs
  int length;            // in steps
  bool first, last;
  int ahead;             // bytes of the next part, behind this one, that a row fetches ahead in a step
  int32_t* sums;         // [rows][panel] of the unfinished product
  // Inputs in planes: the rows' offsets, and what split() wrote of this part.
  const int32_t* least;
  const uint8_t* hi;     // first row, first step
  const int32_t* steps;  // of the first row: those of which hi has bytes
  const int32_t* count;  // of the first row: how many they are; rows at `parts`
  int parts;
};

// Makes results of sums, a vector at a time. A processor with units of its own for products does so in the shadow of
// the next block's products, if not too much waits in line: hence the parts.
template <class V, OutputMode M, int R, int C>
class Finisher {
 public:
  static constexpr int kRows = R;

  explicit Finisher(const Int8GemmTask& t) : t_(t), output_(t.stage), steps_{} {}

  // Where the sums of the next block go, [rows][panel].
  int32_t* sums() { return buffers_[next_]; }
  // They are there. All of the block before are finished.
  void begin(int row, int rows, int panel) {
    sums_ = buffers_[next_];
    next_ = 1 - next_;
    end_ = sums_ + rows * C * V::kLanes;
    column_ = panel * C * V::kLanes;
    row_ = row;
    y_ = row * t_.y_stride + column_;
    lane_ = 0;
  }
  bool waiting() const { return sums_ < end_; }
  // Parts 0 to 4 of finishing a vector.
  template <int S>
  [[gnu::always_inline]] void advance() {
    if constexpr (S == 0) steps_.v = V::load(sums_);
    const int n = column_ + lane_;
    output_.template advance<S>(&steps_, t_.multiplier + n);
    if constexpr (S < 4) return;
    const V v = steps_.v;
    if constexpr (M == OutputMode::kInt8) v.store_int8(static_cast<int8_t*>(t_.y) + y_ + lane_);
    if constexpr (M == OutputMode::kInt16) {
      float* y = static_cast<float*>(t_.y) + y_ + lane_;
      t_.row_unit ? v.add_scaled(t_.scale + n, t_.row_unit[row_], t_.row_bias + n, y) : v.add_scaled(t_.scale + n, y);
    }
    if constexpr (M == OutputMode::kGelu14) v.store_int16(static_cast<int16_t*>(t_.y) + y_ + lane_);
    sums_ += V::kLanes;
    lane_ += V::kLanes;
    if (lane_ < C * V::kLanes) return;
    lane_ = 0;
    ++row_;
    y_ += t_.y_stride;
  }
  void finish_one() {
    advance<0>();
    advance<1>();
    advance<2>();
    advance<3>();
    advance<4>();
  }
  // Not inline: what it needs would take registers from the products.
  [[gnu::noinline]] void finish() {
    while (waiting()) finish_one();
  }

 private:
  const Int8GemmTask& t_;
  const OutputVectors<V, M> output_;
  alignas(64) int32_t buffers_[2][R * C * V::kLanes];
  int next_ = 0;
  typename OutputVectors<V, M>::Steps steps_;
  const int32_t *sums_ = nullptr, *end_ = nullptr;
  ptrdiff_t y_ = 0;  // of the row's first column
  int row_ = 0, column_ = 0, lane_ = 0;
};

// sum += the products of one step
template <Int8Format F, class V, int R, int C>
[[gnu::always_inline]] inline void add_step(V (&sum)[R][C], const uint8_t* a, ptrdiff_t a_stride, const uint8_t* b) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    const V x = V::broadcast(a + r * a_stride);
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) {
      if constexpr (F == Int8Format::kPairs) {
        sum[r][c].add_pairs(x, b + 4 * c * V::kLanes);
      } else {
        sum[r][c].add_quads(x, b + 4 * c * V::kLanes);
      }
    }
  }
}

// R rows by one panel of C vectors.
template <class V, Int8Format F, bool kPlanes, int R, int C, class Finish>
inline void int8_block(const Int8GemmTask& t, const Part& part, Finish* finisher, int row, int panel) {
  constexpr int kPanel = C * V::kLanes;
  const uint8_t* a = part.a + row * t.a_stride;
  const uint8_t* b = part.b;
  int32_t* sums = part.sums + row * kPanel;
  const int32_t* start = part.first ? t.start + panel * kPanel : sums;
  const int start_stride = part.first ? 0 : kPanel;
  V sum[R][C];
  if constexpr (kPlanes) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) sum[r][c] = V::set(0);
    }
    const uint8_t* hi = part.hi + static_cast<ptrdiff_t>(row) * t.k;
    const int32_t* steps = part.steps + static_cast<ptrdiff_t>(row) * t.k / 4;
    const int count = part.count[row * part.parts];
    for (int i = 0; i < count; ++i, hi += 4) {
      const uint8_t* w = b + static_cast<ptrdiff_t>(4) * kPanel * steps[i];
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const V x = V::broadcast(hi + static_cast<ptrdiff_t>(r) * t.k);
#pragma GCC unroll 16
        for (int c = 0; c < C; ++c) sum[r][c].add_quads(x, w + 4 * c * V::kLanes);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) {
      V before = V::load(start + r * start_stride + c * V::kLanes);
      if constexpr (kPlanes) {
        if (part.first) {
          const V weights = V::load(t.weight_sum + panel * kPanel + c * V::kLanes);
          before = V::add(before, V::multiply32(weights, V::set(part.least[row + r])));
        }
        sum[r][c] = V::add(V::template shift_left<8>(sum[r][c]), before);
      } else {
        sum[r][c] = before;
      }
    }
  }
  int left = part.length;
  [[maybe_unused]] const uint8_t* ahead = b + (static_cast<ptrdiff_t>(4) * kPanel + row * part.ahead) * left;
  if constexpr (V::kOverlaps && R == Finish::kRows) {
    const auto step = [&](auto stage) __attribute__((always_inline)) {
      add_step<F>(sum, a, t.a_stride, b);
      a += 4;
      b += 4 * kPanel;
      finisher->template advance<stage>();
    };
    for (; left >= 5 && finisher->waiting(); left -= 5) {
      step(std::integral_constant<int, 0>());
      step(std::integral_constant<int, 1>());
      step(std::integral_constant<int, 2>());
      step(std::integral_constant<int, 3>());
      step(std::integral_constant<int, 4>());
      if constexpr (kPlanes) __builtin_prefetch(ahead += 5 * R * part.ahead, 0, 2);
    }
  }
  for (; left > 0; --left, a += 4, b += 4 * kPanel) {
    add_step<F>(sum, a, t.a_stride, b);
    if constexpr (kPlanes) __builtin_prefetch(ahead += R * part.ahead, 0, 2);
  }
  int32_t* to = part.last ? finisher->sums() : sums;
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) sum[r][c].store(to + r * kPanel + c * V::kLanes);
  }
  finisher->finish();
  if (!part.last) return;
  finisher->begin(row, R, panel);
  if constexpr (!V::kOverlaps) finisher->finish();
}

// As for_row_blocks(), through which GCC 12 would keep what a block needs in memory: the encoder takes a third longer.
template <class V, Int8Format F, bool kPlanes, int R, int C, class Finish>
inline void int8_rows(const Int8GemmTask& t, const Part& part, Finish* finisher, int row, int panel) {
  for (; row + R <= t.rows; row += R) int8_block<V, F, kPlanes, R, C>(t, part, finisher, row, panel);
  if constexpr (R > 1) {
    if (row < t.rows) int8_rows<V, F, kPlanes, R - 1, C>(t, part, finisher, row, panel);
  }
}

// R rows and C vectors of columns make a block, as many as the instruction set has registers for.
template <class V, Int8Format F, OutputMode M, int R, int C>
void int8_gemm_to(const Int8GemmTask& t) {
  constexpr int kPanel = C * V::kLanes;
  constexpr int kPartSteps = V::kPartBytes / (4 * kPanel);
  alignas(64) int16_t widened[F == Int8Format::kPairs ? V::kPartBytes / 2 : 1];
  alignas(64) int32_t sums[kInt8TaskRows * kPanel];
  Finisher<V, M, R, C> finisher(t);
  const int steps = t.k / steps_k(F);
  for (int panel = t.first_panel; panel < t.last_panel; ++panel) {
    const int8_t* b = t.b + static_cast<ptrdiff_t>(panel) * kPanel * t.k;
    for (int done = 0; done < steps; done += kPartSteps) {
      Part part{};
      part.a = t.a + ptrdiff_t{4} * done;
      part.length = steps - done < kPartSteps ? steps - done : kPartSteps;
      part.first = done == 0;
      part.last = done + part.length == steps;
      part.sums = sums;
      if constexpr (F == Int8Format::kPairs) {
        V::widen(b + static_cast<ptrdiff_t>(2) * kPanel * done, widened, 2 * kPanel * part.length);
        part.b = reinterpret_cast<const uint8_t*>(widened);
      } else {
        part.b = reinterpret_cast<const uint8_t*>(b) + static_cast<ptrdiff_t>(4) * kPanel * done;
      }
      int8_rows<V, F, false, R, C>(t, part, &finisher, 0, panel);
    }
  }
  finisher.finish();
}

// 14-bit inputs as bytes: x = least + 256 hi + lo, where `least` is the smallest of the row, so that
//   sum x w = least * sum w + 256 sum hi w + sum lo w
// with unsigned bytes hi and lo. After GELU few inputs are far above the smallest: nearly all hi are zero, and the
// steps of a block of rows in which they all are is left out.
struct Planes {
  uint8_t* lo;     // [rows][k]
  uint8_t* hi;     // [rows][k]: from the first step of a part on, a row's bytes of the steps that are not left out
  int32_t* steps;  // [rows][k / 4]: which steps of the part those are; in the first row of a block
  int32_t* count;  // [rows][parts]: how many they are; in the first row of a block
  int32_t least[kInt8TaskRows];
};

template <class V, int R>
inline void split_rows(const Int8GemmTask& t, Planes* planes, int part_inputs, int row) {
  for (; row + R <= t.rows; row += R) {
    const uint8_t* a = t.a + row * t.a_stride;
    for (int r = 0; r < R; ++r) planes->least[row + r] = V::least_of(a + r * t.a_stride, t.k);
    const int parts = (t.k + part_inputs - 1) / part_inputs;
    for (int p = 0; p < parts; ++p) {
      const int first = p * part_inputs, inputs = t.k - first < part_inputs ? t.k - first : part_inputs;
      const ptrdiff_t at = static_cast<ptrdiff_t>(row) * t.k + first;
      planes->count[row * parts + p] =
          V::template split<R>(a + 2 * first, t.a_stride, inputs, planes->least + row, planes->lo + at, planes->hi + at,
                               t.k, planes->steps + at / 4);
    }
  }
  if constexpr (R > 1) {
    if (row < t.rows) split_rows<V, R - 1>(t, planes, part_inputs, row);
  }
}

template <class V, OutputMode M, int R, int C>
void int8_gemm_in_planes_to(const Int8GemmTask& t) {
  constexpr int kPanel = C * V::kLanes;
  constexpr int kPartInputs = V::kPartBytes / kPanel;
  alignas(64) int32_t sums[kInt8TaskRows * kPanel];
  const ptrdiff_t size = static_cast<ptrdiff_t>(kInt8TaskRows) * t.k;
  Planes planes;
  planes.lo = t.scratch;
  planes.hi = t.scratch + size;
  planes.steps = reinterpret_cast<int32_t*>(t.scratch + 2 * size);
  planes.count = reinterpret_cast<int32_t*>(t.scratch + 3 * size);
  split_rows<V, R>(t, &planes, kPartInputs, 0);
  Int8GemmTask lo = t;
  lo.a = planes.lo;
  lo.a_stride = t.k;
  Finisher<V, M, R, C> finisher(t);
  for (int panel = t.first_panel; panel < t.last_panel; ++panel) {
    const int8_t* b = t.b + static_cast<ptrdiff_t>(panel) * kPanel * t.k;
    Part part{};
    part.sums = sums;
    part.least = planes.least;
    part.ahead = (4 * kPanel + t.rows - 1) / t.rows;
    part.parts = (t.k + kPartInputs - 1) / kPartInputs;
    for (int p = 0; p < part.parts; ++p) {
      const int first = p * kPartInputs;
      part.a = planes.lo + first;
      part.b = reinterpret_cast<const uint8_t*>(b) + static_cast<ptrdiff_t>(kPanel) * first;
      part.length = (t.k - first < kPartInputs ? t.k - first : kPartInputs) / 4;
      part.first = p == 0;
      part.last = p + 1 == part.parts;
      part.hi = planes.hi + first;
      part.steps = planes.steps + first / 4;
      part.count = planes.count + p;
      int8_rows<V, Int8Format::kQuads, true, R, C>(lo, part, &finisher, 0, panel);
    }
  }
  finisher.finish();
}

template <class V, Int8Format F, int R, int C>
void int8_gemm(const Int8GemmTask& t) {
  switch (t.stage.mode) {
    case OutputMode::kInt8:
      return int8_gemm_to<V, F, OutputMode::kInt8, R, C>(t);
    case OutputMode::kInt16:
      return int8_gemm_to<V, F, OutputMode::kInt16, R, C>(t);
    case OutputMode::kGelu14:
      return int8_gemm_to<V, F, OutputMode::kGelu14, R, C>(t);
  }
}

template <class V, int R, int C>
void int8_gemm_in_planes(const Int8GemmTask& t) {
  switch (t.stage.mode) {
    case OutputMode::kInt8:
      return int8_gemm_in_planes_to<V, OutputMode::kInt8, R, C>(t);
    case OutputMode::kInt16:
      return int8_gemm_in_planes_to<V, OutputMode::kInt16, R, C>(t);
    case OutputMode::kGelu14:
      return int8_gemm_in_planes_to<V, OutputMode::kGelu14, R, C>(t);
  }
}

template <class V>
void quantize_values(const float* x, int count, float inverse_scale, const Int8Input& input, uint8_t* to) {
  int8_t* const bytes = reinterpret_cast<int8_t*>(to);
  const auto each = [&](const auto& store) {
    for (int i = 0; i < count; i += V::kLanes) store(V::quantize(x + i, inverse_scale, input.limit), i);
  };
  switch (input.format) {
    case Int8Format::kPairs:
      return each([&](V q, int i) { q.store_int16(reinterpret_cast<int16_t*>(to) + i); });
    case Int8Format::kQuads:  // the sum's lowest byte, as int8
      return each([&](V q, int i) {
        const V sum = V::add(q, V::set(128));
        V::template shift_right<24>(V::template shift_left<24>(sum)).store_int8(bytes + i);
      });
    case Int8Format::kBytes:
      return each([&](V q, int i) { q.store_int8(bytes + i); });
    case Int8Format::kPlanes:
      return each([&](V q, int i) {
        V::template shift_right<7>(q).store_int8(bytes + i);
        V::bit_and(q, V::set(127)).store_int8(bytes + input.plane + i);
      });
  }
}

template <class V>
float quantize_row(const float* x, int count, const Int8Input& input, uint8_t* to) {
  const float largest = V::largest_magnitude(x, count);
  quantize_values<V>(x, count, inverse_row_unit(largest, input.limit), input, to);
  return row_unit(largest, input.limit);
}

}  // namespace
}  // namespace whisperxdna2
