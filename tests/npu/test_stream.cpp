// The binary form of transaction streams, against the published layouts.
#include <check.h>

#include <string>
#include <vector>

#include "npu/stream.h"
#include "whisper/error.h"

using namespace whisperxdna2;
using namespace whisperxdna2::npu;
using overlay::Direction;

namespace {

using Words = std::vector<uint32_t>;

constexpr uint32_t kVersion01 = 6u << 24 | 4u << 16 | 1u << 8, kVersion10 = 6u << 24 | 4u << 16 | 1u;

// A stream around the words of its operations.
Words stream(uint32_t version, uint32_t operations, Words body) {
  Words words{version, 1u << 8 | 8u, operations, static_cast<uint32_t>(body.size() + 4) * 4};
  words.insert(words.end(), body.begin(), body.end());
  return words;
}

void assert_words(const Words& words, const Words& expected) {
  ck_assert_uint_eq(words.size(), expected.size());
  for (size_t i = 0; i < words.size(); ++i) {
    ck_assert_msg(words[i] == expected[i], "word %zu is %08x, not %08x", i, words[i], expected[i]);
  }
}

void assert_refused(const Words& words, const char* reason) {
  try {
    decode(words.data(), words.size());
    ck_abort_msg("accepted; should say: %s", reason);
  } catch (const Error& e) {
    ck_assert_int_eq(static_cast<int>(e.code()), static_cast<int>(ErrorCode::kInvalidFile));
    ck_assert_msg(std::string(e.what()).find(reason) != std::string::npos, "says: %s", e.what());
  }
}

const std::vector<Operation> kOneOfEach{
    Operation::mask_write(0x0A01D200, 0x0F00, 0x1F00),
    Operation::block_write(0x0401D060, {1, 2, 3, 4, 5, 6, 7, 8}),
    Operation::patch(0x0401D064, 2, 0x123456789A),
    Operation::write(0x0401D21C, 0x80010003),
    Operation::token_wait({5, Direction::kS2mm, 0}),
    Operation::token_wait({2, Direction::kMm2s, 1}),
};

}  // namespace

START_TEST(every_operation_has_its_published_layout) {
  assert_words(encode(kOneOfEach),
               stream(kVersion01, 6,
                      {3, 0, 0x0A01D200, 0, 0x0F00, 0x1F00, 28,                                  // MASKWRITE
                       1, 0, 0x0401D060, 48, 1, 2, 3, 4, 5, 6, 7, 8,                             // BLOCKWRITE
                       0x81, 48, 0, 0, 0, 0, 0x0401D064, 0, 2, 0, 0x3456789A, 0x12,              // DDR_PATCH
                       0, 0, 0x0401D21C, 0, 0x80010003, 24,                                      // WRITE
                       0x80, 16, 5u << 16, 1u << 8 | 1u << 16,                                   // TCT
                       0x80, 16, 1u | 2u << 16, 1u << 8 | 1u << 16 | 1u << 24}));
}
END_TEST

START_TEST(what_is_encoded_is_decoded) {
  const Words words = encode(kOneOfEach);
  ck_assert(decode(words.data(), words.size()) == kOneOfEach);
}
END_TEST

START_TEST(compact_version_is_read_too) {
  const Words words = stream(kVersion10, 6,
                             {3, 0x0A01D200, 0x0F00, 0x1F00,
                              1, 0x0401D060, 44, 1, 2, 3, 4, 5, 6, 7, 8,
                              0x81, 24, 0x0401D064, 2, 0x3456789A, 0x12,
                              0, 0x0401D21C, 0x80010003,
                              0x80, 16, 5u << 16, 1u << 8 | 1u << 16,
                              0x80, 16, 1u | 2u << 16, 1u << 8 | 1u << 16 | 1u << 24});
  ck_assert(decode(words.data(), words.size()) == kOneOfEach);
}
END_TEST

START_TEST(stream_cut_anywhere_is_refused) {
  const Words words = encode(kOneOfEach);
  for (size_t count = 0; count < words.size(); ++count) {
    Words cut(words.begin(), words.begin() + static_cast<long>(count));
    if (count >= 4) cut[3] = static_cast<uint32_t>(count * 4);
    bool refused = false;
    try {
      decode(cut.data(), cut.size());
    } catch (const Error&) {
      refused = true;
    }
    ck_assert_msg(refused, "accepted with %zu words", count);
  }
}
END_TEST

START_TEST(contradictions_are_refused) {
  const Words write{0, 0, 0x1D204, 0, 1, 24};
  assert_refused(stream(kVersion01, 2, write), "number of operations");
  assert_refused(stream(kVersion01 + 2, 1, write), "neither version");
  assert_refused(stream(6u << 24 | 3u << 16 | 1u << 8, 1, write), "another kind of NPU");
  assert_refused(stream(kVersion01, 1, {0, 0, 0x1D204, 0, 1, 28}), "impossible size");
  assert_refused(stream(kVersion01, 1, {1, 0, 0x1D000, 12}), "impossible size");
  assert_refused(stream(kVersion01, 1, {1, 0, 0x1D000, 0xFFFFFFFC}), "ends in an operation");
  assert_refused(stream(kVersion01, 1, {0x55}), "unknown operation 85");
  assert_refused(stream(kVersion01, 1, {0x80, 16, 9u << 16, 1u << 8 | 1u << 16}), "token wait");
  Words longer = stream(kVersion01, 1, write);
  longer[3] += 4;
  assert_refused(longer, "its size");
}
END_TEST

START_TEST(linear_walk_has_no_sizes) {
  ShimWalk walk;
  walk.length = 0x2200;
  walk.runs = 2;
  const auto words = descriptor(walk);
  assert_words({words.begin(), words.end()}, {0x2200, 0, 0, 0, 0xC0000000, 0x02000000, 0, 0x02000000});
  ck_assert_uint_eq(queue_entry(4, walk.runs, false), 0x00010004);
}
END_TEST

START_TEST(strided_runs_are_in_the_descriptor_and_in_the_queue_entry) {
  ShimWalk walk;
  walk.length = 0x2000;
  walk.size0 = 16;
  walk.size1 = 256, walk.step1 = 256;
  walk.step2 = 128;
  walk.runs = 2, walk.run_step = 65536;
  const auto words = descriptor(walk);
  assert_words({words.begin(), words.end()},
               {0x2000, 0, 0, 0x01000000, 0xD00000FF, 0x0200007F, 0x0010FFFF, 0x02000000});
  ck_assert_uint_eq(queue_entry(8, walk.runs, true), 0x80010008);
}
END_TEST

START_TEST(limits_of_descriptors_are_known) {
  ShimWalk walk;
  walk.length = 1024;
  walk.size0 = 1023;
  walk.step1 = walk.step2 = 1 << 20;
  walk.runs = 64, walk.run_step = 1 << 20;
  ck_assert(fits(walk));
  const auto refuses = [&](uint64_t ShimWalk::*field, uint64_t value) {
    ShimWalk other = walk;
    other.*field = value;
    return !fits(other);
  };
  ck_assert(refuses(&ShimWalk::length, 0));
  ck_assert(refuses(&ShimWalk::length, uint64_t{1} << 32));
  ck_assert(refuses(&ShimWalk::size0, 1024));
  ck_assert(refuses(&ShimWalk::size1, 1024));
  ck_assert(refuses(&ShimWalk::step0, 0));
  ck_assert(refuses(&ShimWalk::step1, (1 << 20) + 1));
  ck_assert(refuses(&ShimWalk::step2, (1 << 20) + 1));
  ck_assert(refuses(&ShimWalk::runs, 0));
  ck_assert(refuses(&ShimWalk::runs, 65));
  ck_assert(refuses(&ShimWalk::run_step, (1 << 20) + 1));
  walk.run_step = 0;  // the same again: only the queue entry's repeat counts
  walk.runs = 256;
  ck_assert(fits(walk));
  walk.runs = 257;
  ck_assert(!fits(walk));
}
END_TEST

int main() {
  Suite* suite = suite_create("stream");
  TCase* format = tcase_create("format");
  tcase_add_test(format, every_operation_has_its_published_layout);
  tcase_add_test(format, what_is_encoded_is_decoded);
  tcase_add_test(format, compact_version_is_read_too);
  tcase_add_test(format, stream_cut_anywhere_is_refused);
  tcase_add_test(format, contradictions_are_refused);
  suite_add_tcase(suite, format);
  TCase* descriptors = tcase_create("descriptors");
  tcase_add_test(descriptors, linear_walk_has_no_sizes);
  tcase_add_test(descriptors, strided_runs_are_in_the_descriptor_and_in_the_queue_entry);
  tcase_add_test(descriptors, limits_of_descriptors_are_known);
  suite_add_tcase(suite, descriptors);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
