// The scalar integer definitions against exact arithmetic in double or int64.
#include <check.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <random>
#include <vector>

#include "kernels/arithmetic.h"

using namespace whisperxdna2;

namespace {

std::mt19937 rng(20260101);
int random_int(int low, int high) { return std::uniform_int_distribution<int>(low, high)(rng); }

// A double holds any int32 / 2^s exactly, and nearbyint() rounds half to even.
double exact_srs(int32_t v, int s, double low, double high) {
  return std::min(high, std::max(low, std::nearbyint(std::ldexp(v, -s))));
}

double exact_gelu(double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); }
double exact_q(double a) { return 0.5 * a * std::erfc(a / std::sqrt(2.0)); }

// Any int16 number of the form c / 2^s for `value`, as precise as the fields of GeluScale allow.
void fixed_point(double value, int most_shift, int32_t* c, int32_t* s) {
  *s = most_shift;
  while (*s > 0 && std::nearbyint(std::ldexp(value, *s)) > 32767) --*s;
  *c = static_cast<int32_t>(std::nearbyint(std::ldexp(value, *s)));
}

GeluScale scale_for_range(double range) {
  const double su = range / 32764;
  GeluScale g;
  fixed_point(8192 * su, 30, &g.c, &g.s);
  fixed_point(1 / (65536 * su), 14, &g.d, &g.t);
  g.out_shift = 2;
  return g;
}

}  // namespace

START_TEST(srs_equals_exact_rounding_half_even_for_random_values) {
  int wrong = 0;  // counted: an assertion writes to a pipe, a million of them take minutes
  for (int i = 0; i < 2000000; ++i) {
    const int32_t v = static_cast<int32_t>(rng()) >> random_int(0, 31);
    const int s = random_int(0, 30);
    wrong += srs16(v, s) != static_cast<int>(exact_srs(v, s, -32768, 32767));
    wrong += srs8(v, s) != static_cast<int>(exact_srs(v, s, -128, 127));
  }
  ck_assert_int_eq(wrong, 0);
}
END_TEST

START_TEST(srs_takes_exact_ties_to_the_even_neighbor) {
  for (int s = 1; s <= 30; ++s) {
    const int32_t half = int32_t{1} << (s - 1);
    for (int n = -3; n <= 2; ++n) {
      const int64_t v = n * (int64_t{1} << s) + half;  // n + 1/2
      if (v < INT32_MIN || v > INT32_MAX) continue;
      ck_assert_int_eq(srs16(static_cast<int32_t>(v), s), n % 2 == 0 ? n : n + 1);
    }
  }
}
END_TEST

START_TEST(srs_handles_the_extremes_of_int32_at_every_shift) {
  for (int s = 0; s <= 30; ++s) {
    for (int32_t v : {INT32_MIN, INT32_MIN + 1, -1, 0, 1, INT32_MAX - 1, INT32_MAX}) {
      ck_assert_int_eq(srs16(v, s), static_cast<int>(exact_srs(v, s, -32768, 32767)));
      ck_assert_int_eq(srs8(v, s), static_cast<int>(exact_srs(v, s, -128, 127)));
    }
  }
}
END_TEST

START_TEST(planes_of_every_14_bit_value_join_and_fit_a_signed_byte_each) {
  for (int x = -kInt14Limit; x <= kInt14Limit; ++x) {
    const int8_t hi = plane14_hi(static_cast<int16_t>(x)), lo = plane14_lo(static_cast<int16_t>(x));
    ck_assert_int_ge(hi, -64);
    ck_assert_int_le(hi, 63);
    ck_assert_int_ge(lo, 0);
    ck_assert_int_eq(hi * 128 + lo, x);
    ck_assert_int_eq(join14(hi, lo), x);
  }
}
END_TEST

START_TEST(planes_of_every_16_bit_value_join) {
  for (int x = INT16_MIN; x <= INT16_MAX; ++x) {
    ck_assert_int_eq(plane16_hi(static_cast<int16_t>(x)) * 256 + plane16_lo(static_cast<int16_t>(x)), x);
    ck_assert_int_eq(join16(plane16_hi(static_cast<int16_t>(x)), plane16_lo(static_cast<int16_t>(x))), x);
  }
}
END_TEST

START_TEST(products_equal_64_bit_sums_for_random_lengths_and_extremes) {
  for (int round = 0; round < 300; ++round) {
    const int k = random_int(0, 2048);
    const bool extreme = round % 3 == 0;
    std::vector<int8_t> w(k), x8(k), hi(k), lo(k);
    std::vector<int16_t> x14(k);
    int64_t sum8 = 0, sum14 = 0;
    for (int i = 0; i < k; ++i) {
      w[i] = static_cast<int8_t>(extreme ? (rng() & 1 ? 127 : -127) : random_int(-127, 127));
      x8[i] = static_cast<int8_t>(extreme ? (rng() & 1 ? 127 : -127) : random_int(-127, 127));
      x14[i] = static_cast<int16_t>(extreme ? (rng() & 1 ? 8191 : -8191) : random_int(-8191, 8191));
      hi[i] = plane14_hi(x14[i]);
      lo[i] = plane14_lo(x14[i]);
      sum8 += int64_t{x8[i]} * w[i];
      sum14 += int64_t{x14[i]} * w[i];
    }
    ck_assert_int_eq(dot(x8.data(), w.data(), k), sum8);
    ck_assert_int_eq(dot(x14.data(), w.data(), k), sum14);
    ck_assert_int_eq(dot_planes14(hi.data(), lo.data(), w.data(), k), sum14);
  }
}
END_TEST

// The largest sum that base's fc2 could meet: 2048 weights of 127 in magnitude, inputs at the limit of the proof.
START_TEST(the_longest_14_bit_product_stays_within_the_proven_bound) {
  constexpr int kLength = 2048;
  const int64_t bound = int64_t{kInt14Bound} * 127 * kLength;
  ck_assert_int_lt(bound, INT64_C(1) << 31);
  const std::vector<int8_t> w(kLength, 127);
  for (int x : {-kInt14Limit, kInt14Limit}) {
    const std::vector<int16_t> v(kLength, static_cast<int16_t>(x));
    const std::vector<int8_t> hi(kLength, plane14_hi(v[0])), lo(kLength, plane14_lo(v[0]));
    const int64_t expected = int64_t{x} * 127 * kLength;
    ck_assert_int_le(std::llabs(expected), bound);
    ck_assert_int_le(std::llabs(int64_t{hi[0]} * 128 * 127 * kLength), bound);  // the upper plane alone
    ck_assert_int_eq(dot(v.data(), w.data(), kLength), expected);
    ck_assert_int_eq(dot_planes14(hi.data(), lo.data(), w.data(), kLength), expected);
  }
}
END_TEST

START_TEST(output_is_two_exactly_rounded_saturated_divisions) {
  int wrong = 0;
  for (int i = 0; i < 1000000; ++i) {
    OutputStage stage;
    stage.s1 = random_int(0, 20);
    stage.s2 = random_int(0, 30);
    const int32_t sum = static_cast<int32_t>(rng()) >> random_int(1, 24);
    const int32_t bias = static_cast<int32_t>(rng()) >> random_int(1, 24);
    const int16_t multiplier = static_cast<int16_t>(random_int(0, 32767));
    const int32_t x16 = static_cast<int32_t>(exact_srs(sum + bias, stage.s1, -32768, 32767));
    stage.mode = OutputMode::kInt8;
    wrong += output(sum, bias, multiplier, stage) !=
             static_cast<int>(exact_srs(x16 * multiplier, stage.s2, -128, 127));
    stage.mode = OutputMode::kInt16;
    wrong += output(sum, bias, multiplier, stage) !=
             static_cast<int>(exact_srs(x16 * multiplier, stage.s2, -32768, 32767));
  }
  ck_assert_int_eq(wrong, 0);
}
END_TEST

START_TEST(gelu_mode_is_gelu_of_the_16_bit_result) {
  OutputStage stage;
  stage.s1 = 6;
  stage.s2 = 12;
  stage.gelu = scale_for_range(8);
  int wrong = 0;
  for (int i = 0; i < 200000; ++i) {
    const int32_t sum = static_cast<int32_t>(rng()) >> random_int(4, 24);
    const int16_t multiplier = static_cast<int16_t>(random_int(0, 32767));
    stage.mode = OutputMode::kInt16;
    const int16_t y = output(sum, 17, multiplier, stage);
    stage.mode = OutputMode::kGelu14;
    wrong += output(sum, 17, multiplier, stage) != gelu_14bit(y, stage.gelu);
  }
  ck_assert_int_eq(wrong, 0);
}
END_TEST

START_TEST(gelu_table_is_its_formula) {
  for (int i = 0; i <= kGeluSegments; ++i) {
    ck_assert_int_eq(kGeluTable[i], static_cast<int>(std::nearbyint(65536 * exact_q(i / 16.0))));
  }
}
END_TEST

// What GELU may differ from the erf form: half an output step; the table's chord (0.8 / 16^2 / 8 = 3.9e-4) and the
// rounding of its entries, position and result (5e-5 together); and what d lacks in precision where a wide range leaves
// it few bits: 2^-15 of q in units of y, 11139 / 2^15 / 4 output steps.
START_TEST(gelu_is_the_erf_form_within_its_bound_over_all_inputs) {
  for (double range : {0.5, 3.0, 12.0, 91.0, 151.0, 600.0}) {
    const double su = range / 32764, step = 4 * su;
    const GeluScale g = scale_for_range(range);
    double worst = 0;
    for (int y = INT16_MIN; y <= INT16_MAX; ++y) {
      const double x = std::max(y, -32767) * su;
      const double expected = std::min(exact_gelu(x), kInt14Limit * step);
      worst = std::max(worst, std::fabs(gelu_14bit(static_cast<int16_t>(y), g) * step - expected));
    }
    ck_assert_double_le(worst, (0.5 + 0.085) * step + 4.5e-4);
  }
}
END_TEST

START_TEST(gelu_stays_in_14_bits_for_every_input_and_any_legal_scale) {
  int wrong = 0;
  for (int round = 0; round < 40; ++round) {
    GeluScale g;
    g.c = round ? random_int(0, 32767) : 32767;
    g.d = round ? random_int(0, 32767) : 32767;
    g.s = random_int(0, 30);
    g.t = random_int(0, 14);
    g.out_shift = random_int(0, 16);
    for (int y = INT16_MIN; y <= INT16_MAX; ++y) {
      const int v = gelu_14bit(static_cast<int16_t>(y), g);
      wrong += v < -kInt14Limit || v > kInt14Limit;
    }
  }
  ck_assert_int_eq(wrong, 0);
}
END_TEST

START_TEST(attention_weights_are_powers_within_their_bound) {
  for (float steps_per_unit : {0.0001f, 0.037f, 1.0f, 700.0f, 1e30f}) {
    ck_assert_int_eq(attention_weight(0, steps_per_unit), INT16_MAX);
    int before = INT16_MAX;
    for (int round = 0; round <= 40000; ++round) {
      const int32_t difference = round < 40000 ? round * 53 : 1 << 30;
      const int weight = attention_weight(difference, steps_per_unit);
      const double exact = 32767 * std::exp2(-difference * double{steps_per_unit} / 2048);
      // Half a unit by rounding the result and one by cutting off the products, half a step of the exponent, the
      // polynomial.
      ck_assert_double_le(std::fabs(weight - exact), 1 + exact * (std::exp2(0.5 / 2048) - 1 + 3e-4));
      ck_assert_int_le(weight, before + 1);
      before = weight;
    }
  }
  ck_assert_int_eq(attention_weight(1 << 21, 1), 0);
}
END_TEST

START_TEST(quantize_rounds_half_even_and_saturates) {
  ck_assert_int_eq(quantize(0.5f, 1, 127), 0);
  ck_assert_int_eq(quantize(1.5f, 1, 127), 2);
  ck_assert_int_eq(quantize(-2.5f, 1, 127), -2);
  ck_assert_int_eq(quantize(126.5f, 1, 127), 126);
  ck_assert_int_eq(quantize(1e30f, 1, 127), 127);
  ck_assert_int_eq(quantize(-1e30f, 1, 8191), -8191);
  ck_assert_int_eq(quantize(std::numeric_limits<float>::infinity(), 2, 127), 127);
  ck_assert_int_eq(quantize(-std::numeric_limits<float>::infinity(), 2, 127), -127);
  ck_assert_int_eq(quantize(std::numeric_limits<float>::quiet_NaN(), 2, 127), 127);
}
END_TEST

START_TEST(dequantize_inverts_quantize_on_its_grid) {
  for (float scale : {0.0078125f, 0.013f, 3.7f}) {
    for (int q = -127; q <= 127; ++q) ck_assert_int_eq(quantize(dequantize(q, scale), 1 / scale, 127), q);
  }
}
END_TEST

int main() {
  Suite* suite = suite_create("arithmetic");
  TCase* tests = tcase_create("arithmetic");
  suite_add_tcase(suite, tests);
  tcase_add_test(tests, srs_equals_exact_rounding_half_even_for_random_values);
  tcase_add_test(tests, srs_takes_exact_ties_to_the_even_neighbor);
  tcase_add_test(tests, srs_handles_the_extremes_of_int32_at_every_shift);
  tcase_add_test(tests, planes_of_every_14_bit_value_join_and_fit_a_signed_byte_each);
  tcase_add_test(tests, planes_of_every_16_bit_value_join);
  tcase_add_test(tests, products_equal_64_bit_sums_for_random_lengths_and_extremes);
  tcase_add_test(tests, the_longest_14_bit_product_stays_within_the_proven_bound);
  tcase_add_test(tests, output_is_two_exactly_rounded_saturated_divisions);
  tcase_add_test(tests, gelu_mode_is_gelu_of_the_16_bit_result);
  tcase_add_test(tests, gelu_table_is_its_formula);
  tcase_add_test(tests, gelu_is_the_erf_form_within_its_bound_over_all_inputs);
  tcase_add_test(tests, gelu_stays_in_14_bits_for_every_input_and_any_legal_scale);
  tcase_add_test(tests, attention_weights_are_powers_within_their_bound);
  tcase_add_test(tests, quantize_rounds_half_even_and_saturates);
  tcase_add_test(tests, dequantize_inverts_quantize_on_its_grid);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed ? 1 : 0;
}
