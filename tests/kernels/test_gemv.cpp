// Products of few rows with stored matrices: each instruction set against sums in double, with its error bound.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/cpu/gemv.h"

#include <check.h>  // last: it defines macros with names such as fail

namespace whisperxdna2 {
extern const GemvKernels kGemvEmulatedAvx512;
}
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
    view = {type, bytes.data(), out, in, nullptr};
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
void for_each_set(const Test& test) {
  for (Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    if (has_isa(isa)) test(gemv_kernels(isa));
  }
  if (has_isa(Isa::kAvx2)) test(kGemvEmulatedAvx512);  // what the software is made of
}

// Outputs [first, last) for rows of x at x_stride.
GemvTask task(const MatrixView& w, const float* bias, const float* x, ptrdiff_t x_stride, int rows, float* y,
              ptrdiff_t y_stride, Epilogue epilogue, int first = 0, int last = -1) {
  GemvTask t{};
  t.w = w;
  t.first = first;
  t.last = last < 0 ? w.out : last;
  t.bias = bias;
  t.x = x;
  t.x_stride = x_stride;
  t.rows = rows;
  t.y = y;
  t.y_stride = y_stride;
  t.epilogue = epilogue;
  return t;
}

// A matrix as int8, packed by a set of kernels, and rows for it.
struct Packed {
  Packed(const MatrixView& from, const GemvKernels& kernels)
      : panels(int8_panel_bytes(from.out, from.in), 99), scale(from.out, -1.0f) {
    kernels.pack(from, 0, (from.out + kInt8PanelRows - 1) / kInt8PanelRows, panels.data(), scale.data());
    view = {MatrixType::kInt8, panels.data(), from.out, from.in, scale.data()};
  }
  int weight(int n, int k) const {
    const size_t panel = static_cast<size_t>(n / kInt8PanelRows) * kInt8PanelRows * view.in;
    return panels[panel + static_cast<size_t>(k / 2) * 2 * kInt8PanelRows + 2 * (n % kInt8PanelRows) + k % 2];
  }
  std::vector<int8_t> panels;
  std::vector<float> scale;
  MatrixView view;
};

struct IntegerRows {
  IntegerRows(const std::vector<float>& x, int rows, int in, const GemvKernels& kernels)
      : integers(x.size()), unit(rows) {
    for (int r = 0; r < rows; ++r) {
      unit[r] = kernels.quantize_row(&x[static_cast<size_t>(r) * in], in, input_limit(in),
                                     &integers[static_cast<size_t>(r) * in]);
    }
  }
  std::vector<int16_t> integers;
  std::vector<float> unit;
};

std::vector<float> int8_product(const Packed& w, const float* bias, const IntegerRows& x, std::vector<float> y,
                                Epilogue epilogue, const GemvKernels& kernels, int piece = 1 << 20) {
  for (int first = 0; first < w.view.out; first += piece) {
    GemvTask t = task(w.view, bias, nullptr, 0, static_cast<int>(x.unit.size()), y.data() + first, w.view.out, epilogue,
                      first, std::min(w.view.out, first + piece));
    t.integers = x.integers.data();
    t.unit = x.unit.data();
    kernels.multiply(t);
  }
  return y;
}

double gelu_of(double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }

std::vector<uint16_t> halves(const std::vector<float>& v) {
  std::vector<uint16_t> h(v.size());
  gemv_kernels(Isa::kScalar).narrow(v.data(), static_cast<int>(v.size()), h.data());
  return h;
}

}  // namespace

START_TEST(products_are_the_sums_within_the_rounding_of_f32) {
  for_each_set([](const GemvKernels& kernels) {
    for (MatrixType type : kTypes) {
      for (int out : {1, 7, 8, 9, 61, 600}) {
        for (int in : {16, 64, 512}) {
          const Matrix w(type, out, in);
          for (int rows : {1, 2, 5}) {
            const std::vector<float> x = uniform(static_cast<size_t>(rows) * in), bias = uniform(out);
            std::vector<float> y(static_cast<size_t>(rows) * out);
            kernels.multiply(task(w.view, bias.data(), x.data(), in, rows, y.data(), out, Epilogue::kNone));
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
  for_each_set([](const GemvKernels& kernels) {
    const int out = 21, in = 64;
    const Matrix w(MatrixType::kF16, out, in);
    const std::vector<float> x = uniform(in), bias = uniform(out), old = uniform(out);
    std::vector<float> plain(out), gelus(out), sums = old;
    kernels.multiply(task(w.view, bias.data(), x.data(), in, 1, plain.data(), out, Epilogue::kNone));
    kernels.multiply(task(w.view, bias.data(), x.data(), in, 1, gelus.data(), out, Epilogue::kGelu));
    kernels.multiply(task(w.view, bias.data(), x.data(), in, 1, sums.data(), out, Epilogue::kAdd));
    for (int n = 0; n < out; ++n) {
      ck_assert_double_eq_tol(gelus[n], gelu_of(plain[n]), 1e-6 * (1 + std::fabs(plain[n])));
      ck_assert_float_eq(sums[n], old[n] + plain[n]);
    }
  });
}
END_TEST

START_TEST(a_result_does_not_depend_on_the_other_rows_and_outputs) {
  for_each_set([](const GemvKernels& kernels) {
    const int out = 1000, in = 512, rows = 3;
    const Matrix w(MatrixType::kF16, out, in);
    const std::vector<float> x = uniform(static_cast<size_t>(rows) * in);
    std::vector<float> all(static_cast<size_t>(rows) * out), one(out);
    kernels.multiply(task(w.view, nullptr, x.data(), in, rows, all.data(), out, Epilogue::kNone));
    for (int r = 0; r < rows; ++r) {
      for (int first : {0, 304}) {
        kernels.multiply(task(w.view, nullptr, x.data() + r * in, in, 1, one.data() + first, out, Epilogue::kNone,
                              first, first ? out : 304));
      }
      ck_assert_mem_eq(one.data(), all.data() + r * out, out * sizeof(float));
    }
  });
}
END_TEST

START_TEST(int8_products_are_their_definition_bit_for_bit) {
  for (const auto& [out, in] : {std::pair(1, 64), {16, 64}, {61, 512}, {160, 2048}, {17, 5120}}) {
    for (MatrixType type : kTypes) {
      const Matrix m(type, out, in);
      const Packed defined(m.view, gemv_kernels(Isa::kScalar));
      for (int rows : {1, 2, 5, 6, 7, 13}) {
        const std::vector<float> x = uniform(static_cast<size_t>(rows) * in), bias = uniform(out);
        const std::vector<float> old = uniform(static_cast<size_t>(rows) * out);
        const IntegerRows integers(x, rows, in, gemv_kernels(Isa::kScalar));
        std::vector<float> wanted(old.size()), added(old.size());
        for (int r = 0; r < rows; ++r) {
          for (int n = 0; n < out; ++n) {
            int64_t sum = 0;
            for (int k = 0; k < in; ++k) {
              sum += defined.weight(n, k) * integers.integers[static_cast<size_t>(r) * in + k];
            }
            ck_assert(sum == static_cast<int32_t>(sum));
            float y = static_cast<float>(sum) * (defined.scale[n] * integers.unit[r]);
            y = y + bias[n];
            wanted[r * out + n] = y;
            added[r * out + n] = old[r * out + n] + y;
          }
        }
        for_each_set([&](const GemvKernels& kernels) {
          const Packed w(m.view, kernels);
          ck_assert(w.panels == defined.panels && w.scale == defined.scale);
          const IntegerRows mine(x, rows, in, kernels);
          ck_assert(mine.integers == integers.integers && mine.unit == integers.unit);
          ck_assert(int8_product(w, bias.data(), mine, old, Epilogue::kNone, kernels) == wanted);
          ck_assert(int8_product(w, bias.data(), mine, old, Epilogue::kAdd, kernels) == added);
          ck_assert(int8_product(w, bias.data(), mine, old, Epilogue::kNone, kernels, 32) == wanted);
          const std::vector<float> gelus = int8_product(w, bias.data(), mine, old, Epilogue::kGelu, kernels);
          for (size_t i = 0; i < gelus.size(); ++i) {
            ck_assert_double_eq_tol(gelus[i], gelu_of(wanted[i]), 1e-6 * (1 + std::fabs(wanted[i])));
          }
        });
      }
    }
  }
}
END_TEST

START_TEST(int8_sums_of_the_largest_numbers_are_exact) {
  for (int in : {64, 2048, 2112, 5120}) {
    const std::vector<float> weights(static_cast<size_t>(in), -3.0f), x(static_cast<size_t>(in), 5.0f);
    const MatrixView m{MatrixType::kF32, weights.data(), 1, in};
    const int64_t sum = int64_t{-127} * input_limit(in) * in;
    ck_assert(sum >= INT32_MIN);
    for_each_set([&](const GemvKernels& kernels) {
      const Packed w(m, kernels);
      const IntegerRows rows(x, 1, in, kernels);
      const std::vector<float> y = int8_product(w, nullptr, rows, {0.0f}, Epilogue::kNone, kernels);
      ck_assert_float_eq(y[0], static_cast<float>(sum) * (w.scale[0] * rows.unit[0]));
    });
  }
}
END_TEST

START_TEST(int8_weights_are_within_half_a_unit) {
  Matrix m(MatrixType::kF32, 18, 576);
  std::memset(&m.bytes[4 * 576 * 3], 0, 4 * 576);  // a row of zeros
  for_each_set([&](const GemvKernels& kernels) {
    const Packed w(m.view, kernels);
    std::vector<float> row(576);
    for (int n = 0; n < 18; ++n) {
      kernels.widen_row(w.view, n, row.data());
      int most = 0;
      for (int k = 0; k < 576; ++k) {
        float value;
        std::memcpy(&value, &m.bytes[4 * (n * 576 + k)], 4);
        ck_assert_double_le(std::fabs(row[k] - value), w.scale[n] * 0.50001);
        most = std::max(most, std::abs(w.weight(n, k)));
      }
      ck_assert_int_eq(most, n == 3 ? 0 : 127);
    }
    for (size_t i = int8_panel_bytes(16, 576); i < w.panels.size(); ++i) {
      if (i % 32 >= 4) ck_assert_int_eq(w.panels[i], 0);  // the rows that fill the last panel
    }
  });
}
END_TEST

START_TEST(integers_of_a_row_stay_within_their_limit) {
  const float odd[] = {NAN, INFINITY, -INFINITY, 3e38f, 1e-38f, 0.0f};
  for_each_set([&](const GemvKernels& kernels) {
    for (float other : odd) {
      std::vector<float> x = uniform(64);
      x[37] = other;
      std::vector<int16_t> to(64);
      kernels.quantize_row(x.data(), 64, 3302, to.data());
      for (int16_t v : to) ck_assert_int_le(std::abs(v), 3302);
    }
    const std::vector<float> zeros(64);
    std::vector<int16_t> to(64, 7);
    ck_assert(kernels.quantize_row(zeros.data(), 64, 8191, to.data()) == 0.0f && to == std::vector<int16_t>(64));
  });
}
END_TEST

START_TEST(rows_may_lie_apart) {
  const int out = 9, in = 32;
  const Matrix w(MatrixType::kF32, out, in);
  const std::vector<float> x = uniform(100);
  std::vector<float> y(40, 7.0f), one(out);
  gemv_kernels().multiply(task(w.view, nullptr, x.data(), 50, 2, y.data(), 20, Epilogue::kNone));
  for (int r = 0; r < 2; ++r) {
    gemv_kernels().multiply(task(w.view, nullptr, x.data() + r * 50, in, 1, one.data(), out, Epilogue::kNone));
    ck_assert_mem_eq(one.data(), y.data() + r * 20, out * sizeof(float));
    for (int n = out; n < 20; ++n) ck_assert_float_eq(y[r * 20 + n], 7.0f);
  }
}
END_TEST

START_TEST(a_widened_row_is_exact) {
  for (MatrixType type : kTypes) {
    const Matrix w(type, 3, 256);
    std::vector<float> row(256);
    gemv_kernels().widen_row(w.view, 2, row.data());
    ck_assert_mem_eq(row.data(), &w.values[512], 256 * sizeof(float));
  }
}
END_TEST

START_TEST(every_half_survives_being_widened_and_narrowed) {
  for_each_set([](const GemvKernels& kernels) {
    std::vector<uint16_t> all;
    for (int bits = 0; bits < 0x10000; ++bits) {
      if ((bits & 0x7C00) != 0x7C00) all.push_back(static_cast<uint16_t>(bits));  // finite
    }
    const int count = static_cast<int>(all.size());
    std::vector<float> wide(count);
    kernels.widen_row({MatrixType::kF16, all.data(), 1, count, nullptr}, 0, wide.data());
    std::vector<uint16_t> back(count);
    kernels.narrow(wide.data(), count, back.data());
    ck_assert_mem_eq(back.data(), all.data(), count * sizeof(uint16_t));
  });
}
END_TEST

START_TEST(narrowing_rounds_to_even_and_stays_finite) {
  const float values[16] = {1 + 0x1p-11f, 1 + 3 * 0x1p-11f, 1 + 0x1.8p-11f, -1 - 0x1p-11f, 65519.0f,     1e9f, -1e9f,
                            0x1p-25f,     0x1.8p-25f,       0x1p-24f,       0x1.ffep-15f,  0x1.fffp-15f, 0,    -0.0f,
                            65504.0f,     3 * 0x1p-25f};
  const uint16_t wanted[16] = {0x3C00, 0x3C02, 0x3C01, 0xBC00, 0x7BFF, 0x7BFF, 0xFBFF, 0,
                               1,      1,      0x0400, 0x0400, 0,      0x8000, 0x7BFF, 2};
  for_each_set([&](const GemvKernels& kernels) {
    uint16_t got[16];
    kernels.narrow(values, 16, got);
    for (int i = 0; i < 16; ++i) ck_assert_msg(got[i] == wanted[i], "%d: %x", i, got[i]);
  });
}
END_TEST

START_TEST(attention_is_the_weighted_mean_of_the_values) {
  for_each_set([](const GemvKernels& kernels) {
    for (int count : {1, 2, 15, 16, 17, 576}) {
      const std::vector<float> query = uniform(kHeadWidth);
      const std::vector<uint16_t> keys = halves(uniform(static_cast<size_t>(count) * kHeadWidth));
      const std::vector<uint16_t> values = halves(uniform(static_cast<size_t>(count) * kHeadWidth));
      std::vector<float> k(keys.size()), v(values.size());
      kernels.widen_row({MatrixType::kF16, keys.data(), 1, static_cast<int>(k.size()), nullptr}, 0, k.data());
      kernels.widen_row({MatrixType::kF16, values.data(), 1, static_cast<int>(v.size()), nullptr}, 0, v.data());
      std::vector<float> scores(count), weights(count);
      float out[kHeadWidth];
      kernels.attend(query.data(), keys.data(), values.data(), nullptr, count, scores.data(), weights.data(), out);
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

START_TEST(attention_finds_its_rows_by_index) {
  for_each_set([](const GemvKernels& kernels) {
    const int count = 37, stored = 50;
    const std::vector<float> query = uniform(kHeadWidth);
    const std::vector<uint16_t> keys = halves(uniform(static_cast<size_t>(stored) * kHeadWidth));
    const std::vector<uint16_t> values = halves(uniform(static_cast<size_t>(stored) * kHeadWidth));
    std::vector<int> rows;
    std::vector<uint16_t> some_keys, some_values;
    for (int t = 0; t < count; ++t) {
      rows.push_back(t * 17 % stored);
      some_keys.insert(some_keys.end(), &keys[rows[t] * kHeadWidth], &keys[rows[t] * kHeadWidth] + kHeadWidth);
      some_values.insert(some_values.end(), &values[rows[t] * kHeadWidth], &values[rows[t] * kHeadWidth] + kHeadWidth);
    }
    std::vector<float> scores[2] = {std::vector<float>(count), std::vector<float>(count)}, weights(count);
    float out[2][kHeadWidth];
    kernels.attend(query.data(), keys.data(), values.data(), rows.data(), count, scores[0].data(), weights.data(),
                   out[0]);
    kernels.attend(query.data(), some_keys.data(), some_values.data(), nullptr, count, scores[1].data(), weights.data(),
                   out[1]);
    ck_assert(scores[0] == scores[1]);
    ck_assert_mem_eq(out[0], out[1], sizeof out[0]);
  });
}
END_TEST

START_TEST(log_sum_exp_and_largest_leave_out_minus_infinity) {
  for_each_set([](const GemvKernels& kernels) {
    for (int count : {1, 7, 16, 33, 1501}) {
      std::vector<float> x = uniform(count);
      for (int i = 0; i < count; ++i) x[i] = i % 3 == 1 ? -INFINITY : 40 * x[i];
      double total = 0, most = -INFINITY;
      for (float v : x) {
        total += std::exp(static_cast<double>(v));
        most = std::fmax(most, v);
      }
      ck_assert_double_eq_tol(kernels.log_sum_exp(x.data(), count), std::log(total), 2e-5);
      ck_assert_float_eq(kernels.largest(x.data(), count), static_cast<float>(most));
      std::fill(x.begin(), x.end(), -INFINITY);
      ck_assert(kernels.log_sum_exp(x.data(), count) == -INFINITY && kernels.largest(x.data(), count) == -INFINITY);
    }
  });
}
END_TEST

int main() {
  Suite* suite = suite_create("gemv");
  TCase* all = tcase_create("all");
  tcase_add_test(all, products_are_the_sums_within_the_rounding_of_f32);
  tcase_add_test(all, epilogues_are_applied_to_the_product);
  tcase_add_test(all, a_result_does_not_depend_on_the_other_rows_and_outputs);
  tcase_add_test(all, int8_products_are_their_definition_bit_for_bit);
  tcase_add_test(all, int8_sums_of_the_largest_numbers_are_exact);
  tcase_add_test(all, int8_weights_are_within_half_a_unit);
  tcase_add_test(all, integers_of_a_row_stay_within_their_limit);
  tcase_add_test(all, rows_may_lie_apart);
  tcase_add_test(all, a_widened_row_is_exact);
  tcase_add_test(all, every_half_survives_being_widened_and_narrowed);
  tcase_add_test(all, narrowing_rounds_to_even_and_stays_finite);
  tcase_add_test(all, attention_is_the_weighted_mean_of_the_values);
  tcase_add_test(all, attention_finds_its_rows_by_index);
  tcase_add_test(all, log_sum_exp_and_largest_leave_out_minus_infinity);
  suite_add_tcase(suite, all);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
