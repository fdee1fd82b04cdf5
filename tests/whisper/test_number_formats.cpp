#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

#include "whisper/number_formats.h"

#include <check.h>  // last: it defines macros with names such as fail

using namespace whisperxdna2;

namespace {

// The value of a half by its definition.
double value_of_half(uint16_t half) {
  const int exponent = half >> 10 & 31, mantissa = half & 1023;
  const double sign = half & 0x8000 ? -1 : 1;
  if (exponent == 31) return mantissa ? std::nan("") : sign * INFINITY;
  return sign * (exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24));
}

float widen(uint16_t half) {
  float value;
  to_f32(Storage::kF16, &half, 1, &value);
  return value;
}

uint16_t narrow(float value) {
  uint16_t half;
  f32_to_f16(&value, 1, &half);
  return half;
}

bool finite(uint16_t half) { return (half & 0x7c00) != 0x7c00; }

}  // namespace

START_TEST(every_half_is_widened_exactly) {
  for (int half = 0; half < 65536; ++half) {
    const double expected = value_of_half(static_cast<uint16_t>(half));
    const float value = widen(static_cast<uint16_t>(half));
    if (std::isnan(expected)) {
      ck_assert(std::isnan(value));
    } else {
      ck_assert_msg(value == expected && std::signbit(value) == std::signbit(expected), "%04x", half);
    }
  }
}
END_TEST

START_TEST(every_half_survives_the_way_to_f32_and_back) {
  for (int half = 0; half < 65536; ++half)
    if (finite(static_cast<uint16_t>(half)))
      ck_assert_int_eq(narrow(widen(static_cast<uint16_t>(half))), half);
}
END_TEST

// Between each pair of neighbors: below the middle, the middle (to the even one), above it.
START_TEST(narrowing_rounds_to_nearest_even) {
  for (int half = 0; half < 0x7bff; ++half) {
    const float low = widen(static_cast<uint16_t>(half)), high = widen(static_cast<uint16_t>(half + 1));
    const float middle = low + (high - low) / 2;  // exact
    const int even = half + (half & 1);
    ck_assert_int_eq(narrow(middle), even);
    ck_assert_int_eq(narrow(-middle), even | 0x8000);
    ck_assert_int_eq(narrow(std::nextafter(middle, low)), half);
    ck_assert_int_eq(narrow(std::nextafter(middle, high)), half + 1);
  }
}
END_TEST

START_TEST(narrowing_overflows_to_infinity) {
  ck_assert_int_eq(narrow(65519.996f), 0x7bff);
  ck_assert_int_eq(narrow(65520.0f), 0x7c00);
  ck_assert_int_eq(narrow(-1e30f), 0xfc00);
  ck_assert_int_eq(narrow(INFINITY), 0x7c00);
  ck_assert(!finite(narrow(NAN)) && (narrow(NAN) & 0x3ff) != 0);
  ck_assert_int_eq(narrow(std::numeric_limits<float>::denorm_min()), 0);
}
END_TEST

START_TEST(bf16_is_the_upper_half_of_a_float) {
  const uint16_t words[] = {0x3f80, 0xc2c8, 0x0001};
  float values[3];
  to_f32(Storage::kBF16, words, 3, values);
  ck_assert(values[0] == 1.0f && values[1] == -100.0f && values[2] == std::ldexp(1.0f, -133));
}
END_TEST

START_TEST(the_first_value_that_is_not_finite_is_found_anywhere) {
  for (const int count : {1, 7, 1024, 3000}) {
    std::vector<float> f32(static_cast<size_t>(count), -3.4e38f);
    std::vector<uint16_t> f16(f32.size(), 0xfbff), bf16(f32.size(), 0xff7f);
    ck_assert_int_eq(first_not_finite(DType::kF32, f32.data(), count), -1);
    ck_assert_int_eq(first_not_finite(DType::kF16, f16.data(), count), -1);
    ck_assert_int_eq(first_not_finite(DType::kBF16, bf16.data(), count), -1);
    for (size_t at = f32.size(); at-- > 0;) {  // from the end: later ones stay bad
      f32[at] = at % 2 ? NAN : -INFINITY;
      f16[at] = at % 2 ? 0x7c01 : 0xfc00;
      bf16[at] = at % 2 ? 0x7fff : 0xff80;
      ck_assert_int_eq(first_not_finite(DType::kF32, f32.data(), count), at);
      ck_assert_int_eq(first_not_finite(DType::kF16, f16.data(), count), at);
      ck_assert_int_eq(first_not_finite(DType::kBF16, bf16.data(), count), at);
    }
  }
}
END_TEST

int main() {
  Suite* suite = suite_create("number_formats");
  TCase* tests = tcase_create("number_formats");
  tcase_add_test(tests, every_half_is_widened_exactly);
  tcase_add_test(tests, every_half_survives_the_way_to_f32_and_back);
  tcase_add_test(tests, narrowing_rounds_to_nearest_even);
  tcase_add_test(tests, narrowing_overflows_to_infinity);
  tcase_add_test(tests, bf16_is_the_upper_half_of_a_float);
  tcase_add_test(tests, the_first_value_that_is_not_finite_is_found_anywhere);
  suite_add_tcase(suite, tests);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
