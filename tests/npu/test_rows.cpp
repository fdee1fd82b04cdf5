// Rows on their way from the NPU, against the definition of the arithmetic.
#include <check.h>

#include <vector>

#include "kernels/arithmetic.h"
#include "npu/rows.h"

using namespace whisperxdna2;

namespace {
constexpr int kCount = 65536;
}

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
  const float unit = 0.37f;
  std::vector<float> bias(kCount);
  for (int i = 0; i < kCount; ++i) bias[i] = static_cast<float>(i % 89) * -0.7f;
  x = before;
  npu::add_row(hi.data(), lo.data(), scale.data(), unit, bias.data(), kCount, x.data());
  for (int i = 0; i < kCount; ++i) {
    const float sum = dequantize(i - 32768, scale[i], unit, bias[i]);
    ck_assert_float_eq(x[i], before[i] + sum);
  }
}
END_TEST

int main() {
  Suite* suite = suite_create("rows");
  TCase* tests = tcase_create("rows");
  tcase_add_test(tests, every_pair_of_planes_is_added_as_defined);
  suite_add_tcase(suite, tests);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
