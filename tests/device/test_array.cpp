// The functional model of the array, without a driver: whole products against a plain matrix product, and each rule by
// a stream that breaks it.
#include <check.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "tests/device/array.h"
#include "tests/device/core.h"
#include "tests/device/products.h"

namespace emulated_npu {
namespace {

using overlay::Channel;
using overlay::Direction;

constexpr uint64_t kAddress[] = {0x1000000000, 0x1010000000, 0x1020000000};

// Three buffers at made-up addresses.
struct Buffers : Memory {
  std::vector<uint8_t> buffer[3];
  uint8_t* at(uint64_t address, uint64_t size) const override {
    for (int i = 0; i < 3; ++i) {
      const uint64_t offset = address - kAddress[i];
      if (address >= kAddress[i] && offset <= buffer[i].size() && size <= buffer[i].size() - offset) {
        return const_cast<uint8_t*>(buffer[i].data()) + offset;
      }
    }
    return nullptr;
  }
};

Outcome run(Array& array, const std::vector<uint32_t>& words, const Buffers& buffers,
            Array::Mode mode = Array::Mode::kExact) {
  const std::vector<uint64_t> arguments(kAddress, kAddress + 3);
  Command command;
  command.words = words.data();
  command.word_count = words.size();
  command.arguments = &arguments;
  return array.run(command, buffers, mode);
}

std::string pdi(const std::string& name) { return "made for a test\noverlay=" + name + "\n"; }

Buffers buffers_of(const Product& product) {
  Buffers b;
  b.buffer[0] = product.packed_a();
  b.buffer[1] = product.packed_w();
  b.buffer[2].assign(product.expected().size(), 0xaa);
  return b;
}

// (256, 128, 64) on one column, int16 out; each part can be changed by a test.
Product small_product() {
  Product product{256, 128, 64, {OutputMode::kInt16, 0, 0, {}}, &overlay::kGemm1, {}, false, {}, {}, {}};
  product.fill(7);
  return product;
}
struct SmallStream {
  std::array<uint32_t, 6> a{0x2000, 0x02000000, 0xD000001F, 0x0200001F, 0, 0x02000000};
  std::array<uint32_t, 6> b{0x880, 0, 0xC0000000, 0x02000000, 0, 0x02000000};
  std::array<uint32_t, 6> c{0x2000, 0x01000000, 0xD000001F, 0x0200000F, 0, 0x02000000};
  bool controller = true, push_a = true, push_b = true, push_c = true, token = true, wait = true;
  uint64_t c_offset = 0;
  std::function<void(StreamWriter&)> before_wait = [](StreamWriter&) {}, after_wait = [](StreamWriter&) {};

  std::vector<uint32_t> words(bool compact = false) const {
    const overlay::Variant& variant = overlay::kGemm1;
    StreamWriter stream(compact);
    if (controller) stream.controller(c_channel(variant, 0));
    if (push_a) stream.task(a_channel(variant, 0), 0, a, 0, 0, 0, false);
    if (push_b) stream.task(b_channel(variant, 0), 4, b, 1, 0, 0, false);
    if (push_c) stream.task(c_channel(variant, 0), 8, c, 2, c_offset, 0, token);
    before_wait(stream);
    if (wait) stream.token_wait(c_channel(variant, 0));
    after_wait(stream);
    return stream.words();
  }
};

void expect_product(const Product& product, const std::vector<uint32_t>& words, Array::Mode mode) {
  Array array;
  ck_assert(array.load(pdi(product.variant->name)).empty());
  Buffers buffers = buffers_of(product);
  const Outcome outcome = run(array, words, buffers, mode);
  ck_assert_msg(outcome.kind == Outcome::kDone, "%s", outcome.message.c_str());
  ck_assert(buffers.buffer[2] == product.expected());
  const double mmac = static_cast<double>(product.m) * product.k * product.input_planes() * product.n / 1e6;
  ck_assert_double_eq_tol(outcome.mmac, mmac, 1e-6);
}

// The small product's stream fails, with these words in the message.
void expect_failure(const std::vector<uint32_t>& words, const char* message, Outcome::Kind kind = Outcome::kFailed,
                    const std::function<void(Buffers&)>& spoil = [](Buffers&) {}) {
  Array array;
  ck_assert(array.load(pdi("gemm1")).empty());
  Buffers buffers = buffers_of(small_product());
  spoil(buffers);
  const Outcome outcome = run(array, words, buffers);
  ck_assert_msg(outcome.kind == kind && outcome.message.find(message) != std::string::npos,
                "expected \"%s\", outcome %d \"%s\"", message, outcome.kind, outcome.message.c_str());
}

void spoil_tail(const char* message, int at, int32_t value) {
  expect_failure(SmallStream().words(), message, Outcome::kFailed,
                 [&](Buffers& buffers) { memcpy(&buffers.buffer[1][overlay::kWeights + at], &value, 4); });
}

// ---- Whole products

START_TEST(output_projection_equals_the_plain_product) {
  const Product product = shaped(512, 512, 512, OutputMode::kInt16, false, 1);
  for (const auto mode : {Array::Mode::kExact, Array::Mode::kFast}) expect_product(product, gemm8_stream(kOut), mode);
}
END_TEST

START_TEST(fused_qkv_equals_the_plain_product) {
  const Product product = shaped(512, 512, 1536, OutputMode::kInt8, false, 2);
  for (const auto mode : {Array::Mode::kExact, Array::Mode::kFast}) expect_product(product, gemm8_stream(kQkv), mode);
}
END_TEST

START_TEST(fc1_with_gelu_equals_the_plain_product) {
  const Product product = shaped(512, 512, 2048, OutputMode::kGelu14, false, 3);
  for (const auto mode : {Array::Mode::kExact, Array::Mode::kFast}) expect_product(product, gemm8_stream(kFc1), mode);
}
END_TEST

START_TEST(fc2_in_two_planes_equals_the_plain_product) {
  const Product product = shaped(512, 2048, 512, OutputMode::kInt16, true, 4);
  for (const auto mode : {Array::Mode::kExact, Array::Mode::kFast}) expect_product(product, gemm8_stream(kFc2), mode);
}
END_TEST

START_TEST(both_stream_versions_do_the_same) {
  for (const bool compact : {false, true})
    expect_product(small_product(), SmallStream().words(compact), Array::Mode::kExact);
}
END_TEST

// Tiles of two steps whose operands are extremes, in every mode of output.
START_TEST(fast_and_exact_tiles_are_equal_at_the_extremes) {
  std::mt19937 random(5);
  const auto programs = std::make_unique<CorePrograms>();
  for (int round = 0; round < 24; ++round) {
    AObject a;
    std::vector<uint8_t> weights(overlay::kBObject);
    const auto set = [&](int at, int32_t value) { memcpy(&weights[overlay::kWeights + at], &value, sizeof value); };
    const int32_t mode = round % 3, numbers[] = {overlay::tail::kMagic,
                                                 tail::kStart,
                                                 1,
                                                 mode != 0,
                                                 3 + round / 3,
                                                 14 + round % 5,
                                                 mode,
                                                 20000,
                                                 16,
                                                 12000,
                                                 14,
                                                 2};
    a.bytes.resize(overlay::kAObject);
    const int8_t extremes[] = {-128, -127, -1, 0, 1, 127};
    for (auto& v : a.bytes) v = extremes[random() % 6];
    for (int i = 0; i < overlay::kWeights; ++i)
      weights[static_cast<size_t>(i)] = static_cast<uint8_t>(extremes[random() % 6]);
    for (int i = 0; i < 12; ++i) set(4 * i, numbers[i]);
    for (int n = 0; n < overlay::kTileN; ++n) {
      set(tail::kBiasAt + 4 * n, static_cast<int32_t>(random()) >> (8 + n % 16));
      const auto multiplier = static_cast<int16_t>(random() % 32768);
      memcpy(&weights[static_cast<size_t>(overlay::kWeights + tail::kMultiplierAt + 2 * n)], &multiplier,
             sizeof multiplier);
    }
    BObject b;
    b.bytes = weights.data();
    widen(a);
    pair_up(b);
    const TileParameters parameters = read_parameters(b);
    std::vector<int32_t> sums(overlay::kTileM * overlay::kTileN);
    for (const int32_t flags : {tail::kStart, tail::kShift7}) {
      set(tail::kFlagsAt, flags);
      ck_assert(programs->step(a, b));
      if (flags == tail::kShift7) ck_assert(shift7(sums.data()));
      multiply_fast(a, b, sums.data());
    }
    std::vector<uint8_t> exact(2 * overlay::kCSegment), fast(exact);
    ck_assert(programs->finish(exact.data(), &exact[overlay::kCSegment]));
    ck_assert(finish(sums.data(), parameters, fast.data(), &fast[overlay::kCSegment]));
    ck_assert(exact == fast);
  }
}
END_TEST

START_TEST(delay_mode_checks_and_counts_but_writes_nothing) {
  const Product product = small_product();
  Array array;
  array.load(pdi("gemm1"));
  Buffers buffers = buffers_of(product);
  const Outcome outcome = run(array, SmallStream().words(), buffers, Array::Mode::kDelay);
  ck_assert_int_eq(outcome.kind, Outcome::kDone);
  ck_assert_double_eq_tol(outcome.mmac, 256 * 128 * 64 / 1e6, 1e-9);
  ck_assert(std::all_of(buffers.buffer[2].begin(), buffers.buffer[2].end(), [](uint8_t v) { return v == 0xaa; }));
  SmallStream broken;
  broken.push_b = false;
  ck_assert_int_eq(run(array, broken.words(), buffers, Array::Mode::kDelay).kind, Outcome::kHung);
}
END_TEST

START_TEST(delay_mode_walks_through_a_stream_once) {
  const Product product = small_product();
  Array array;
  array.load(pdi("gemm1"));
  Buffers buffers = buffers_of(product);
  std::vector<uint32_t> words = SmallStream().words();
  ck_assert_int_eq(run(array, words, buffers, Array::Mode::kDelay).kind, Outcome::kDone);
  buffers.buffer[1][overlay::kWeights] ^= 1;  // the tail's magic number
  const Outcome again = run(array, words, buffers, Array::Mode::kDelay);
  ck_assert_int_eq(again.kind, Outcome::kDone);
  ck_assert_double_eq_tol(again.mmac, 256 * 128 * 64 / 1e6, 1e-9);
  words[0] ^= 1u << 16;  // another generation's, at the same place
  ck_assert_int_eq(run(array, words, buffers, Array::Mode::kDelay).kind, Outcome::kFailed);
}
END_TEST

START_TEST(streams_follow_each_other) {
  Array array;
  array.load(pdi("gemm8"));
  for (unsigned seed = 10; seed < 13; ++seed) {
    const Product product = shaped(512, 512, 512, OutputMode::kInt16, false, seed);
    Buffers buffers = buffers_of(product);
    ck_assert_int_eq(run(array, gemm8_stream(kOut), buffers, Array::Mode::kFast).kind, Outcome::kDone);
    ck_assert(buffers.buffer[2] == product.expected());
  }
}
END_TEST

// ---- Rules for streams

START_TEST(header_must_be_an_npu2s) {
  auto words = SmallStream().words();
  words[0] = 6u << 24 | 3u << 16 | 1u << 8;
  expect_failure(words, "not for an NPU2");
  words[0] = 6u << 24 | 4u << 16 | 2u;
  expect_failure(words, "version 2.0");
}
END_TEST

START_TEST(stream_must_fit_the_instruction_buffer) {
  auto words = SmallStream().words();
  words.pop_back();
  expect_failure(words, "is not that of whole words inside");
}
END_TEST

START_TEST(operations_must_be_complete_and_counted) {
  auto words = SmallStream().words();
  ++words[2];
  expect_failure(words, "the header counts");
  words = SmallStream().words();
  words[3] -= 4;
  expect_failure(words, "goes beyond the end");
  StreamWriter unknown;
  unknown.add({77});
  expect_failure(unknown.words(), "operation code 77 is unknown");
}
END_TEST

START_TEST(unknown_registers_are_refused) {
  SmallStream stream;
  stream.before_wait = [](StreamWriter& w) { w.write(0x00200000, 1); };
  expect_failure(stream.words(), "not of a task queue");
  stream.before_wait = [](StreamWriter& w) { w.block_write(overlay::bd_address(1, 0), std::vector<uint32_t>(8)); };
  expect_failure(stream.words(), "not of a shim buffer descriptor of this overlay");
  stream.before_wait = [](StreamWriter& w) { w.mask_write(0x14000, 1, 1); };
  expect_failure(stream.words(), "a masked write to register");
}
END_TEST

// ---- Rules for descriptors and tasks

START_TEST(fifth_task_overflows_the_queue) {
  SmallStream stream;
  stream.before_wait = [](StreamWriter& w) {
    for (int i = 1; i < 5; ++i) {
      w.task(a_channel(overlay::kGemm1, 0), i == 4 ? 9 : i, SmallStream().a, 0, 0, 0, false);
    }
  };
  expect_failure(stream.words(), "shim 0 MM2S 0: a fifth task");
}
END_TEST

START_TEST(live_descriptor_must_not_change) {
  SmallStream stream;
  stream.before_wait = [](StreamWriter& w) { w.block_write(overlay::bd_address(0, 4), std::vector<uint32_t>(8)); };
  expect_failure(stream.words(), "BD 4 of shim 0 is changed while a task uses it");
}
END_TEST

START_TEST(descriptor_is_free_after_its_token) {
  SmallStream stream;
  stream.after_wait = [](StreamWriter& w) {
    const overlay::Variant& v = overlay::kGemm1;
    const SmallStream again;
    w.task(a_channel(v, 0), 0, again.a, 0, 0, 0, false);
    w.task(b_channel(v, 0), 4, again.b, 1, 0, 0, false);
    w.task(c_channel(v, 0), 8, again.c, 2, 0, 0, true);
    w.token_wait(c_channel(v, 0));
  };
  const Product product = small_product();
  Array array;
  array.load(pdi("gemm1"));
  Buffers buffers = buffers_of(product);
  const Outcome outcome = run(array, stream.words(), buffers);
  ck_assert_msg(outcome.kind == Outcome::kDone, "%s", outcome.message.c_str());
  ck_assert(buffers.buffer[2] == product.expected());
}
END_TEST

START_TEST(transfers_are_whole_objects) {
  SmallStream stream;
  stream.b[0] -= 2;
  expect_failure(stream.words(), "no whole number of the fifo's objects of 8704");
}
END_TEST

START_TEST(addresses_stay_inside_one_buffer) {
  SmallStream stream;
  stream.c_offset = 4;
  expect_failure(stream.words(), "is not inside one buffer of the command");
  stream.c_offset = 2;
  expect_failure(stream.words(), "is not a word's");
}
END_TEST

START_TEST(descriptor_must_be_patched_valid_and_plain) {
  SmallStream stream;
  stream.a[5] = 0;
  expect_failure(stream.words(), "it is not valid");
  stream = SmallStream();
  stream.a[5] |= 1u << 26;
  expect_failure(stream.words(), "next descriptors and locks");
  stream = SmallStream();
  stream.a[0] = 0;
  expect_failure(stream.words(), "its length is 0");
  stream = SmallStream();
  stream.a[0] += 16;
  expect_failure(stream.words(), "not a multiple of its sizes' product");
  stream = SmallStream();
  stream.a[4] = 0x00100000;
  expect_failure(stream.words(), "2 iterations, but 1 runs");
  stream = SmallStream();
  stream.push_a = false;
  stream.before_wait = [](StreamWriter& w) {
    w.block_write(overlay::bd_address(0, 0), {0x2000, 0, 0, 0, 0xC0000000, 0, 0, 0x02000000});
    w.push(a_channel(overlay::kGemm1, 0), 0, 0, false);
  };
  expect_failure(stream.words(), "its address was not patched");
}
END_TEST

START_TEST(patch_needs_an_argument_and_a_fresh_descriptor) {
  SmallStream stream;
  stream.before_wait = [](StreamWriter& w) {
    w.block_write(overlay::bd_address(0, 1), std::vector<uint32_t>(8));
    w.patch(overlay::bd_address(0, 1) + 4, 3, 0);
  };
  expect_failure(stream.words(), "argument 3 of 3");
  stream.before_wait = [](StreamWriter& w) {
    w.block_write(overlay::bd_address(0, 1), std::vector<uint32_t>(8));
    w.patch(overlay::bd_address(0, 1) + 4, 1, 0);
    w.patch(overlay::bd_address(0, 1) + 4, 1, 0);
  };
  expect_failure(stream.words(), "that has an address already");
}
END_TEST

START_TEST(what_is_still_written_must_not_be_read) {
  SmallStream stream;
  stream.before_wait = [](StreamWriter& w) {
    w.task(a_channel(overlay::kGemm1, 0), 1, SmallStream().a, 2, 0, 0, false);
  };
  expect_failure(stream.words(), "still moves; first take the token");
}
END_TEST

START_TEST(channel_must_lead_somewhere) {
  SmallStream stream;
  stream.before_wait = [](StreamWriter& w) { w.task({0, Direction::kS2mm, 1}, 1, SmallStream().c, 2, 0, 0, false); };
  expect_failure(stream.words(), "shim 0 S2MM 1: the channel leads nowhere");
}
END_TEST

// ---- Rules for tokens and completeness

START_TEST(token_needs_its_controller) {
  SmallStream stream;
  stream.controller = false;
  expect_failure(stream.words(), "does not name controller 15");
}
END_TEST

START_TEST(wait_without_token_hangs) {
  SmallStream stream;
  stream.token = false;
  expect_failure(stream.words(), "waits for ever for a token of shim 0 S2MM 0", Outcome::kHung);
}
END_TEST

START_TEST(missing_operand_hangs_and_says_which) {
  SmallStream stream;
  stream.push_b = false;
  expect_failure(stream.words(), "core (0, 0) has input and no weights", Outcome::kHung);
  stream = SmallStream();
  stream.push_a = false;
  expect_failure(stream.words(), "core (0, 0) has weights and no input", Outcome::kHung);
}
END_TEST

START_TEST(one_starved_column_stops_all) {
  // Every stream of column 5 but its weights; A's broadcast then stands still for the others too.
  StreamWriter stream;
  const overlay::Variant& v = overlay::kGemm8;
  for (int c = 0; c < 8; ++c) stream.controller(c_channel(v, c));
  for (int r = 0; r < 4; ++r) stream.task(a_channel(v, r), 0, kOut.a.words, 0, r * kOut.a.stride, 1, false);
  for (int c = 0; c < 8; ++c) {
    if (c != 5) stream.task(b_channel(v, c), 4, kOut.b.words, 1, c * kOut.b.stride, 1, false);
    stream.task(c_channel(v, c), 8, kOut.c.words, 2, c * kOut.c.stride, 1, true);
  }
  stream.token_wait(c_channel(v, 0));
  Array array;
  array.load(pdi("gemm8"));
  Buffers buffers = buffers_of(shaped(512, 512, 512, OutputMode::kInt16, false, 1));
  const Outcome outcome = run(array, stream.words(), buffers, Array::Mode::kDelay);
  ck_assert_int_eq(outcome.kind, Outcome::kHung);
  ck_assert_ptr_nonnull(strstr(outcome.message.c_str(), "core (0, 5) has input and no weights"));
}
END_TEST

START_TEST(token_that_nobody_takes_is_reported) {
  SmallStream stream;
  stream.before_wait = [](StreamWriter& w) {
    const SmallStream again;
    w.task(a_channel(overlay::kGemm1, 0), 1, again.a, 0, 0, 0, false);
    w.task(b_channel(overlay::kGemm1, 0), 5, again.b, 1, 0, 0, false);
    w.task(c_channel(overlay::kGemm1, 0), 9, again.c, 2, 0, 0, true);
  };
  expect_failure(stream.words(), "1 tokens that no wait has taken");
}
END_TEST

START_TEST(stream_must_wait_for_its_tasks) {
  SmallStream stream;
  stream.wait = false;
  expect_failure(stream.words(), "has moved 0 of 8192 words");
}
END_TEST

START_TEST(surplus_input_is_reported) {
  SmallStream stream;
  stream.before_wait = [](StreamWriter& w) {
    w.task(a_channel(overlay::kGemm1, 0), 1, SmallStream().a, 0, 0, 0, false);
  };
  expect_failure(stream.words(), "core (0, 0) has input and no weights");
}
END_TEST

START_TEST(surplus_output_is_reported) {
  SmallStream stream;  // only one of the two planes is asked for
  stream.c = {0x1000, 0x01000000, 0xD000001F, 0x02000000, 0, 0x02000000};
  expect_failure(stream.words(), "holds output that no C task has taken");
}
END_TEST

START_TEST(array_is_unusable_after_a_stop_in_the_middle_until_reset) {
  Array array;
  array.load(pdi("gemm1"));
  const Product product = small_product();
  Buffers buffers = buffers_of(product);
  SmallStream broken;
  broken.push_c = false;
  ck_assert_int_eq(run(array, broken.words(), buffers).kind, Outcome::kHung);
  const Outcome next = run(array, SmallStream().words(), buffers);
  ck_assert_int_eq(next.kind, Outcome::kFailed);
  ck_assert_ptr_nonnull(strstr(next.message.c_str(), "make a new context"));
  array.reset();
  ck_assert_int_eq(run(array, SmallStream().words(), buffers).kind, Outcome::kDone);
  ck_assert(buffers.buffer[2] == product.expected());
}
END_TEST

// ---- Rules for weight objects

START_TEST(tails_are_checked) {
  spoil_tail("without the tail's magic number", tail::kMagicAt, 0);
  spoil_tail("unknown flags", tail::kFlagsAt, 4);
  spoil_tail("an output tile without START", tail::kFlagsAt, 0);
  spoil_tail("number of planes is not its mode's", tail::kMoreAt, 0);
  spoil_tail("a shift beyond 30", tail::kS1At, 31);
  spoil_tail("an unknown output mode", tail::kModeAt, 3);
  spoil_tail("GELU constants out of range", tail::kGeluAt + 12, 15);
  spoil_tail("unused bytes are not 0", tail::kUnusedAt, 1);
  spoil_tail("unused bytes are not 0", tail::kUnusedEndAt + 60, 1);
}
END_TEST

START_TEST(start_in_mid_tile_is_refused) {
  SmallStream stream;
  stream.before_wait = [](StreamWriter& w) {
    w.task(a_channel(overlay::kGemm1, 0), 1, SmallStream().a, 0, 0, 0, false);
    w.task(b_channel(overlay::kGemm1, 0), 5, SmallStream().b, 1, 0, 0, false);
  };
  const int32_t rest = 1;
  expect_failure(stream.words(), "START in the middle of an output tile", Outcome::kFailed,
                 [&](Buffers& b) { memcpy(&b.buffer[1][overlay::kWeights + tail::kRestAt], &rest, 4); });
}
END_TEST

START_TEST(overflowing_sums_are_reported) {
  const int32_t bias = INT32_MAX;
  expect_failure(SmallStream().words(), "a sum with its bias leaves int32", Outcome::kFailed, [&](Buffers& b) {
    for (int n = 0; n < 64; ++n) memcpy(&b.buffer[1][overlay::kWeights + tail::kBiasAt + n * 4], &bias, 4);
  });
}
END_TEST

START_TEST(configuration_must_be_known) {
  Array array;
  ck_assert(array.load(pdi("vadd")).empty());
  ck_assert_ptr_nonnull(strstr(array.load(pdi("softmax")).c_str(), "knows no overlay"));
  ck_assert_ptr_nonnull(strstr(array.load("\x7f").c_str(), "not one for the emulated NPU"));
}
END_TEST

}  // namespace
}  // namespace emulated_npu

int main() {
  using namespace emulated_npu;
  Suite* const suite = suite_create("array");
  TCase* const products = tcase_create("products");
  for (const TTest* test : {output_projection_equals_the_plain_product, fused_qkv_equals_the_plain_product,
                            fc1_with_gelu_equals_the_plain_product, fc2_in_two_planes_equals_the_plain_product,
                            both_stream_versions_do_the_same, fast_and_exact_tiles_are_equal_at_the_extremes,
                            delay_mode_checks_and_counts_but_writes_nothing, delay_mode_walks_through_a_stream_once,
                            streams_follow_each_other}) {
    tcase_add_test(products, test);
  }
  suite_add_tcase(suite, products);
  TCase* const rules = tcase_create("rules");
  for (const TTest* test : {header_must_be_an_npu2s,
                            stream_must_fit_the_instruction_buffer,
                            operations_must_be_complete_and_counted,
                            unknown_registers_are_refused,
                            fifth_task_overflows_the_queue,
                            live_descriptor_must_not_change,
                            descriptor_is_free_after_its_token,
                            transfers_are_whole_objects,
                            addresses_stay_inside_one_buffer,
                            descriptor_must_be_patched_valid_and_plain,
                            patch_needs_an_argument_and_a_fresh_descriptor,
                            what_is_still_written_must_not_be_read,
                            channel_must_lead_somewhere,
                            token_needs_its_controller,
                            wait_without_token_hangs,
                            missing_operand_hangs_and_says_which,
                            one_starved_column_stops_all,
                            token_that_nobody_takes_is_reported,
                            stream_must_wait_for_its_tasks,
                            surplus_input_is_reported,
                            surplus_output_is_reported,
                            array_is_unusable_after_a_stop_in_the_middle_until_reset,
                            tails_are_checked,
                            start_in_mid_tile_is_refused,
                            overflowing_sums_are_reported,
                            configuration_must_be_known}) {
    tcase_add_test(rules, test);
  }
  suite_add_tcase(suite, rules);
  SRunner* const runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
