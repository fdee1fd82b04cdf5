// Every instruction set that the processor has, and AVX-512 in software (emulated_avx512.h), against double precision.
#include <check.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/linear.h"

namespace whisperxdna2 {
extern const F32Kernels kF32KernelsEmulatedAvx512;
}
using namespace whisperxdna2;

namespace {

std::vector<const F32Kernels*> all_kernels() {
  std::vector<const F32Kernels*> all;
  for (Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    if (has_isa(isa)) all.push_back(&f32_kernels(isa));
  }
  if (has_isa(Isa::kAvx2)) all.push_back(&kF32KernelsEmulatedAvx512);  // what the software is made of
  return all;
}

std::vector<float> normal(size_t count, unsigned seed, float deviation = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> distribution(0, deviation);
  std::vector<float> values(count);
  for (float& v : values) v = distribution(random);
  return values;
}

double exact_gelu(double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }

// A linear layer over random numbers and what it should give, with a bound on the rounding of a sum of f32 in any order
// (Higham, Accuracy and Stability of Numerical Algorithms, 3.1).
struct Case {
  int rows, in, out;
  ptrdiff_t x_stride, y_stride;
  std::vector<float> weight, bias, x, y;  // y: what is there before
  std::vector<double> expected, bound;    // [rows][out], without epilogue

  Case(int r, int i, int o, bool with_bias, ptrdiff_t xs = 0, ptrdiff_t ys = 0)
      : rows(r), in(i), out(o), x_stride(xs ? xs : i), y_stride(ys ? ys : o) {
    weight = normal(static_cast<size_t>(out) * in, 1, 0.1f);
    if (with_bias) bias = normal(out, 2);
    x = normal((rows - 1) * x_stride + in, 3);
    y = normal((rows - 1) * y_stride + out, 4);
    for (int row = 0; row < rows; ++row) {
      for (int column = 0; column < out; ++column) {
        double sum = with_bias ? bias[column] : 0, magnitude = std::fabs(sum);
        for (int k = 0; k < in; ++k) {
          const double p = static_cast<double>(x[row * x_stride + k]) * weight[static_cast<size_t>(column) * in + k];
          sum += p;
          magnitude += std::fabs(p);
        }
        expected.push_back(sum);
        bound.push_back((in + 2) * 6e-8 * magnitude + 1e-30);
      }
    }
  }

  std::vector<float> run(const F32Kernels& kernels, Epilogue epilogue, const Workers& workers = 1) const {
    const PackedLinear packed(weight.data(), bias.empty() ? nullptr : bias.data(), out, in, kernels);
    std::vector<float> result = y;
    linear(packed, x.data(), x_stride, rows, result.data(), y_stride, epilogue, workers, kernels);
    return result;
  }

  void check(const F32Kernels& kernels, Epilogue epilogue) const {
    const std::vector<float> result = run(kernels, epilogue);
    for (int row = 0; row < rows; ++row) {
      for (int column = 0; column < y_stride && row * y_stride + column < static_cast<ptrdiff_t>(y.size()); ++column) {
        const size_t at = row * y_stride + column;
        if (column >= out) {
          ck_assert_msg(result[at] == y[at], "panel %d: wrote beyond column %d", kernels.panel, out);
          continue;
        }
        const size_t i = static_cast<size_t>(row) * out + column;
        double want = expected[i], allowed = bound[i];
        if (epilogue == Epilogue::kGelu) {
          want = exact_gelu(want);
          allowed = 1.13 * allowed + 5e-7;  // the slope of GELU is at most 1.13
        } else if (epilogue == Epilogue::kAdd) {
          want += y[at];
          allowed += 6e-8 * std::fabs(want);
        }
        ck_assert_msg(std::fabs(result[at] - want) <= allowed,
                      "panel %d, %d x %d x %d, row %d column %d: %.9g, not %.9g", kernels.panel, rows, in, out, row,
                      column, result[at], want);
      }
    }
  }
};

START_TEST(products_of_every_size_are_exact_to_rounding) {
  for (const F32Kernels* kernels : all_kernels()) {
    for (int rows : {1, 2, 3, 4, 5, 6, 7, 13, 14, 15, 29}) {
      for (int out : {1, 2, 15, 16, 17, 31, 32, 33, 100}) {
        for (int in : {1, 3, 64, 240}) {
          Case(rows, in, out, true).check(*kernels, Epilogue::kNone);
        }
      }
    }
  }
}
END_TEST

START_TEST(products_of_several_tasks_and_blocks_are_exact_to_rounding) {
  for (const F32Kernels* kernels : all_kernels()) {
    Case(203, 700, 530, true).check(*kernels, Epilogue::kNone);
    Case(98, 1537, 270, true).check(*kernels, Epilogue::kAdd);
    Case(97, 1100, 259, true).check(*kernels, Epilogue::kGelu);
  }
}
END_TEST

START_TEST(layer_without_bias_adds_none) {
  for (const F32Kernels* kernels : all_kernels()) Case(9, 70, 37, false).check(*kernels, Epilogue::kNone);
}
END_TEST

START_TEST(product_is_added_to_what_is_there) {
  for (const F32Kernels* kernels : all_kernels()) Case(23, 65, 41, true).check(*kernels, Epilogue::kAdd);
}
END_TEST

START_TEST(gelu_follows_the_product) {
  for (const F32Kernels* kernels : all_kernels()) Case(23, 65, 41, true).check(*kernels, Epilogue::kGelu);
}
END_TEST

START_TEST(rows_may_overlap_and_columns_between_rows_stay) {
  for (const F32Kernels* kernels : all_kernels()) {
    for (Epilogue epilogue : {Epilogue::kNone, Epilogue::kAdd, Epilogue::kGelu}) {
      Case(110, 240, 41, true, 80, 50).check(*kernels, epilogue);
    }
  }
}
END_TEST

START_TEST(results_do_not_depend_on_the_number_of_threads) {
  for (const F32Kernels* kernels : all_kernels()) {
    const Case c(301, 333, 777, true);
    for (Epilogue epilogue : {Epilogue::kNone, Epilogue::kAdd, Epilogue::kGelu}) {
      const std::vector<float> one = c.run(*kernels, epilogue, 1);
      ck_assert(c.run(*kernels, epilogue, 2) == one);
      ck_assert(c.run(*kernels, epilogue, 3) == one);
    }
  }
}
END_TEST

// A row's result does not depend on the rows beside it either, so that windows of any length agree.
START_TEST(rows_do_not_depend_on_each_other) {
  for (const F32Kernels* kernels : all_kernels()) {
    const Case c(40, 150, 48, true);
    const std::vector<float> together = c.run(*kernels, Epilogue::kGelu);
    const PackedLinear packed(c.weight.data(), c.bias.data(), c.out, c.in, *kernels);
    for (int row = 0; row < c.rows; ++row) {
      std::vector<float> alone(c.out);
      linear(packed, c.x.data() + row * c.x_stride, c.x_stride, 1, alone.data(), c.out, Epilogue::kGelu, 1, *kernels);
      for (int i = 0; i < c.out; ++i) ck_assert(alone[i] == together[row * c.y_stride + i]);
    }
  }
}
END_TEST

START_TEST(gelu_is_within_its_bound) {
  // A product with 1 gives GELU itself.
  const float one = 1;
  for (const F32Kernels* kernels : all_kernels()) {
    const PackedLinear packed(&one, nullptr, 1, 1, *kernels);
    for (float x = -12; x <= 12; x += 0.001f) {
      float y;
      linear(packed, &x, 1, 1, &y, 1, Epilogue::kGelu, 1, *kernels);
      ck_assert_msg(std::fabs(y - exact_gelu(x)) <= 2.5e-7 * std::max(1.0f, std::fabs(x)), "gelu(%.9g) = %.9g", x, y);
    }
  }
}
END_TEST

START_TEST(softmax_gives_exponentials_and_the_inverse_of_their_sum) {
  for (const F32Kernels* kernels : all_kernels()) {
    for (int columns : {1, 2, 7, 8, 9, 15, 16, 17, 33, 512, 1500}) {
      const int rows = 3, stride = columns + 5;
      std::vector<float> scores = normal(static_cast<size_t>(rows) * stride, columns, 12);
      const std::vector<float> before = scores;
      float inverse[rows];
      kernels->softmax(scores.data(), stride, rows, columns, inverse);
      for (int r = 0; r < rows; ++r) {
        const float* x = before.data() + r * stride;
        const float most = *std::max_element(x, x + columns);
        double sum = 0;
        for (int c = 0; c < columns; ++c) sum += std::exp(static_cast<double>(x[c] - most));
        for (int c = 0; c < columns; ++c) {
          const double want = std::exp(static_cast<double>(x[c] - most));
          ck_assert_msg(std::fabs(scores[r * stride + c] - want) <= 2e-7 * want + 1e-37, "exp(%.9g) = %.9g",
                        x[c] - most, scores[r * stride + c]);
        }
        ck_assert_double_le(std::fabs(inverse[r] * sum - 1), 2e-6);
      }
    }
  }
}
END_TEST

START_TEST(softmax_survives_scores_far_apart) {
  for (const F32Kernels* kernels : all_kernels()) {
    std::vector<float> scores(40, -1e30f);
    scores[33] = 1e30f;
    float inverse;
    kernels->softmax(scores.data(), 40, 1, 40, &inverse);
    for (int i = 0; i < 40; ++i) ck_assert(i == 33 ? scores[i] == 1 : scores[i] >= 0 && scores[i] < 1e-37f);
    ck_assert_float_eq(inverse, 1);
  }
}
END_TEST

START_TEST(layer_norm_is_that_of_double_precision) {
  for (const F32Kernels* kernels : all_kernels()) {
    for (int width : {16, 384, 512, 1280}) {
      const int rows = 5;
      std::vector<float> x = normal(static_cast<size_t>(rows) * width, width, 3);
      for (int c = 0; c < width; ++c) x[c] = x[c] * 1e-3f + 500;  // a row whose mean is far above its deviation
      for (int c = 0; c < width; ++c) x[width + c] = 7;           // a constant one: only epsilon is below the fraction
      const std::vector<float> gain = normal(width, 5), bias = normal(width, 6);
      std::vector<float> y(x.size());
      kernels->layer_norm(x.data(), rows, width, gain.data(), bias.data(), y.data());
      for (int r = 0; r < rows; ++r) {
        double mean = 0, variance = 0;
        for (int c = 0; c < width; ++c) mean += x[r * width + c];
        mean /= width;
        for (int c = 0; c < width; ++c) variance += std::pow(x[r * width + c] - mean, 2);
        const double scale = 1 / std::sqrt(variance / width + 1e-5);
        for (int c = 0; c < width; ++c) {
          const double z = (x[r * width + c] - mean) * scale, want = z * gain[c] + bias[c];
          // The mean is known to some units in its last place.
          const double allowed = 2e-6 * (1 + std::fabs(z)) + 3e-7 * std::fabs(mean) * scale;
          ck_assert_msg(std::fabs(y[r * width + c] - want) <= allowed * (1 + std::fabs(gain[c])),
                        "width %d: %.9g, not %.9g", width, y[r * width + c], want);
        }
      }
    }
  }
}
END_TEST

START_TEST(add_adds_every_element) {
  for (const F32Kernels* kernels : all_kernels()) {
    for (size_t count : {0, 1, 7, 8, 16, 17, 31, 100}) {
      const std::vector<float> x = normal(count, 1);
      std::vector<float> y = normal(count + 1, 2), expected = y;
      for (size_t i = 0; i < count; ++i) expected[i] += x[i];
      kernels->add(y.data(), x.data(), count);
      ck_assert(y == expected);
    }
  }
}
END_TEST

std::vector<double> exact_attention(const std::vector<float>& qkv, int rows, int heads) {
  const int width = heads * kHeadWidth, stride = 3 * width;
  std::vector<double> out(static_cast<size_t>(rows) * width), weights(rows);
  for (int head = 0; head < heads; ++head) {
    const float* q = qkv.data() + head * kHeadWidth;
    const float* k = q + width;
    const float* v = k + width;
    for (int r = 0; r < rows; ++r) {
      double most = -1e300, sum = 0;
      for (int j = 0; j < rows; ++j) {
        weights[j] = 0;
        for (int c = 0; c < kHeadWidth; ++c) weights[j] += static_cast<double>(q[r * stride + c]) * k[j * stride + c];
        most = std::max(most, weights[j]);
      }
      for (double& w : weights) sum += w = std::exp(w - most);
      for (int j = 0; j < rows; ++j) {
        for (int c = 0; c < kHeadWidth; ++c) {
          out[static_cast<size_t>(r) * width + head * kHeadWidth + c] += weights[j] / sum * v[j * stride + c];
        }
      }
    }
  }
  return out;
}

START_TEST(attention_of_every_length_is_that_of_double_precision) {
  for (const F32Kernels* kernels : all_kernels()) {
    AttentionScratch scratch;
    for (int rows : {1, 2, 5, 23, 24, 25, 63, 100, 257, 3}) {  // one shorter than the one before: stale scratch
      const int heads = 2;
      const std::vector<float> qkv = normal(static_cast<size_t>(rows) * heads * kHeadWidth * 3, rows);
      std::vector<float> out(static_cast<size_t>(rows) * heads * kHeadWidth);
      attention(qkv.data(), rows, heads, out.data(), &scratch, 2, *kernels);
      const std::vector<double> expected = exact_attention(qkv, rows, heads);
      for (size_t i = 0; i < out.size(); ++i) {
        ck_assert_msg(std::fabs(out[i] - expected[i]) <= 2e-5, "panel %d, %d rows, %zu: %.9g, not %.9g", kernels->panel,
                      rows, i, out[i], expected[i]);
      }
    }
  }
}
END_TEST

START_TEST(attention_does_not_depend_on_the_number_of_threads) {
  for (const F32Kernels* kernels : all_kernels()) {
    const int rows = 131, heads = 3;
    const std::vector<float> qkv = normal(static_cast<size_t>(rows) * heads * kHeadWidth * 3, 9);
    std::vector<float> results[3];
    for (int threads = 1; threads <= 3; ++threads) {
      AttentionScratch scratch;
      results[threads - 1].resize(static_cast<size_t>(rows) * heads * kHeadWidth);
      attention(qkv.data(), rows, heads, results[threads - 1].data(), &scratch, threads, *kernels);
    }
    ck_assert(results[0] == results[1]);
    ck_assert(results[0] == results[2]);
  }
}
END_TEST

}  // namespace

int main() {
  for (Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    std::printf("%s: %s\n", isa_name(isa),
                has_isa(isa) ? "tested" : "only in software or not at all: this processor does not have it");
  }
  Suite* suite = suite_create("f32_kernels");
  TCase* products = tcase_create("linear");
  tcase_add_test(products, products_of_every_size_are_exact_to_rounding);
  tcase_add_test(products, products_of_several_tasks_and_blocks_are_exact_to_rounding);
  tcase_add_test(products, layer_without_bias_adds_none);
  tcase_add_test(products, product_is_added_to_what_is_there);
  tcase_add_test(products, gelu_follows_the_product);
  tcase_add_test(products, rows_may_overlap_and_columns_between_rows_stay);
  tcase_add_test(products, results_do_not_depend_on_the_number_of_threads);
  tcase_add_test(products, rows_do_not_depend_on_each_other);
  tcase_add_test(products, gelu_is_within_its_bound);
  suite_add_tcase(suite, products);
  TCase* rest = tcase_create("rest");
  tcase_add_test(rest, softmax_gives_exponentials_and_the_inverse_of_their_sum);
  tcase_add_test(rest, softmax_survives_scores_far_apart);
  tcase_add_test(rest, layer_norm_is_that_of_double_precision);
  tcase_add_test(rest, add_adds_every_element);
  tcase_add_test(rest, attention_of_every_length_is_that_of_double_precision);
  tcase_add_test(rest, attention_does_not_depend_on_the_number_of_threads);
  suite_add_tcase(suite, rest);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
