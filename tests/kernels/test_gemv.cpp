// Products of few rows with stored matrices: each instruction set against sums in double, with its error bound.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/cpu/gemv.h"

#include <check.h>  // last: it defines macros with names such as fail

using namespace whisperxdna2;

namespace {

std::mt19937 random_bits(1);

float uniform() { return static_cast<float>(random_bits()) / 2147483648.0f - 1.0f; }

std::vector<float> uniform(size_t count) {
  std::vector<float> v(count);
  for (float& x : v) x = uniform();
  return v;
}

// A matrix of random finite values of a type, with the values it stands for.
struct Matrix {
  Matrix(MatrixType type, int out, int in) : bytes(static_cast<size_t>(out) * in * 4), values(bytes.size() / 4) {
    view = {type, bytes.data(), out, in};
    for (size_t i = 0; i < values.size(); ++i) {
      if (type == MatrixType::kF32) {
        values[i] = uniform();
        std::memcpy(&bytes[4 * i], &values[i], 4);
      } else {
        // f16: 1 sign, 5 exponent, 10 fraction bits; bf16: the upper half of an f32.
        const int sign = static_cast<int>(random_bits() & 1), exponent = static_cast<int>(random_bits() % 16);
        const int fraction_bits = type == MatrixType::kF16 ? 10 : 7, bias = type == MatrixType::kF16 ? 15 : 127;
        const int stored = type == MatrixType::kF16 ? exponent : exponent + 112;
        const int fraction = static_cast<int>(random_bits() % (1u << fraction_bits));
        const bool denormal = type == MatrixType::kF16 && exponent == 0;
        const double magnitude = std::ldexp(denormal ? fraction : fraction + (1 << fraction_bits),
                                            (denormal ? 1 : stored) - bias - fraction_bits);
        values[i] = static_cast<float>(sign ? -magnitude : magnitude);
        const uint16_t bits = static_cast<uint16_t>(sign << 15 | stored << fraction_bits | fraction);
        std::memcpy(&bytes[2 * i], &bits, 2);
      }
    }
  }
  std::vector<uint8_t> bytes;
  std::vector<float> values;
  MatrixView view;
};

const MatrixType kTypes[] = {MatrixType::kF32, MatrixType::kF16, MatrixType::kBF16};

template <class Test>
void for_each_isa(const Test& test) {
  int tested = 0;
  for (Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    if (!has_isa(isa)) continue;
    test(isa);
    ++tested;
  }
  ck_assert_int_ge(tested, 1);
}

double gelu_of(double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }

std::vector<uint16_t> halves(const std::vector<float>& v) {
  std::vector<uint16_t> h(v.size());
  narrow(v.data(), static_cast<int>(v.size()), h.data(), Isa::kScalar);
  return h;
}

}  // namespace

START_TEST(products_are_the_sums_within_the_rounding_of_f32) {
  for_each_isa([](Isa isa) {
    for (MatrixType type : kTypes) {
      for (int out : {1, 7, 8, 9, 61, 600}) {
        for (int in : {16, 64, 512}) {
          const Matrix w(type, out, in);
          for (int rows : {1, 2, 5}) {
            const std::vector<float> x = uniform(static_cast<size_t>(rows) * in), bias = uniform(out);
            std::vector<float> y(static_cast<size_t>(rows) * out);
            multiply(w.view, bias.data(), x.data(), in, rows, y.data(), out, Epilogue::kNone, 2, isa);
            for (int r = 0; r < rows; ++r) {
              for (int n = 0; n < out; ++n) {
                double sum = bias[n], size = std::fabs(bias[n]);
                for (int k = 0; k < in; ++k) {
                  const double p = static_cast<double>(w.values[static_cast<size_t>(n) * in + k]) * x[r * in + k];
                  sum += p;
                  size += std::fabs(p);
                }
                ck_assert_double_eq_tol(y[r * out + n], sum, size * in * 6e-8);
              }
            }
          }
        }
      }
    }
  });
}
END_TEST

START_TEST(epilogues_are_applied_to_the_product) {
  for_each_isa([](Isa isa) {
    const int out = 21, in = 64;
    const Matrix w(MatrixType::kF16, out, in);
    const std::vector<float> x = uniform(in), bias = uniform(out), old = uniform(out);
    std::vector<float> plain(out), gelus(out), sums = old;
    multiply(w.view, bias.data(), x.data(), in, 1, plain.data(), out, Epilogue::kNone, 1, isa);
    multiply(w.view, bias.data(), x.data(), in, 1, gelus.data(), out, Epilogue::kGelu, 1, isa);
    multiply(w.view, bias.data(), x.data(), in, 1, sums.data(), out, Epilogue::kAdd, 1, isa);
    for (int n = 0; n < out; ++n) {
      ck_assert_double_eq_tol(gelus[n], gelu_of(plain[n]), 1e-6 * (1 + std::fabs(plain[n])));
      ck_assert_float_eq(sums[n], old[n] + plain[n]);
    }
  });
}
END_TEST

START_TEST(a_row_does_not_depend_on_threads_or_on_other_rows) {
  for_each_isa([](Isa isa) {
    const int out = 1000, in = 512, rows = 3;
    const Matrix w(MatrixType::kF16, out, in);
    const std::vector<float> x = uniform(static_cast<size_t>(rows) * in);
    std::vector<float> all(static_cast<size_t>(rows) * out), one(out);
    multiply(w.view, nullptr, x.data(), in, rows, all.data(), out, Epilogue::kNone, 3, isa);
    for (int r = 0; r < rows; ++r) {
      multiply(w.view, nullptr, x.data() + r * in, in, 1, one.data(), out, Epilogue::kNone, 1, isa);
      ck_assert_mem_eq(one.data(), all.data() + r * out, out * sizeof(float));
    }
  });
}
END_TEST

START_TEST(rows_may_lie_apart) {
  const int out = 9, in = 32;
  const Matrix w(MatrixType::kF32, out, in);
  const std::vector<float> x = uniform(100);
  std::vector<float> y(40, 7.0f), one(out);
  multiply(w.view, nullptr, x.data(), 50, 2, y.data(), 20, Epilogue::kNone, 1);
  for (int r = 0; r < 2; ++r) {
    multiply(w.view, nullptr, x.data() + r * 50, in, 1, one.data(), out, Epilogue::kNone, 1);
    ck_assert_mem_eq(one.data(), y.data() + r * 20, out * sizeof(float));
    for (int n = out; n < 20; ++n) ck_assert_float_eq(y[r * 20 + n], 7.0f);
  }
}
END_TEST

START_TEST(a_widened_row_is_exact) {
  for (MatrixType type : kTypes) {
    const Matrix w(type, 3, 256);
    std::vector<float> row(256);
    widen_row(w.view, 2, row.data());
    ck_assert_mem_eq(row.data(), &w.values[512], 256 * sizeof(float));
  }
}
END_TEST

START_TEST(every_half_survives_being_widened_and_narrowed) {
  for_each_isa([](Isa isa) {
    std::vector<uint16_t> all;
    for (int bits = 0; bits < 0x10000; ++bits) {
      if ((bits & 0x7C00) != 0x7C00) all.push_back(static_cast<uint16_t>(bits));  // finite
    }
    const int count = static_cast<int>(all.size());
    std::vector<float> wide(count);
    widen_row({MatrixType::kF16, all.data(), 1, count}, 0, wide.data());
    std::vector<uint16_t> back(count);
    narrow(wide.data(), count, back.data(), isa);
    ck_assert_mem_eq(back.data(), all.data(), count * sizeof(uint16_t));
  });
}
END_TEST

START_TEST(narrowing_rounds_to_even_and_stays_finite) {
  const float values[16] = {1 + 0x1p-11f, 1 + 3 * 0x1p-11f, 1 + 0x1.8p-11f, -1 - 0x1p-11f, 65519.0f, 1e9f, -1e9f, 0x1p-25f,
                            0x1.8p-25f, 0x1p-24f, 0x1.ffep-15f, 0x1.fffp-15f, 0, -0.0f, 65504.0f, 3 * 0x1p-25f};
  const uint16_t wanted[16] = {0x3C00, 0x3C02, 0x3C01, 0xBC00, 0x7BFF, 0x7BFF, 0xFBFF, 0, 1, 1, 0x0400, 0x0400, 0, 0x8000,
                               0x7BFF, 2};
  for_each_isa([&](Isa isa) {
    uint16_t got[16];
    narrow(values, 16, got, isa);
    for (int i = 0; i < 16; ++i) ck_assert_msg(got[i] == wanted[i], "%s, %d: %x", isa_name(isa), i, got[i]);
  });
}
END_TEST

START_TEST(attention_is_the_weighted_mean_of_the_values) {
  for_each_isa([](Isa isa) {
    for (int count : {1, 2, 15, 16, 17, 576}) {
      const std::vector<float> query = uniform(kHeadWidth);
      const std::vector<uint16_t> keys = halves(uniform(static_cast<size_t>(count) * kHeadWidth));
      const std::vector<uint16_t> values = halves(uniform(static_cast<size_t>(count) * kHeadWidth));
      std::vector<float> k(keys.size()), v(values.size());
      widen_row({MatrixType::kF16, keys.data(), 1, static_cast<int>(k.size())}, 0, k.data());
      widen_row({MatrixType::kF16, values.data(), 1, static_cast<int>(v.size())}, 0, v.data());
      std::vector<float> scores(count), weights(count);
      float out[kHeadWidth];
      attend(query.data(), keys.data(), values.data(), count, scores.data(), weights.data(), out, isa);
      double total = 0, mean[kHeadWidth] = {};
      for (int t = 0; t < count; ++t) {
        double score = 0;
        for (int c = 0; c < kHeadWidth; ++c) score += static_cast<double>(query[c]) * k[t * kHeadWidth + c];
        ck_assert_double_eq_tol(scores[t], score, 1e-5);
        total += std::exp(score);
        for (int c = 0; c < kHeadWidth; ++c) mean[c] += std::exp(score) * v[t * kHeadWidth + c];
      }
      for (int c = 0; c < kHeadWidth; ++c) ck_assert_double_eq_tol(out[c], mean[c] / total, 2e-5);
    }
  });
}
END_TEST

START_TEST(log_sum_exp_and_largest_leave_out_minus_infinity) {
  for_each_isa([](Isa isa) {
    for (int count : {1, 7, 16, 33, 1501}) {
      std::vector<float> x = uniform(count);
      for (int i = 0; i < count; ++i) x[i] = i % 3 == 1 ? -INFINITY : 40 * x[i];
      double total = 0, most = -INFINITY;
      for (float v : x) {
        total += std::exp(static_cast<double>(v));
        most = std::fmax(most, v);
      }
      ck_assert_double_eq_tol(log_sum_exp(x.data(), count, isa), std::log(total), 2e-5);
      ck_assert_float_eq(largest(x.data(), count, isa), static_cast<float>(most));
      std::fill(x.begin(), x.end(), -INFINITY);
      ck_assert(log_sum_exp(x.data(), count, isa) == -INFINITY && largest(x.data(), count, isa) == -INFINITY);
    }
  });
}
END_TEST

int main() {
  Suite* suite = suite_create("gemv");
  TCase* all = tcase_create("all");
  tcase_add_test(all, products_are_the_sums_within_the_rounding_of_f32);
  tcase_add_test(all, epilogues_are_applied_to_the_product);
  tcase_add_test(all, a_row_does_not_depend_on_threads_or_on_other_rows);
  tcase_add_test(all, rows_may_lie_apart);
  tcase_add_test(all, a_widened_row_is_exact);
  tcase_add_test(all, every_half_survives_being_widened_and_narrowed);
  tcase_add_test(all, narrowing_rounds_to_even_and_stays_finite);
  tcase_add_test(all, attention_is_the_weighted_mean_of_the_values);
  tcase_add_test(all, log_sum_exp_and_largest_leave_out_minus_infinity);
  suite_add_tcase(suite, all);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
