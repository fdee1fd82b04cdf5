// The core programs, executed by a stand-in of aie_api, against kernels/arithmetic.h bit for bit; and the stand-in
// itself against exact arithmetic.
#include <check.h>
#include <signal.h>

#include <aie_api/aie.hpp>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include "kernels/aie2p/core.h"

extern "C" {
void gemm_gelu_hinges(int32_t* sums, const int32_t* parameters);
void gemm_gelu_lookup(int32_t* sums, const int32_t* parameters);
void gemm_gelu_scalar(int32_t* sums, const int32_t* parameters);
}

using namespace whisperxdna2;
namespace tail = overlay::tail;
using aie::rounding_mode;
using aie::saturation_mode;

namespace {

constexpr int kM = overlay::kTileM, kK = overlay::kTileK, kN = overlay::kTileN;
std::mt19937 rng(20260202);
int random_int(int low, int high) { return std::uniform_int_distribution<int>(low, high)(rng); }

void power_up() { aie::host::registers = {}; }

// A core's buffers, and its objects filled from plain matrices.
struct Core {
  alignas(64) int8_t a[overlay::kAObject] = {};
  alignas(64) int8_t b[overlay::kBObject] = {};
  alignas(64) int32_t sums[kM * kN] = {};
  alignas(64) int32_t parameters[overlay::kTail / 4] = {};
  alignas(64) int8_t first[overlay::kCSegment] = {};
  alignas(64) int8_t second[overlay::kCSegment] = {};

  Core() { power_up(); }

  int8_t& a_at(int row, int k) { return a[overlay::a_in_core(k / 8, row / 8) + row % 8 * 8 + k % 8]; }
  int8_t& b_at(int k, int n) { return b[overlay::b_in_core(n / 8, k / 8) + k % 8 * 8 + n % 8]; }
  static int at(int row, int n) { return overlay::c_in_core(row / 8, n / 8) + row % 8 * 8 + n % 8; }
  int32_t& sum(int row, int n) { return sums[at(row, n)]; }
  void set_tail(int at, int32_t value) { memcpy(b + overlay::kWeights + at, &value, sizeof value); }

  void fill_random(int low = -128, int high = 127) {
    for (auto& v : a) v = static_cast<int8_t>(random_int(low, high));
    for (int i = 0; i < overlay::kWeights; ++i) b[i] = static_cast<int8_t>(random_int(-127, 127));
  }
  void set_stage(const OutputStage& stage, const int32_t* bias, const int16_t* multiplier) {
    set_tail(tail::kS1At, stage.s1);
    set_tail(tail::kS2At, stage.s2);
    set_tail(tail::kModeAt, static_cast<int32_t>(stage.mode));
    const int32_t gelu[] = {stage.gelu.c, stage.gelu.s, stage.gelu.d, stage.gelu.t, stage.gelu.out_shift};
    for (int i = 0; i < 5; ++i) set_tail(tail::kGeluAt + 4 * i, gelu[i]);
    memcpy(b + overlay::kWeights + tail::kBiasAt, bias, kN * sizeof *bias);
    memcpy(b + overlay::kWeights + tail::kMultiplierAt, multiplier, kN * sizeof *multiplier);
  }
  void step(int32_t flags) {
    set_tail(tail::kFlagsAt, flags);
    gemm_step(a, b, sums, parameters);
  }
  void output() {
    gemm_requantize(sums, parameters);
    gemm_gelu(sums, parameters);
    gemm_write_first(sums, parameters, first);
    gemm_write_second(sums, second);
  }
};

// The elements at which `core` holds something else than sums[row][n].
int wrong_sums(Core& core, const std::function<int32_t(int, int)>& expected) {
  int wrong = 0;
  for (int row = 0; row < kM; ++row) {
    for (int n = 0; n < kN; ++n) wrong += core.sum(row, n) != expected(row, n);
  }
  return wrong;
}

int32_t product(Core& core, int row, int n) {
  int8_t x[kK], w[kK];
  for (int k = 0; k < kK; ++k) {
    x[k] = core.a_at(row, k);
    w[k] = core.b_at(k, n);
  }
  return dot(x, w, kK);
}

const OutputMode kModes[] = {OutputMode::kInt8, OutputMode::kInt16, OutputMode::kGelu14};

// Output of sums that `core` got, against the definition.
int wrong_outputs(Core& core, const std::vector<int32_t>& sums, const OutputStage& stage, const int32_t* bias,
                  const int16_t* multiplier) {
  int wrong = 0;
  for (int row = 0; row < kM; ++row) {
    for (int n = 0; n < kN; ++n) {
      const int at = Core::at(row, n);
      const int16_t y = output(sums[static_cast<size_t>(at)], bias[n], multiplier[n], stage);
      if (stage.mode == OutputMode::kInt8) {
        wrong += core.first[at] != y;
      } else if (stage.mode == OutputMode::kInt16) {
        wrong += join16(core.first[at], static_cast<uint8_t>(core.second[at])) != y;
      } else {
        wrong += core.first[at] != plane14_hi(y) || core.second[at] != plane14_lo(y);
      }
    }
  }
  return wrong;
}

}  // namespace

// ---- The stand-in

START_TEST(every_rounding_mode_rounds_as_named) {
  const auto exact = [](double value, rounding_mode mode) {
    const double floor = std::floor(value), rest = value - floor;
    const bool even = std::fmod(floor, 2) == 0;
    if (mode == rounding_mode::floor || (mode == rounding_mode::ceil && rest == 0)) return floor;
    if (mode == rounding_mode::ceil) return floor + 1;
    if (rest != 0.5) return floor + (rest > 0.5);
    switch (mode) {
      case rounding_mode::positive_inf:
        return floor + 1;
      case rounding_mode::negative_inf:
        return floor;
      case rounding_mode::symmetric_inf:
        return floor + (value > 0);
      case rounding_mode::symmetric_zero:
        return floor + (value < 0);
      case rounding_mode::conv_even:
        return floor + !even;
      default:
        return floor + even;
    }
  };
  power_up();
  for (int m = 0; m < 8; ++m) {
    const auto mode = static_cast<rounding_mode>(m);
    aie::set_rounding(mode);
    for (int shift = 0; shift <= 30; ++shift) {
      for (int64_t value : {-5, -3, -2, -1, 0, 1, 2, 3, 5}) {
        for (int64_t nearly : {-1, 0, 1}) {
          const int64_t v = value * (int64_t{1} << std::max(shift - 1, 0)) + nearly;
          const auto expected = static_cast<int64_t>(exact(std::ldexp(v, -shift), mode));
          ck_assert_int_eq(aie::host::rounded(v, shift), expected);
          if (mode == rounding_mode::conv_even && v == static_cast<int32_t>(v)) {
            ck_assert_int_eq(aie::host::rounded_to_even(static_cast<int32_t>(v), shift), expected);
          }
        }
      }
    }
  }
}
END_TEST

START_TEST(narrowing_wraps_until_saturation_is_set) {
  power_up();
  ck_assert_int_eq(aie::host::saturated<int16_t>(40000), 40000 - 65536);
  aie::set_saturation(saturation_mode::saturate);
  ck_assert_int_eq(aie::host::saturated<int16_t>(40000), 32767);
  ck_assert_int_eq(aie::host::saturated<int8_t>(-40000), -128);
  ck_assert_uint_eq(aie::host::saturated<uint8_t>(-1), 0);
  ck_assert_uint_eq(aie::host::saturated<uint8_t>(300), 255);
  aie::set_saturation(saturation_mode::symmetric);
  ck_assert_int_eq(aie::host::saturated<int8_t>(-40000), -127);
}
END_TEST

START_TEST(misaligned_access_stops_the_program) {
  Core core;
  gemm_step(core.a + 32, core.b, core.sums, core.parameters);
}
END_TEST

START_TEST(ignored_shift_stops_the_program) {
  power_up();
  const aie::accum<acc32, 64> sum(aie::zeros<int32_t, 64>());
  sum.to_vector<int32_t>(1);
}
END_TEST

START_TEST(table_of_the_older_architecture_stops_the_program) {
  power_up();
  alignas(64) int16_t ab[256], cd[256];
  for (int i = 0; i < 256; ++i) ab[i] = cd[i] = static_cast<int16_t>(i / 16 * 8 + i % 8);  // repeats every 128 bits
  aie::lut<4, int16_t, int16_t>(64, ab, cd);
}
END_TEST

// ---- Products

START_TEST(step_equals_the_plain_product) {
  Core core;
  for (int i = 0; i < 20; ++i) {
    core.fill_random();
    for (auto& v : core.sums) v = static_cast<int32_t>(rng());  // START must not care
    core.step(tail::kStart);
    ck_assert_int_eq(wrong_sums(core, [&](int row, int n) { return product(core, row, n); }), 0);
    const std::vector<int32_t> before(core.sums, core.sums + kM * kN);
    core.fill_random();
    core.step(0);
    ck_assert_int_eq(
        wrong_sums(core, [&](int row,
                             int n) { return before[static_cast<size_t>(Core::at(row, n))] + product(core, row, n); }),
        0);
  }
  ck_assert(!aie::host::registers.wrapped);
}
END_TEST

// Every row and every k at the edges of blocks and tile: one input at a time, all others 0.
START_TEST(each_input_meets_its_own_weights_at_every_edge) {
  Core core;
  for (int k = 0; k < kK; ++k) {
    for (int n = 0; n < kN; ++n) core.b_at(k, n) = static_cast<int8_t>((k * 37 + n * 101) % 255 - 127);
  }
  for (int row = 0; row < kM; ++row) {
    for (int k = 0; k < kK; ++k) {
      const auto edge = [](int i, int size) { return i < 2 || i >= size - 2 || i % 8 == 0 || i % 8 == 7; };
      if (!edge(row, kM) || !edge(k, kK)) continue;
      core.a_at(row, k) = -1;
      core.step(tail::kStart);
      core.a_at(row, k) = 0;
      ck_assert_int_eq(wrong_sums(core, [&](int r, int n) { return r == row ? -core.b_at(k, n) : 0; }), 0);
    }
  }
}
END_TEST

START_TEST(extremes_of_both_operands_are_exact) {
  Core core;
  for (const int x : {-128, 127}) {
    for (const int w : {-128, 127}) {
      std::fill(core.a, core.a + overlay::kAObject, static_cast<int8_t>(x));
      std::fill(core.b, core.b + overlay::kWeights, static_cast<int8_t>(w));
      core.step(tail::kStart);
      ck_assert_int_eq(wrong_sums(core, [&](int, int) { return kK * x * w; }), 0);
    }
  }
}
END_TEST

START_TEST(start_alone_takes_the_tail) {
  Core core;
  for (int at = 8; at < overlay::kTail; at += 4) core.set_tail(at, at * 7919);
  core.step(tail::kStart);
  ck_assert_int_eq(memcmp(core.parameters, core.b + overlay::kWeights, overlay::kTail), 0);
  const std::vector<int32_t> taken(core.parameters, core.parameters + overlay::kTail / 4);
  for (int at = 8; at < overlay::kTail; at += 4) core.set_tail(at, -1);
  core.step(0);
  core.step(tail::kShift7);
  ck_assert(std::equal(taken.begin(), taken.end(), core.parameters));
}
END_TEST

// 14-bit inputs, K = 256: all upper planes, then SHIFT7, then all lower ones.
START_TEST(planes_of_14_bits_give_the_16_bit_product) {
  constexpr int kSteps = 2;
  std::vector<int16_t> x(static_cast<size_t>(kM) * kSteps * kK);
  std::vector<int8_t> w(static_cast<size_t>(kN) * kSteps * kK);
  for (auto& v : x) v = static_cast<int16_t>(random_int(-kInt14Limit, kInt14Limit));
  for (int i = 0; i < 64; ++i) x[static_cast<size_t>(i)] = static_cast<int16_t>(i % 2 ? kInt14Limit : -kInt14Limit);
  for (auto& v : w) v = static_cast<int8_t>(random_int(-127, 127));
  Core core;
  for (int plane = 0; plane < 2; ++plane) {
    for (int s = 0; s < kSteps; ++s) {
      for (int row = 0; row < kM; ++row) {
        for (int k = 0; k < kK; ++k) {
          const int16_t value = x[static_cast<size_t>((row * kSteps + s) * kK + k)];
          core.a_at(row, k) = plane ? plane14_lo(value) : plane14_hi(value);
        }
      }
      for (int n = 0; n < kN; ++n) {
        for (int k = 0; k < kK; ++k) core.b_at(k, n) = w[static_cast<size_t>((n * kSteps + s) * kK + k)];
      }
      core.step((plane == 0 && s == 0 ? tail::kStart : 0) | (plane == 1 && s == 0 ? tail::kShift7 : 0));
    }
  }
  ck_assert_int_eq(wrong_sums(core,
                              [&](int row, int n) {
                                return dot(&x[static_cast<size_t>(row) * kSteps * kK],
                                           &w[static_cast<size_t>(n) * kSteps * kK], kSteps * kK);
                              }),
                   0);
  ck_assert(!aie::host::registers.wrapped);
}
END_TEST

START_TEST(sums_that_pass_32_bits_are_noticed) {
  Core core;
  core.fill_random(1, 127);
  core.step(tail::kStart);
  core.sum(63, 63) = INT32_MAX;
  core.b_at(0, 63) = 1;
  for (int k = 0; k < kK; ++k) core.b_at(k, 63) = 1;
  core.step(0);
  ck_assert(aie::host::registers.wrapped);
  power_up();
  core.sum(0, 0) = 1 << 25;
  core.step(tail::kShift7);
  ck_assert(aie::host::registers.wrapped);
}
END_TEST

// ---- Outputs

START_TEST(outputs_equal_the_definition_in_every_mode) {
  Core core;
  for (int i = 0; i < 300; ++i) {
    OutputStage stage;
    stage.mode = kModes[i % 3];
    stage.s1 = i < 30 ? i : random_int(0, 30);
    stage.s2 = i < 30 ? 30 - i : random_int(0, 30);
    stage.gelu = {random_int(0, 32767), random_int(0, 30), random_int(0, 32767), random_int(0, 14), 0};
    stage.gelu.out_shift = random_int(0, 30 - stage.gelu.t);
    int32_t bias[kN];
    int16_t multiplier[kN];
    for (int n = 0; n < kN; ++n) {
      bias[n] = random_int(-(1 << 20), 1 << 20);
      multiplier[n] = static_cast<int16_t>(n < 2 ? n * 32767 : random_int(0, 32767));
    }
    core.set_stage(stage, bias, multiplier);
    core.step(tail::kStart);
    std::vector<int32_t> sums(kM * kN);
    for (size_t at = 0; at < sums.size(); ++at) {
      sums[at] = static_cast<int32_t>(rng()) >> random_int(2, 31);
      if (at % 5 == 0 && stage.s1 > 0 && stage.s1 < 16) {  // a tie in the first step, of either sign
        sums[at] = random_int(-1000, 1000) * (1 << stage.s1) + (1 << (stage.s1 - 1)) - bias[at / 64 % 8 * 8 + at % 8];
      }
    }
    std::copy(sums.begin(), sums.end(), core.sums);
    core.output();
    ck_assert_msg(wrong_outputs(core, sums, stage, bias, multiplier) == 0, "mode %d, shifts %d and %d",
                  static_cast<int>(stage.mode), stage.s1, stage.s2);
  }
}
END_TEST

// The registers are the whole core's: what another program left in them must not matter. Power-up is floor and none.
START_TEST(outputs_do_not_depend_on_what_the_registers_were) {
  Core core;
  int32_t bias[kN] = {};
  int16_t multiplier[kN];
  std::fill(multiplier, multiplier + kN, int16_t{16384});
  for (const OutputMode mode : kModes) {
    const OutputStage stage{mode, 4, 15, {20000, 16, 12000, 14, 2}};
    core.set_stage(stage, bias, multiplier);
    for (int rounding = 0; rounding < 8; ++rounding) {
      for (int saturation = 0; saturation < 3; ++saturation) {
        core.step(tail::kStart);
        std::vector<int32_t> sums(kM * kN);
        for (size_t at = 0; at < sums.size(); ++at) sums[at] = static_cast<int32_t>(at % 4 == 0 ? rng() >> 1 : at * 8);
        std::copy(sums.begin(), sums.end(), core.sums);
        const auto leave = [&] {
          aie::set_rounding(static_cast<rounding_mode>(rounding));
          aie::set_saturation(static_cast<saturation_mode>(saturation));
        };
        leave();
        gemm_requantize(core.sums, core.parameters);
        leave();
        gemm_gelu(core.sums, core.parameters);
        leave();
        gemm_write_first(core.sums, core.parameters, core.first);
        leave();
        gemm_write_second(core.sums, core.second);
        ck_assert_int_eq(wrong_outputs(core, sums, stage, bias, multiplier), 0);
      }
    }
  }
}
END_TEST

START_TEST(gelu_of_every_input_is_the_definitions_in_all_three_ways) {
  Core core;
  std::vector<GeluScale> scales{
      {20000, 16, 12000, 14, 2}, {32767, 0, 32767, 0, 0}, {0, 0, 0, 0, 30}, {32767, 30, 1, 14, 16}};
  for (int i = 0; i < 12; ++i) {
    const int t = random_int(0, 14);
    scales.push_back({random_int(0, 32767), random_int(0, 18), random_int(0, 32767), t, random_int(0, 30 - t)});
  }
  for (const GeluScale& g : scales) {
    int wrong[3] = {};
    for (int base = INT16_MIN; base <= INT16_MAX; base += kM * kN) {
      core.parameters[aie2p::kMode] = static_cast<int32_t>(OutputMode::kGelu14);
      const int32_t gelu[] = {g.c, g.s, g.d, g.t, g.out_shift};
      std::copy(gelu, gelu + 5, core.parameters + aie2p::kGelu);
      int way = 0;
      for (auto* const program : {gemm_gelu_hinges, gemm_gelu_lookup, gemm_gelu_scalar}) {
        power_up();
        const auto value = [&](int i) { return reinterpret_cast<int16_t*>(core.sums + i / 64 * 64) + i % 64; };
        for (int i = 0; i < kM * kN; ++i) {
          const auto y = static_cast<int16_t>(base + i);
          memcpy(value(i), &y, sizeof y);
        }
        program(core.sums, core.parameters);
        for (int i = 0; i < kM * kN; ++i) {
          int16_t result;
          memcpy(&result, value(i), sizeof result);
          wrong[way] += result != gelu_14bit(static_cast<int16_t>(base + i), g);
        }
        ++way;
      }
    }
    ck_assert_msg(wrong[0] == 0 && wrong[1] == 0 && wrong[2] == 0, "c %d s %d d %d t %d out %d: %d, %d, %d wrong", g.c,
                  g.s, g.d, g.t, g.out_shift, wrong[0], wrong[1], wrong[2]);
  }
  ck_assert(!aie::host::registers.wrapped);
}
END_TEST

START_TEST(gelu_leaves_other_modes_alone) {
  Core core;
  for (auto& v : core.sums) v = static_cast<int32_t>(rng());
  const std::vector<int32_t> before(core.sums, core.sums + kM * kN);
  for (const OutputMode mode : {OutputMode::kInt8, OutputMode::kInt16}) {
    core.parameters[aie2p::kMode] = static_cast<int32_t>(mode);
    for (auto* const program : {gemm_gelu_hinges, gemm_gelu_lookup, gemm_gelu_scalar})
      program(core.sums, core.parameters);
  }
  ck_assert(std::equal(before.begin(), before.end(), core.sums));
}
END_TEST

int main() {
  Suite* suite = suite_create("core programs");
  TCase* stand_in = tcase_create("stand-in");
  tcase_add_test(stand_in, every_rounding_mode_rounds_as_named);
  tcase_add_test(stand_in, narrowing_wraps_until_saturation_is_set);
  tcase_add_test_raise_signal(stand_in, misaligned_access_stops_the_program, SIGABRT);
  tcase_add_test_raise_signal(stand_in, ignored_shift_stops_the_program, SIGABRT);
  tcase_add_test_raise_signal(stand_in, table_of_the_older_architecture_stops_the_program, SIGABRT);
  suite_add_tcase(suite, stand_in);
  TCase* products = tcase_create("products");
  tcase_add_test(products, step_equals_the_plain_product);
  tcase_add_test(products, each_input_meets_its_own_weights_at_every_edge);
  tcase_add_test(products, extremes_of_both_operands_are_exact);
  tcase_add_test(products, start_alone_takes_the_tail);
  tcase_add_test(products, planes_of_14_bits_give_the_16_bit_product);
  tcase_add_test(products, sums_that_pass_32_bits_are_noticed);
  suite_add_tcase(suite, products);
  TCase* outputs = tcase_create("outputs");
  tcase_add_test(outputs, outputs_equal_the_definition_in_every_mode);
  tcase_add_test(outputs, outputs_do_not_depend_on_what_the_registers_were);
  tcase_add_test(outputs, gelu_of_every_input_is_the_definitions_in_all_three_ways);
  tcase_add_test(outputs, gelu_leaves_other_modes_alone);
  suite_add_tcase(suite, outputs);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
