// Attention in integers: every set of kernels against kernels/arithmetic.h, bit for bit.
#include <check.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/cpu/int8_attention.h"
#include "tests/kernels/int8_sets.h"

using namespace whisperxdna2;

namespace {

std::mt19937 rng(20261126);
int random_int(int low, int high) { return std::uniform_int_distribution<int>(low, high)(rng); }

struct Problem {
  int rows, heads;
  ptrdiff_t stride;
  std::vector<int8_t> qkv;
  std::vector<float> score_unit, value_unit;

  int width() const { return heads * kHeadWidth; }
};

// spread: of the scores in nepers, about; where it is large, few keys have all the weight.
Problem make_problem(int rows, int heads, double spread, int least = -127, int most = 127) {
  Problem p{rows, heads, 3 * heads * kHeadWidth + 32, {}, {}, {}};
  for (ptrdiff_t i = 0; i < rows * p.stride; ++i) p.qkv.push_back(static_cast<int8_t>(random_int(least, most)));
  for (int h = 0; h < heads; ++h) p.score_unit.push_back(static_cast<float>(spread / 43000 * (1 + h)));
  for (int c = 0; c < p.width(); ++c) p.value_unit.push_back(0.2f + 0.1f * static_cast<float>(c % 70));
  return p;
}

// A query's result.
std::vector<float> by_definition(const Problem& p, int row, int head) {
  const int8_t* q = &p.qkv[row * p.stride + head * kHeadWidth];
  const auto key = [&](int j) { return &p.qkv[j * p.stride + p.width() + head * kHeadWidth]; };
  std::vector<int32_t> scores;
  for (int j = 0; j < p.rows; ++j) scores.push_back(dot(q, key(j), kHeadWidth));
  const int32_t largest = *std::max_element(scores.begin(), scores.end());
  const float steps = kStepsPerNeper * p.score_unit[head];
  int32_t sum_of_weights = 0;
  std::vector<int16_t> weights;
  for (int32_t s : scores) sum_of_weights += weights.emplace_back(attention_weight(largest - s, steps));
  std::vector<float> results;
  for (int c = 0; c < kHeadWidth; ++c) {
    float total = 0;
    for (int first = 0; first < p.rows; first += kAttentionBlock) {
      int64_t sum = 0;
      for (int j = first; j < std::min(p.rows, first + kAttentionBlock); ++j) sum += weights[j] * key(j)[p.width() + c];
      ck_assert(sum >= INT32_MIN && sum <= INT32_MAX);
      total += static_cast<float>(sum);
    }
    results.push_back(total * (1.0f / static_cast<float>(sum_of_weights)) * p.value_unit[head * kHeadWidth + c]);
  }
  return results;
}

std::vector<float> row_by_definition(const Problem& p, int row) {
  std::vector<float> results;
  for (int head = 0; head < p.heads; ++head) {
    const std::vector<float> more = by_definition(p, row, head);
    results.insert(results.end(), more.begin(), more.end());
  }
  return results;
}

bool is_written(int16_t value, const Int8Input& input, const uint8_t* at) {
  switch (input.format) {
    case Int8Format::kPairs:
      return std::memcmp(at, &value, sizeof value) == 0;
    case Int8Format::kQuads:
      return *at == value + 128;
    case Int8Format::kBytes:
      return static_cast<int8_t>(*at) == value;
    case Int8Format::kPlanes:
      return static_cast<int8_t>(*at) == plane14_hi(value) && static_cast<int8_t>(at[input.plane]) == plane14_lo(value);
  }
  return false;
}

constexpr int kPlane = 200;  // more than two heads
constexpr Int8Input kInputs[] = {{Int8Format::kBytes},
                                 {Int8Format::kPairs},
                                 {Int8Format::kQuads},
                                 {Int8Format::kPairs, kInt14Limit},
                                 {Int8Format::kPlanes, kInt14Limit, kPlane}};

int wrong_results(const Problem& p, const Int8Kernels& kernels, const Int8Input& input, int threads,
                  Int8AttentionScratch* scratch) {
  const size_t element = element_size(input.format), used = p.width() * element + input.plane, stride = used + 16;
  std::vector<uint8_t> out(p.rows * stride, 77);
  std::vector<float> unit(p.rows);
  int8_attention(p.qkv.data(), p.stride, p.rows, p.heads, {p.score_unit.data(), p.value_unit.data()},
                 {out.data(), static_cast<ptrdiff_t>(stride), input, unit.data()}, scratch, threads, kernels);
  int wrong = 0;
  for (int row = 0; row < p.rows; ++row) {
    const uint8_t* have = &out[row * stride];
    const std::vector<float> results = row_by_definition(p, row);
    float largest = 0;
    for (float v : results) largest = std::max(largest, std::fabs(v));
    wrong += unit[row] != row_unit(largest, input.limit);
    for (size_t i = 0; i < results.size(); ++i) {
      const int32_t want = quantize(results[i], inverse_row_unit(largest, input.limit), input.limit);
      wrong += !is_written(static_cast<int16_t>(want), input, have + i * element);
    }
    wrong += std::count(have + used, have + stride, 77) != 16;
  }
  return wrong;
}

}  // namespace

START_TEST(equals_the_definition_for_every_length_and_format) {
  const Int8Kernels* kernels = kernels_of(_i);
  if (!kernels) return;
  Int8AttentionScratch scratch;
  // One shorter than before: stale scratch.
  for (int rows : {1, 2, 5, 15, 16, 17, 23, 24, 25, 63, 64, 65, 100, 257, 3}) {
    for (const Int8Input& input : kInputs) {
      const double spread = (const double[]){0.01, 1, 8, 200}[rows % 4];
      ck_assert_int_eq(wrong_results(make_problem(rows, 2, spread), *kernels, input, 2, &scratch), 0);
    }
  }
}
END_TEST

START_TEST(several_blocks_of_keys_equal_the_definition) {
  const Int8Kernels* kernels = kernels_of(_i);
  if (!kernels) return;
  Int8AttentionScratch scratch;
  for (int rows : {kAttentionBlock, kAttentionBlock + 1, 1500}) {
    if (rows == 1500 && _i == kEmulatedAvx512Set) continue;  // slow there, and nothing else
    ck_assert_int_eq(wrong_results(make_problem(rows, 1, 2), *kernels, kInputs[0], 2, &scratch), 0);
  }
}
END_TEST

// Equal weights, the largest numbers: what the bound of the sums is about.
START_TEST(sums_do_not_overflow_at_the_extremes) {
  const Int8Kernels* kernels = kernels_of(_i);
  if (!kernels) return;
  Int8AttentionScratch scratch;
  for (int value : {-128, 127}) {
    const Problem p = make_problem(kAttentionBlock, 1, 1, value, value);
    ck_assert_int_eq(wrong_results(p, *kernels, kInputs[0], 1, &scratch), 0);
  }
}
END_TEST

START_TEST(result_does_not_depend_on_the_number_of_threads) {
  const Int8Kernels* kernels = kernels_of(_i);
  if (!kernels) return;
  const Problem p = make_problem(131, 3, 4);
  for (int threads : {1, 2, 3}) {
    Int8AttentionScratch scratch;
    ck_assert_int_eq(wrong_results(p, *kernels, kInputs[0], threads, &scratch), 0);
  }
}
END_TEST

// What is left between it and attention as the model defines it is the rounding of weights: 2^-15, and 2.9e-4 of each.
START_TEST(is_attention) {
  const Problem p = make_problem(300, 2, 5);
  double worst = 0;  // in units of a value
  for (int row = 0; row < p.rows; row += 7) {
    for (int head = 0; head < p.heads; ++head) {
      const int8_t* q = &p.qkv[row * p.stride + head * kHeadWidth];
      const auto key = [&](int j) { return &p.qkv[j * p.stride + p.width() + head * kHeadWidth]; };
      double sum = 0, results[kHeadWidth] = {};
      for (int j = 0; j < p.rows; ++j) {
        const double weight = std::exp(dot(q, key(j), kHeadWidth) * double{p.score_unit[head]} - 30);
        sum += weight;
        for (int c = 0; c < kHeadWidth; ++c) results[c] += weight * key(j)[p.width() + c];
      }
      const std::vector<float> have = by_definition(p, row, head);
      for (int c = 0; c < kHeadWidth; ++c) {
        worst = std::max(worst, std::fabs(results[c] / sum - have[c] / p.value_unit[head * kHeadWidth + c]));
      }
    }
  }
  ck_assert_double_le(worst, 0.1);
}
END_TEST

int main() {
  Suite* suite = suite_create("int8_attention");
  TCase* tests = tcase_create("int8_attention");
  suite_add_tcase(suite, tests);
  tcase_add_loop_test(tests, equals_the_definition_for_every_length_and_format, 0, kSets);
  tcase_add_loop_test(tests, several_blocks_of_keys_equal_the_definition, 0, kSets);
  tcase_add_loop_test(tests, sums_do_not_overflow_at_the_extremes, 0, kSets);
  tcase_add_loop_test(tests, result_does_not_depend_on_the_number_of_threads, 0, kSets);
  tcase_add_test(tests, is_attention);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed ? 1 : 0;
}
