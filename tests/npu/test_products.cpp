// What the plans' streams compute on the emulated array, by the core programs and the fast way, against the definition
// of the arithmetic: for every product of tiny, base and small.
#include <check.h>

#include <random>
#include <string>
#include <vector>

#include "kernels/arithmetic.h"
#include "npu/gemm_plan.h"
#include "tests/assert_text.h"
#include "tests/device/array.h"

using namespace whisperxdna2;
using namespace whisperxdna2::npu;
using emulated_npu::Array;

namespace {

struct Problem {
  Int8Layer layer{};
  std::vector<int8_t> weight;
  std::vector<int32_t> bias;
  std::vector<int16_t> multiplier, x;
  std::vector<float> scale;
  int rows = 0;

  Problem(const PlannedProduct& p, int count, OutputMode mode, unsigned seed) : rows(count) {
    std::mt19937 random(seed);
    const auto within = [&](int limit) {
      return static_cast<int>(random() % static_cast<unsigned>(2 * limit + 1)) - limit;
    };
    const bool wide = p.input_planes == 2;
    weight.resize(static_cast<size_t>(p.in) * p.out);
    x.resize(static_cast<size_t>(rows) * p.in);
    for (auto& v : weight) v = static_cast<int8_t>(within(127));
    for (auto& v : x) v = static_cast<int16_t>(within(wide ? kInt14Limit : kInt8Limit));
    for (int n = 0; n < p.out; ++n) {
      bias.push_back(within(1 << 18));
      multiplier.push_back(static_cast<int16_t>(8192 + random() % 24000));
      scale.push_back(1);
    }
    OutputStage stage;
    stage.mode = mode;
    stage.s1 = wide ? 14 : 7;
    stage.s2 = mode == OutputMode::kInt8 ? 22 : 15;
    stage.gelu = {20000, 16, 12000, 14, 2};
    layer = {p.out, p.in, weight.data(), bias.data(), multiplier.data(), scale.data(), stage, wide};
  }

  int16_t expected(int row, int n) const {
    int32_t sum = 0;
    for (int k = 0; k < layer.in; ++k) {
      sum += int32_t{x[static_cast<size_t>(row) * layer.in + k]} * weight[static_cast<size_t>(n) * layer.in + k];
    }
    return output(sum, bias[n], multiplier[n], layer.stage);
  }
};

// The buffers of one layer at made-up addresses with gaps.
struct Buffers : emulated_npu::Memory {
  static constexpr uint64_t kAddress[4] = {0x100000000, 0x200000000, 0x300000000, 0x400000000};
  std::vector<uint8_t> buffer[4];
  uint8_t* at(uint64_t address, uint64_t size) const override {
    for (int i = 0; i < 4; ++i) {
      const uint64_t offset = address - kAddress[i];
      if (address >= kAddress[i] && offset <= buffer[i].size() && size <= buffer[i].size() - offset) {
        return const_cast<uint8_t*>(buffer[i].data()) + offset;
      }
    }
    return nullptr;
  }
};

void run(Array& array, const PlannedProduct& p, const Buffers& buffers, Array::Mode mode = Array::Mode::kExact) {
  const std::vector<uint64_t> arguments(Buffers::kAddress, Buffers::kAddress + 4);
  for (const Dispatch& d : p.dispatches) {
    emulated_npu::Command command;
    command.words = d.words.data();
    command.word_count = d.words.size();
    command.arguments = &arguments;
    const auto outcome = array.run(command, buffers, mode);
    ck_assert_msg(outcome.kind == emulated_npu::Outcome::kDone, "%s: %s", p.name.c_str(), outcome.message.c_str());
  }
}

// Row-major x into A's rows, planes side by side.
std::vector<uint8_t> a_rows(const PlannedProduct& p, const Problem& problem) {
  std::vector<uint8_t> a(static_cast<size_t>(p.shape.m) * p.shape.k_bytes);
  const bool wide = problem.layer.input_14bit;
  for (int r = 0; r < problem.rows; ++r) {
    uint8_t* row = &a[static_cast<size_t>(r) * p.shape.k_bytes];
    for (int k = 0; k < p.in; ++k) {
      const int16_t v = problem.x[static_cast<size_t>(r) * p.in + k];
      row[k] = static_cast<uint8_t>(wide ? plane14_hi(v) : v);
      if (wide) row[p.shape.k_bytes / 2 + k] = static_cast<uint8_t>(plane14_lo(v));
    }
  }
  return a;
}

int16_t c_value(const PlannedProduct& p, const std::vector<uint8_t>& c, OutputMode mode, int row, int n) {
  const uint8_t* at = &c[(static_cast<size_t>(row) * p.shape.planes) * p.shape.n + n];
  const auto hi = static_cast<int8_t>(at[0]);
  if (mode == OutputMode::kInt8) return hi;
  return mode == OutputMode::kInt16 ? join16(hi, at[p.shape.n]) : join14(hi, static_cast<int8_t>(at[p.shape.n]));
}

// All rows' corners and some hundred places between: the definition is slow.
void assert_results(const PlannedProduct& p, const Problem& problem, const std::vector<uint8_t>& c) {
  std::mt19937 random(7);
  const OutputMode mode = problem.layer.stage.mode;
  const auto check = [&](int r, int n) {
    const int16_t value = c_value(p, c, mode, r, n), expected = problem.expected(r, n);
    ck_assert_msg(value == expected, "%s [%d][%d] is %d, not %d", p.name.c_str(), r, n, value, expected);
  };
  for (int n = 0; n < p.out; n += 3) check(static_cast<int>(random() % problem.rows), n);
  for (int r = 0; r < problem.rows; r += 3) check(r, static_cast<int>(random() % p.out));
  for (int n : {0, p.out - 1}) {
    for (int r : {0, problem.rows - 1}) check(r, n);
  }
}

constexpr int kWidths[] = {384, 512, 768};  // of tiny, base, small
// 512 positions are the default window, 1500 the longest; 100 is less than a row block.
constexpr int kRows[] = {512, 1500, 100};
constexpr int kCases = 3 * 4;

// Three lengths in whole products, one of them with attention of 14 bits; one in chunks.
void compare(const overlay::Variant& variant, int test_case) {
  const int d_model = kWidths[test_case / 4], length = test_case % 4;
  const PlanKind kind = length < 3 ? PlanKind::kWhole : PlanKind::kChunked;
  const int rows = kRows[length % 3];
  const bool wide = length == 2;
  const LayerPlan plan = plan_layer(variant, d_model, 4 * d_model, rows, kind, wide);
  Array array;
  assert_text(array.load(std::string("overlay=") + variant.name + "\n"), "");
  const struct {
    const PlannedProduct* product;
    OutputMode mode;
  } products[] = {{&plan.qkv, OutputMode::kInt8},
                  {&plan.out, OutputMode::kInt16},
                  {&plan.fc1, OutputMode::kGelu14},
                  {&plan.fc2, OutputMode::kInt16}};
  Buffers buffers;
  buffers.buffer[1].resize(plan.weights_size);
  for (const auto& [p, mode] : products) {
    const Problem problem(*p, rows, mode, 11);
    pack_weights(variant, p->shape, problem.layer, &buffers.buffer[1][p->weights_at]);
    buffers.buffer[0] = a_rows(*p, problem);
    const auto computed = [&, p = p](Array::Mode way) {
      buffers.buffer[2].assign(static_cast<size_t>(p->shape.m) * p->shape.n * p->shape.planes, 0x55);
      run(array, *p, buffers, way);
      return buffers.buffer[2];
    };
    const std::vector<uint8_t> exact = computed(Array::Mode::kExact);
    assert_results(*p, problem, exact);
    if (length == 0) ck_assert(exact == computed(Array::Mode::kFast));
  }
}

}  // namespace

START_TEST(thirty_two_cores_compute_the_products_of_every_model) {
  compare(overlay::kGemm8, _i);
}
END_TEST

START_TEST(four_cores_compute_the_products_of_every_model) {
  compare(overlay::kGemm1, _i);
}
END_TEST

START_TEST(chained_products_feed_each_other) {
  const int rows = 300, d = 384;
  const LayerPlan chained = plan_layer(overlay::kGemm8, d, 4 * d, rows, PlanKind::kChained);
  const LayerPlan whole = plan_layer(overlay::kGemm8, d, 4 * d, rows, PlanKind::kWhole);
  Array array;
  assert_text(array.load("overlay=gemm8\n"), "");
  const Problem first(whole.fc1, rows, OutputMode::kGelu14, 3), second(whole.fc2, rows, OutputMode::kInt16, 4);
  Buffers buffers;
  buffers.buffer[0] = a_rows(whole.fc1, first);
  buffers.buffer[1].resize(whole.weights_size);
  pack_weights(overlay::kGemm8, whole.fc1.shape, first.layer, &buffers.buffer[1][whole.fc1.weights_at]);
  pack_weights(overlay::kGemm8, whole.fc2.shape, second.layer, &buffers.buffer[1][whole.fc2.weights_at]);
  const auto size = [](const GemmShape& s) { return static_cast<size_t>(s.m) * s.n * s.planes; };

  Buffers separate = buffers;
  separate.buffer[2].resize(size(whole.fc1.shape));
  run(array, whole.fc1, separate);
  separate.buffer[0] = separate.buffer[2];
  separate.buffer[2].assign(size(whole.fc2.shape), 0);
  run(array, whole.fc2, separate);

  buffers.buffer[2].resize(size(chained.fc1.shape));
  buffers.buffer[3].resize(size(chained.fc2.shape));
  run(array, chained.fc1, buffers);
  ck_assert(buffers.buffer[3] == separate.buffer[2]);
}
END_TEST

int main() {
  Suite* suite = suite_create("products");
  TCase* tests = tcase_create("products");
  tcase_add_loop_test(tests, thirty_two_cores_compute_the_products_of_every_model, 0, kCases);
  tcase_add_loop_test(tests, four_cores_compute_the_products_of_every_model, 0, kCases);
  tcase_add_test(tests, chained_products_feed_each_other);
  suite_add_tcase(suite, tests);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
