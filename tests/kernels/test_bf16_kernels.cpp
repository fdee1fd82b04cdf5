// Products and attention in bf16 against double precision, on inputs that are bf16 already. On processors without the
// instruction the same products are those of f32.
#include <check.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/cpu/bf16_attention.h"
#include "kernels/cpu/bf16_linear.h"

using namespace whisperxdna2;

namespace {

std::vector<const BF16Kernels*> all_kernels() {
  std::vector<const BF16Kernels*> all;
  for (Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    if (has_isa(isa)) all.push_back(&bf16_kernels(isa));
  }
  return all;
}

float widen(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}

// The nearest of the two neighbors, the even one where both are as near.
uint16_t nearest(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint16_t below = static_cast<uint16_t>(bits >> 16), above = static_cast<uint16_t>(below + 1);
  const double down = std::fabs(static_cast<double>(x) - widen(below)),
               up = std::fabs(static_cast<double>(x) - widen(above));
  return down < up || (down == up && below % 2 == 0) ? below : above;
}

std::vector<uint16_t> narrow(const std::vector<float>& values) {
  std::vector<uint16_t> narrow(values.size());
  std::transform(values.begin(), values.end(), narrow.begin(), nearest);
  return narrow;
}

std::vector<float> normal(size_t count, unsigned seed, float deviation = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> distribution(0, deviation);
  std::vector<float> values(count);
  for (float& v : values) v = distribution(random);
  return values;
}

START_TEST(numbers_are_narrowed_to_the_nearest) {
  std::vector<float> values = normal(1003, 7, 30);
  for (uint32_t bits :
       {0x3F808000u, 0x3F818000u, 0x3F808001u, 0x3F807FFFu, 0xBF808000u, 0xC0FF8000u, 0x3FFFFFFFu, 0u}) {
    values.emplace_back();
    std::memcpy(&values.back(), &bits, sizeof bits);
  }
  for (const BF16Kernels* kernels : all_kernels()) {
    std::vector<uint16_t> result(values.size());
    kernels->narrow(values.data(), values.size(), result.data());
    ck_assert(result == narrow(values));
  }
}
END_TEST

// The bound is that of a sum of f32 in any order (Higham, Accuracy and Stability of Numerical Algorithms, 3.1), each
// product rounded, too, and half a unit of bf16 where the result is one.
void check_products(int rows, int in, int out, bool with_bias, bool y_is_bf16, Epilogue epilogue, int threads = 1) {
  const std::vector<float> weight = normal(static_cast<size_t>(out) * in, 1, 0.1f), bias = normal(out, 2);
  const ptrdiff_t x_stride = in + 6, y_stride = out + 8;
  const std::vector<uint16_t> x = narrow(normal(rows * x_stride, 3)), w = narrow(weight);
  const std::vector<float> before = normal(rows * y_stride, 4);
  std::vector<double> sums(before.size()), magnitudes(before.size());
  for (int r = 0; r < rows; ++r) {
    for (int n = 0; n < out; ++n) {
      double sum = with_bias ? bias[n] : 0, magnitude = std::fabs(sum);
      for (int k = 0; k < in; ++k) {
        const double p = static_cast<double>(widen(x[r * x_stride + k])) * widen(w[static_cast<size_t>(n) * in + k]);
        sum += p;
        magnitude += std::fabs(p);
      }
      sums[r * y_stride + n] = sum;
      magnitudes[r * y_stride + n] = magnitude;
    }
  }
  for (const BF16Kernels* kernels : all_kernels()) {
    const BF16Linear packed(weight.data(), with_bias ? bias.data() : nullptr, out, in, *kernels);
    std::vector<float> y = before;
    std::vector<uint16_t> y16(y.size(), 4242);
    bf16_linear(packed, x.data(), x_stride, rows, y_is_bf16 ? static_cast<void*>(y16.data()) : y.data(), y_stride,
                y_is_bf16, epilogue, threads, *kernels);
    for (int r = 0; r < rows; ++r) {
      for (int n = 0; n < y_stride; ++n) {
        const size_t at = r * y_stride + n;
        if (n >= out) {
          ck_assert(y_is_bf16 ? y16[at] == 4242 : y[at] == before[at]);
          continue;
        }
        double want = sums[at], bound = (in + 2) * 1.2e-7 * magnitudes[at];
        if (epilogue == Epilogue::kGelu) {
          want = 0.5 * want * (1 + std::erf(want / std::sqrt(2.0)));
          bound = 1.13 * bound + 5e-7;
        }
        if (epilogue == Epilogue::kAdd) {
          want += before[at];
          bound += 6e-8 * std::fabs(want);
        }
        if (y_is_bf16) bound += (std::fabs(want) + bound) / 256;
        const float have = y_is_bf16 ? widen(y16[at]) : y[at];
        ck_assert_msg(std::fabs(have - want) <= bound, "panel %d, %d x %d x %d, row %d column %d: %.9g, not %.9g",
                      kernels->panel, rows, in, out, r, n, have, want);
      }
    }
  }
}

START_TEST(products_of_every_size_are_exact_to_rounding) {
  for (int rows : {1, 2, 3, 4, 5, 13, 14, 15, 29}) {
    for (int in : {2, 64, 240, 514}) {
      check_products(rows, in, 64 * (1 + rows % 3), rows % 2, rows % 3 == 0, Epilogue::kNone);
    }
  }
  check_products(203, 130, 576, true, false, Epilogue::kNone, 3);
  check_products(17, 1536, 128, true, false, Epilogue::kAdd);
  check_products(99, 512, 320, true, true, Epilogue::kGelu, 2);
}
END_TEST

struct Window {
  int rows, heads;
  std::vector<uint16_t> qkv = narrow(normal(static_cast<size_t>(rows) * heads * kHeadWidth * 3, rows));

  std::vector<uint16_t> attend(const BF16Kernels& kernels, int threads, BF16AttentionScratch* scratch) const {
    std::vector<uint16_t> out(static_cast<size_t>(rows) * heads * kHeadWidth);
    bf16_attention(qkv.data(), rows, heads, out.data(), scratch, threads, kernels);
    return out;
  }
};

START_TEST(attention_of_every_length_is_that_of_double_precision) {
  for (const BF16Kernels* kernels : all_kernels()) {
    BF16AttentionScratch scratch;
    for (int rows : {1, 2, 5, 27, 28, 29, 63, 100, 257, 3}) {  // one shorter than the one before: stale scratch
      const Window window{rows, 2};
      const int width = window.heads * kHeadWidth, stride = 3 * width;
      const std::vector<uint16_t> out = window.attend(*kernels, 2, &scratch);
      std::vector<double> weights(rows);
      for (int head = 0; head < window.heads; ++head) {
        const uint16_t* q = window.qkv.data() + head * kHeadWidth;
        for (int r = 0; r < rows; ++r) {
          double most = -1e300, sum = 0;
          for (int j = 0; j < rows; ++j) {
            weights[j] = 0;
            for (int c = 0; c < kHeadWidth; ++c) {
              weights[j] += static_cast<double>(widen(q[r * stride + c])) * widen(q[j * stride + width + c]);
            }
            most = std::max(most, weights[j]);
          }
          for (double& w : weights) sum += w = std::exp(w - most);
          for (int c = 0; c < kHeadWidth; ++c) {
            double want = 0, magnitude = 0;
            for (int j = 0; j < rows; ++j) {
              const double p = weights[j] / sum * widen(q[j * stride + 2 * width + c]);
              want += p;
              magnitude += std::fabs(p);
            }
            // A weight and the result are rounded by half a unit of bf16.
            const float have = widen(out[static_cast<size_t>(r) * width + head * kHeadWidth + c]);
            ck_assert_msg(std::fabs(have - want) <= (magnitude + std::fabs(want)) / 256 + 2e-5 * magnitude,
                          "panel %d, %d rows, row %d column %d: %.9g, not %.9g", kernels->panel, rows, r, c, have,
                          want);
          }
        }
      }
    }
  }
}
END_TEST

START_TEST(attention_does_not_depend_on_the_number_of_threads) {
  for (const BF16Kernels* kernels : all_kernels()) {
    const Window window{131, 3};
    BF16AttentionScratch scratch;
    const std::vector<uint16_t> one = window.attend(*kernels, 1, &scratch);
    ck_assert(window.attend(*kernels, 2, &scratch) == one);
    ck_assert(window.attend(*kernels, 3, &scratch) == one);
  }
}
END_TEST

}  // namespace

int main() {
  std::printf("products of bf16 by instruction: %s\n",
              has_bf16_products() ? "tested" : "this processor does not have it");
  Suite* suite = suite_create("bf16_kernels");
  TCase* tests = tcase_create("bf16_kernels");
  tcase_add_test(tests, numbers_are_narrowed_to_the_nearest);
  tcase_add_test(tests, products_of_every_size_are_exact_to_rounding);
  tcase_add_test(tests, attention_of_every_length_is_that_of_double_precision);
  tcase_add_test(tests, attention_does_not_depend_on_the_number_of_threads);
  suite_add_tcase(suite, tests);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
