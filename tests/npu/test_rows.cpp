// Rows on their way to and from the NPU, against the definition of the arithmetic.
#include <check.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "kernels/arithmetic.h"
#include "npu/rows.h"

using namespace whisperxdna2;

namespace {
constexpr int kCount = 65536;
}

START_TEST(rows_are_quantized_as_defined) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 60);
  std::vector<float> x(kCount);
  for (float& v : x) v = normal(random);
  // Ties, the ends of the range and what is no number.
  for (int i = 0; i < 512; ++i) x[i] = static_cast<float>(i - 256) * 0.5f;
  const float special[] = {1e30f,
                           -1e30f,
                           std::numeric_limits<float>::infinity(),
                           -std::numeric_limits<float>::infinity(),
                           std::nanf(""),
                           -0.0f,
                           127.5f,
                           -127.5f};
  std::copy(std::begin(special), std::end(special), x.begin() + 512);
  for (const float inverse_scale : {1.0f, 2.0f, 0.37f}) {
    std::vector<int8_t> q(kCount);
    npu::quantize_row(x.data(), kCount, inverse_scale, q.data());
    for (int i = 0; i < kCount; ++i) ck_assert_int_eq(q[i], quantize(x[i], inverse_scale, kInt8Limit));
  }
}
END_TEST

START_TEST(every_pair_of_planes_is_added_as_defined) {
  std::vector<int8_t> hi(kCount);
  std::vector<uint8_t> lo(kCount);
  std::vector<float> scale(kCount), x(kCount), before(kCount);
  for (int i = 0; i < kCount; ++i) {
    const auto value = static_cast<int16_t>(i - 32768);
    hi[i] = plane16_hi(value);
    lo[i] = plane16_lo(value);
    scale[i] = 1e-3f + static_cast<float>(i % 97) * 1e-5f;
    before[i] = x[i] = static_cast<float>(i % 1013) * 0.13f;
  }
  npu::add_row(hi.data(), lo.data(), scale.data(), kCount, x.data());
  for (int i = 0; i < kCount; ++i) {
    const float product = dequantize(i - 32768, scale[i]);
    ck_assert_float_eq(x[i], before[i] + product);
  }
}
END_TEST

int main() {
  Suite* suite = suite_create("rows");
  TCase* tests = tcase_create("rows");
  tcase_add_test(tests, rows_are_quantized_as_defined);
  tcase_add_test(tests, every_pair_of_planes_is_added_as_defined);
  suite_add_tcase(suite, tests);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
