// Every set of integer kernels against kernels/arithmetic.h, bit for bit. The AVX-512 kernels also run emulated, so
// that their logic is proven on any machine.
#include <check.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <stdexcept>
#include <vector>

#include "kernels/arithmetic.h"
#include "kernels/cpu/int8_linear.h"
#include "tests/kernels/int8_sets.h"

using namespace whisperxdna2;

namespace {

std::mt19937 rng(20260102);
int random_int(int low, int high) { return std::uniform_int_distribution<int>(low, high)(rng); }

struct Problem {
  int rows, out, in;
  bool wide;  // 14-bit inputs
  OutputStage stage;
  std::vector<int16_t> x;
  std::vector<int8_t> weight;
  std::vector<int32_t> bias;
  std::vector<int16_t> multiplier;
  std::vector<float> scale;
  std::vector<float> row_unit, row_bias;  // or none; int16 results
  std::vector<int16_t> results;           // by definition

  Int8Layer layer() const {
    return {out, in, weight.data(), bias.data(), multiplier.data(), scale.data(), stage, wide,
            row_bias.empty() ? nullptr : row_bias.data()};
  }
};

enum class Values { kRandom, kExtreme, kGelu };  // kGelu: nearly all just below zero, few large

Problem make_problem(int rows, int out, int in, bool wide, OutputMode mode, Values values) {
  Problem p{rows, out, in, wide, {}, {}, {}, {}, {}, {}, {}, {}, {}};
  const int limit = wide ? kInt14Limit : kInt8Limit;
  const bool extreme = values == Values::kExtreme;
  const auto value = [&] {
    if (extreme) return rng() & 7 ? limit : -limit;
    if (values == Values::kGelu && rng() % 100) return random_int(-100, 50);
    return random_int(-limit, limit);
  };
  for (int i = 0; i < rows * in; ++i) p.x.push_back(static_cast<int16_t>(value()));
  for (int i = 0; i < out * in; ++i) {
    p.weight.push_back(static_cast<int8_t>(extreme ? (rng() & 7 ? 127 : -127) : random_int(-127, 127)));
  }
  for (int n = 0; n < out; ++n) {
    // Rows of one sign reach the bound of the proof.
    if (extreme && n % 3 == 0) std::fill_n(p.weight.begin() + n * in, in, n % 2 ? 127 : -127);
    p.bias.push_back(static_cast<int32_t>(rng()) >> 14);
    p.multiplier.push_back(static_cast<int16_t>(n % 17 == 0 ? 32767 : random_int(0, 32767)));
    p.scale.push_back(std::ldexp(static_cast<float>(random_int(1, 1 << 20)), -24));
  }
  if (mode == OutputMode::kInt16 && rng() % 2) {
    for (int r = 0; r < rows; ++r) p.row_unit.push_back(std::ldexp(static_cast<float>(random_int(1, 1000)), -5));
    for (int n = 0; n < out; ++n) p.row_bias.push_back(std::ldexp(static_cast<float>(random_int(-1000, 1000)), -9));
  }
  // About three quarters of the results within the range, the rest saturate; ties are frequent at small shifts.
  const double spread = std::sqrt(static_cast<double>(in)) * limit * 127 / 3;
  p.stage.mode = mode;
  p.stage.s1 = std::max(0, static_cast<int>(std::log2(spread / 20000)) + random_int(-1, 1));
  p.stage.s2 = mode == OutputMode::kInt8 ? 22 : 15;
  p.stage.gelu = {random_int(4000, 32767), random_int(10, 16), random_int(0, 32767), random_int(8, 14), 2};
  p.results.resize(static_cast<size_t>(rows) * out);
  for (int r = 0; r < rows; ++r) {
    for (int n = 0; n < out; ++n) {
      const int32_t sum = dot(&p.x[static_cast<size_t>(r) * in], &p.weight[static_cast<size_t>(n) * in], in);
      p.results[static_cast<size_t>(r) * out + n] = output(sum, p.bias[n], p.multiplier[n], p.stage);
    }
  }
  return p;
}

std::vector<uint8_t> in_format(const std::vector<int16_t>& x, Int8Format format) {
  std::vector<uint8_t> bytes;
  for (int16_t v : x) {
    if (format == Int8Format::kPairs) {
      bytes.push_back(static_cast<uint8_t>(v & 255));
      bytes.push_back(static_cast<uint8_t>((v >> 8) & 255));
    } else {
      bytes.push_back(static_cast<uint8_t>(format == Int8Format::kQuads ? v + 128 : v));
    }
  }
  return bytes;
}

// Results that differ from the definition; those written outside the y that was asked for count too.
int wrong_results(const Problem& p, const Int8Kernels& kernels, int threads) {
  const Int8Linear linear(p.layer(), kernels);
  const std::vector<uint8_t> x = in_format(p.x, linear.input().format);
  const int stride = p.out + 8;  // wider than the rows
  int wrong = 0;
  const auto at = [&](int r, int n) { return static_cast<size_t>(r) * stride + n; };
  const auto compare = [&](auto y, int untouched) {
    y.assign(at(p.rows, 0), untouched);
    int8_linear(linear, x.data(), nullptr, p.rows, y.data(), stride, threads, kernels);
    for (int r = 0; r < p.rows; ++r) {
      for (int n = 0; n < stride; ++n) {
        wrong += y[at(r, n)] != (n < p.out ? p.results[static_cast<size_t>(r) * p.out + n] : untouched);
      }
    }
    return wrong;
  };
  if (p.stage.mode == OutputMode::kGelu14) return compare(std::vector<int16_t>(), 4242);
  if (p.stage.mode == OutputMode::kInt8) return compare(std::vector<int8_t>(), 42);
  std::vector<float> y(at(p.rows, 0), 0.3f);
  int8_linear(linear, x.data(), p.row_unit.data(), p.rows, y.data(), stride, threads, kernels);
  for (int r = 0; r < p.rows; ++r) {
    for (int n = 0; n < stride; ++n) {
      float expected = 0.3f;
      if (n < p.out) {
        const int16_t result = p.results[static_cast<size_t>(r) * p.out + n];
        expected += p.row_bias.empty() ? dequantize(result, p.scale[n])
                                       : dequantize(result, p.scale[n], p.row_unit[r], p.row_bias[n]);
      }
      wrong += y[at(r, n)] != expected;
    }
  }
  return wrong;
}

constexpr OutputMode kModes[] = {OutputMode::kInt8, OutputMode::kInt16, OutputMode::kGelu14};

}  // namespace

START_TEST(equals_the_definition_on_random_shapes) {
  const Int8Kernels* kernels = kernels_of(_i);
  if (!kernels) return;  // the processor lacks it; the emulated set covers the code
  for (int round = 0; round < 12; ++round) {
    for (OutputMode mode : kModes) {
      const Problem p = make_problem(random_int(1, 40), 64 * random_int(1, 6), 64 * random_int(1, 9), round % 2, mode,
                                     Values::kRandom);
      ck_assert_int_eq(wrong_results(p, *kernels, 1), 0);
    }
  }
}
END_TEST

START_TEST(equals_the_definition_for_every_number_of_rows_up_to_two_blocks) {
  const Int8Kernels* kernels = kernels_of(_i);
  if (!kernels) return;
  for (int rows = 1; rows <= 13; ++rows) {
    for (OutputMode mode : kModes) {
      ck_assert_int_eq(wrong_results(make_problem(rows, 64, 128, rows % 2, mode, Values::kRandom), *kernels, 1), 0);
    }
  }
}
END_TEST

// 2048 and 5120 inputs: fc2 of base and of the largest model, several parts of the sum each.
START_TEST(long_sums_are_exact_at_the_extremes_of_both_formats) {
  const Int8Kernels* kernels = kernels_of(_i);
  if (!kernels) return;
  for (OutputMode mode : kModes) {
    ck_assert_int_eq(wrong_results(make_problem(7, 64, 2048, true, mode, Values::kExtreme), *kernels, 1), 0);
    ck_assert_int_eq(wrong_results(make_problem(7, 64, 2048, false, mode, Values::kExtreme), *kernels, 1), 0);
    ck_assert_int_eq(wrong_results(make_problem(3, 64, 5120, false, mode, Values::kExtreme), *kernels, 1), 0);
  }
}
END_TEST

// The inputs of fc2, whose upper bytes are left out where they are zero.
START_TEST(inputs_like_those_after_gelu_equal_the_definition) {
  const Int8Kernels* kernels = kernels_of(_i);
  if (!kernels) return;
  for (int rows : {1, 5, 6, 17, 100}) {
    Problem p = make_problem(rows, 128, 64 * random_int(1, 9), true, OutputMode::kInt16, Values::kGelu);
    ck_assert_int_eq(wrong_results(p, *kernels, 1), 0);
  }
}
END_TEST

START_TEST(several_tasks_and_any_number_of_threads_give_the_same) {
  const Int8Kernels* kernels = kernels_of(_i);
  if (!kernels) return;
  const Problem p = make_problem(2 * kInt8TaskRows + 5, 576, 64, false, OutputMode::kInt16, Values::kRandom);
  for (int threads : {1, 2, 3}) ck_assert_int_eq(wrong_results(p, *kernels, threads), 0);
}
END_TEST

START_TEST(shifts_at_their_limits_equal_the_definition) {
  const Int8Kernels* kernels = kernels_of(_i);
  if (!kernels) return;
  for (int s1 : {0, 1, 30}) {
    for (int s2 : {0, 1, 30}) {
      for (OutputMode mode : kModes) {
        Problem p = make_problem(3, 64, 64, true, mode, Values::kRandom);
        p.stage.s1 = s1;
        p.stage.s2 = s2;
        p.stage.gelu = {32767, s1, 32767, s2 > 14 ? 14 : s2, 30 - (s2 > 14 ? 14 : s2)};
        for (int i = 0; i < p.rows * p.out; ++i) {
          const int r = i / p.out, n = i % p.out;
          p.results[i] = output(dot(&p.x[r * p.in], &p.weight[n * p.in], p.in), p.bias[n], p.multiplier[n], p.stage);
        }
        ck_assert_int_eq(wrong_results(p, *kernels, 1), 0);
      }
    }
  }
}
END_TEST

START_TEST(rows_are_quantized_as_defined) {
  const Int8Kernels* kernels = kernels_of(_i);
  if (!kernels) return;
  std::vector<float> x(4096);
  const float inverse = 12.7f;
  for (float& v : x) v = std::ldexp(static_cast<float>(random_int(-20000, 20000)), -10);
  for (int i = 0; i < 64; ++i) x[i] = (static_cast<float>(i) + 0.5f) / inverse;  // ties, as far as f32 can say
  x[64] = 1e30f;
  x[65] = -1e30f;
  x[66] = -0.0f;
  for (const Int8Input& input : {Int8Input{Int8Format::kPairs}, Int8Input{Int8Format::kQuads},
                                 Int8Input{Int8Format::kBytes}, Int8Input{Int8Format::kPairs, kInt14Limit}}) {
    std::vector<int16_t> expected;
    for (float v : x) expected.push_back(static_cast<int16_t>(quantize(v, inverse, input.limit)));
    std::vector<uint8_t> bytes(x.size() * element_size(input.format));
    kernels->quantize(x.data(), static_cast<int>(x.size()), inverse, input, bytes.data());
    ck_assert(bytes == in_format(expected, input.format));
  }
  std::vector<uint8_t> planes(2 * x.size());
  const auto plane = static_cast<ptrdiff_t>(x.size());
  kernels->quantize(x.data(), static_cast<int>(x.size()), inverse, {Int8Format::kPlanes, kInt14Limit, plane},
                    planes.data());
  for (ptrdiff_t i = 0; i < plane; ++i) {
    const auto value = join14(static_cast<int8_t>(planes[i]), static_cast<int8_t>(planes[plane + i]));
    ck_assert_int_eq(value, quantize(x[i], inverse, kInt14Limit));
  }
}
END_TEST

START_TEST(rows_are_quantized_by_their_largest_magnitude) {
  const Int8Kernels* kernels = kernels_of(_i);
  if (!kernels) return;
  for (int round = 0; round < 20; ++round) {
    const int count = 64 * random_int(1, 9);
    std::vector<float> x(count);
    const float size = std::ldexp(1.0f, random_int(-40, 20));
    for (float& v : x) v = size * static_cast<float>(random_int(-20000, 20000));
    if (round == 0) std::fill(x.begin(), x.end(), 0.0f);
    if (round == 1) std::fill(x.begin(), x.end(), 1e-31f);
    if (round == 2) x[random_int(0, count - 1)] = -1e6f * size;
    float largest = 0;
    for (float v : x) largest = std::max(largest, std::fabs(v));
    for (const Int8Input& input : {Int8Input{Int8Format::kBytes}, Int8Input{kernels->format8},
                                   Int8Input{Int8Format::kPairs, kInt14Limit}}) {
      std::vector<int16_t> expected;
      for (float v : x) {
        expected.push_back(static_cast<int16_t>(quantize(v, inverse_row_unit(largest, input.limit), input.limit)));
      }
      std::vector<uint8_t> have(count * element_size(input.format));
      ck_assert(kernels->quantize_row(x.data(), count, input, have.data()) == row_unit(largest, input.limit));
      ck_assert(have == in_format(expected, input.format));
    }
  }
}
END_TEST

START_TEST(widths_that_are_no_multiple_of_64_are_refused) {
  const Problem p = make_problem(1, 64, 64, false, OutputMode::kInt8, Values::kRandom);
  Int8Layer layer = p.layer();
  layer.in = 63;
  bool refused = false;
  try {
    const Int8Linear linear(layer);
  } catch (const std::invalid_argument&) {
    refused = true;
  }
  ck_assert(refused);
}
END_TEST

int main() {
  Suite* suite = suite_create("int8_linear");
  TCase* tests = tcase_create("int8_linear");
  suite_add_tcase(suite, tests);
  tcase_add_loop_test(tests, equals_the_definition_on_random_shapes, 0, kSets);
  tcase_add_loop_test(tests, equals_the_definition_for_every_number_of_rows_up_to_two_blocks, 0, kSets);
  tcase_add_loop_test(tests, long_sums_are_exact_at_the_extremes_of_both_formats, 0, kSets);
  tcase_add_loop_test(tests, inputs_like_those_after_gelu_equal_the_definition, 0, kSets);
  tcase_add_loop_test(tests, several_tasks_and_any_number_of_threads_give_the_same, 0, kSets);
  tcase_add_loop_test(tests, shifts_at_their_limits_equal_the_definition, 0, kSets);
  tcase_add_loop_test(tests, rows_are_quantized_as_defined, 0, kSets);
  tcase_add_loop_test(tests, rows_are_quantized_by_their_largest_magnitude, 0, kSets);
  tcase_add_test(tests, widths_that_are_no_multiple_of_64_are_refused);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed ? 1 : 0;
}
