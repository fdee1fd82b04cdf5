// Word times: the warping, the grouping, and real attention against an independent implementation.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <random>

#include "tests/whisper/decoder_case.h"
#include "whisper/error.h"
#include "whisper/word_timing.h"

#include <check.h>  // last: it defines macros with names such as fail

using namespace whisperxdna2;

namespace {

const std::shared_ptr<const Model>& base() {
  static const std::shared_ptr<const Model> model = load_model(default_model_path());
  return model;
}

using Path = std::vector<std::pair<int, int>>;

float path_cost(const std::vector<float>& cost, int columns, const Path& path) {
  float sum = 0;
  for (const auto& [r, c] : path) sum += cost[static_cast<size_t>(r) * columns + c];
  return sum;
}

void expect_monotone(const Path& path, int rows, int columns) {
  ck_assert(path.front() == std::make_pair(0, 0) && path.back() == std::make_pair(rows - 1, columns - 1));
  for (size_t i = 1; i < path.size(); ++i) {
    const int down = path[i].first - path[i - 1].first, right = path[i].second - path[i - 1].second;
    ck_assert(down >= 0 && down <= 1 && right >= 0 && right <= 1 && down + right >= 1);
  }
}

float cheapest(const std::vector<float>& cost, int rows, int columns, int r, int c) {
  const float here = cost[static_cast<size_t>(r) * columns + c];
  if (r == 0 && c == 0) return here;
  float least = INFINITY;
  if (r > 0 && c > 0) least = std::min(least, cheapest(cost, rows, columns, r - 1, c - 1));
  if (r > 0) least = std::min(least, cheapest(cost, rows, columns, r - 1, c));
  if (c > 0) least = std::min(least, cheapest(cost, rows, columns, r, c - 1));
  return here + least;
}

// A result in which token i is heard from starts[i] (positions of 20 ms) to the next one's start; the last start is the
// end's.
DecodeResult heard(const std::vector<int>& tokens, const std::vector<int>& starts, int content) {
  DecodeResult r;
  r.tokens = tokens;
  r.log_probs.assign(tokens.size(), std::log(0.5f));
  r.alignment_rows = static_cast<int>(starts.size());
  for (size_t row = 0; row < starts.size(); ++row) {
    const int end = row + 1 < starts.size() ? starts[row + 1] : content;
    for (int c = 0; c < content; ++c) r.alignment.push_back(c >= starts[row] && c < end ? 10.0f : 0.0f);
  }
  return r;
}

std::vector<int> encode(const std::string& text) { return base()->tokenizer->encode(text); }

std::vector<Word> words_of(const std::string& text, const std::vector<int>& starts,
                           const std::string& language = "en") {
  const std::vector<int> ids = encode(text);
  ck_assert_int_eq(ids.size() + 1, starts.size());
  return word_times(*base()->tokenizer, language, {}, heard(ids, starts, 200), 1, 200, nullptr);
}

std::string joined(const std::vector<Word>& words) {
  std::string all;
  for (const Word& w : words) all += (w.space_before ? "_" : "|") + w.text;
  return all;
}

void expect_text(const std::string& got, const std::string& wanted) { ck_assert_str_eq(got.c_str(), wanted.c_str()); }

// Within one position of the recorded ones; with int8 weights one word may be off by two.
void expect_recorded_times(const DecoderCase& c, const std::vector<std::pair<const char*, size_t>>& words) {
  const auto starts = load_npy<int32_t>("whisper/decoder/" + std::string(c.name) + "_starts.npy").data;
  for (Precision precision : {Precision::kF32, Precision::kInt8}) {
    Decoder decoder(base(), precision);
    set_features(decoder, c);
    DecodeOptions o = options_of(c);
    o.alignment = true;
    const DecodeResult r = decoder.decode(o);
    const std::vector<Word> got = word_times(*base()->tokenizer, "en", c.prefix, r, 8, c.content, nullptr);
    ck_assert_int_eq(got.size(), words.size());
    int off = 0;
    for (size_t i = 0; i < words.size(); ++i) {
      ck_assert_str_eq(got[i].text.c_str(), words[i].first);
      const double error = std::fabs(got[i].start - starts[words[i].second] * 0.02);
      ck_assert_double_le(error, precision == Precision::kF32 ? 0.021 : 0.041);
      off += error > 0.021;
    }
    ck_assert_int_le(off, 1);
  }
}

}  // namespace

// argmaxinc/WhisperKit, unit tests: the path of the largest sum through [[1,1,1],[5,2,1],[1,5,2]].
START_TEST(a_published_example_gives_the_published_path) {
  const float cost[] = {-1, -1, -1, -5, -2, -1, -1, -5, -2};
  ck_assert(dynamic_time_warping(cost, 3, 3) == (Path{{0, 0}, {1, 0}, {1, 1}, {2, 1}, {2, 2}}));
}
END_TEST

// openai/whisper tests/test_timing.py: the way back along random steps is found.
START_TEST(a_valley_of_low_cost_is_followed) {
  std::mt19937 random(42);
  const std::pair<int, int> sizes[] = {{10, 20}, {32, 16}, {123, 1500}, {234, 189}};
  for (const auto& [rows, columns] : sizes) {
    std::vector<int> steps(rows - 1, 0);
    steps.insert(steps.end(), columns - 1, 1);
    std::shuffle(steps.begin(), steps.end(), random);
    std::vector<float> cost(static_cast<size_t>(rows) * columns);
    for (float& v : cost) v = 1.0f + static_cast<float>(random() % 1000) / 1000.0f;
    Path valley{{0, 0}};
    for (int step : steps) valley.emplace_back(valley.back().first + (step == 0), valley.back().second + (step == 1));
    for (const auto& [r, c] : valley) cost[static_cast<size_t>(r) * columns + c] = 0;
    const Path path = dynamic_time_warping(cost.data(), rows, columns);
    expect_monotone(path, rows, columns);
    ck_assert_float_eq(path_cost(cost, columns, path), 0.0f);
  }
}
END_TEST

START_TEST(no_path_is_cheaper_also_with_ties) {
  std::mt19937 random(7);
  for (int i = 0; i < 300; ++i) {
    const int rows = 1 + static_cast<int>(random() % 5), columns = 1 + static_cast<int>(random() % 5);
    std::vector<float> cost(static_cast<size_t>(rows) * columns);
    for (float& v : cost) v = static_cast<float>(random() % 4);
    const Path path = dynamic_time_warping(cost.data(), rows, columns);
    expect_monotone(path, rows, columns);
    ck_assert_float_eq(path_cost(cost, columns, path), cheapest(cost, rows, columns, rows - 1, columns - 1));
  }
}
END_TEST

START_TEST(equal_steps_prefer_the_diagonal) {
  const float cost[4] = {};
  ck_assert(dynamic_time_warping(cost, 2, 2) == (Path{{0, 0}, {1, 1}}));
}
END_TEST

START_TEST(times_on_real_attention_are_the_recorded_ones) {
  expect_recorded_times(kLibri, {{"Mr.", 0}, {"Quilter", 2}, {"is", 5}, {"the", 6}, {"apostle", 7}, {"of", 8},
                                 {"the", 9}, {"middle", 10}, {"classes,", 11}, {"and", 13}, {"we", 14}, {"are", 15},
                                 {"glad", 16}, {"to", 17}, {"welcome", 18}, {"his", 19}, {"gospel.", 20}});
}
END_TEST

START_TEST(times_with_a_forced_prefix_are_the_recorded_ones) {
  expect_recorded_times(kJfkPrefix, {{"And", 0}, {"so", 1}, {"my", 2}, {"fellow", 3}, {"Americans", 4}, {"ask", 5},
                                     {"not", 6}, {"what", 7}, {"your", 8}, {"country", 9}, {"can", 10}, {"do", 11},
                                     {"for", 12}, {"you.", 13}});
}
END_TEST

START_TEST(timestamps_leave_text_and_times_as_they_are) {
  Decoder decoder(base());
  set_features(decoder, kLibri);
  DecodeOptions o = options_of(kLibri);
  o.alignment = true;
  const std::vector<Word> plain =
      word_times(*base()->tokenizer, "en", {}, decoder.decode(o), 8, kLibri.content, nullptr);
  o.timestamps = true;
  const std::vector<Word> timed =
      word_times(*base()->tokenizer, "en", {}, decoder.decode(o), 8, kLibri.content, nullptr);
  expect_text(joined(timed), joined(plain));
  for (size_t i = 0; i < plain.size(); ++i) ck_assert_double_eq_tol(timed[i].start, plain[i].start, 0.06);
}
END_TEST

START_TEST(words_begin_where_their_first_token_is_heard) {
  // The second word is more than one token.
  const std::vector<int> ids = encode(" so antidisestablishment");
  ck_assert(ids.size() > 2);
  std::vector<int> starts;
  for (size_t i = 0; i <= ids.size(); ++i) starts.push_back(static_cast<int>(20 * i));
  const std::vector<Word> w = words_of(" so antidisestablishment", starts);
  expect_text(joined(w), "_so_antidisestablishment");
  ck_assert_double_eq_tol(w[0].start, 0, 0.061);
  ck_assert_double_eq_tol(w[0].end, 0.4, 0.061);
  ck_assert_double_eq_tol(w[1].start, 0.4, 0.061);
  ck_assert_double_eq_tol(w[1].end, 0.4 * static_cast<double>(ids.size()), 0.061);
  ck_assert(w[1].tokens == std::vector<int>(ids.begin() + 1, ids.end()));
  ck_assert_float_eq_tol(w[1].probability, 0.5f, 1e-6f);
}
END_TEST

START_TEST(punctuation_joins_the_word_that_it_belongs_to) {
  const std::string text = " he said, \"go\" now.";
  std::vector<int> starts;
  for (size_t i = 0; i <= encode(text).size(); ++i) starts.push_back(static_cast<int>(15 * i));
  const std::vector<Word> w = words_of(text, starts);
  expect_text(joined(w), "_he_said,_\"go\"_now.");
  std::vector<int> all;
  for (const Word& word : w) all.insert(all.end(), word.tokens.begin(), word.tokens.end());
  ck_assert(all == encode(text));
  for (const Word& word : w) ck_assert(word.end >= word.start);
}
END_TEST

START_TEST(a_pause_after_a_sentence_is_not_part_of_the_next_word) {
  // "now" would last from 0.8 s to 3.2 s, the others 0.2 s.
  const std::vector<Word> w = words_of(" go on then. now we go", {0, 10, 20, 30, 40, 160, 170, 180});
  expect_text(joined(w), "_go_on_then._now_we_go");
  ck_assert_double_eq_tol(w[3].end, 3.2, 0.061);
  ck_assert_double_eq_tol(w[3].end - w[3].start, 0.4, 0.09);
}
END_TEST

START_TEST(words_of_a_language_without_spaces_stand_close) {
  const std::string text = "\u732b\u304c\u597d\u304d\u3001";
  std::vector<int> starts;
  for (size_t i = 0; i <= encode(text).size(); ++i) starts.push_back(static_cast<int>(15 * i));
  const std::vector<Word> w = words_of(text, starts, "ja");
  std::string plain;
  for (const Word& word : w) {
    ck_assert(!word.space_before);
    plain += word.text;
  }
  ck_assert_str_eq(plain.c_str(), text.c_str());
  ck_assert(w.size() > 1 && w.back().text != "\u3001");
}
END_TEST

START_TEST(forced_words_come_first_with_probability_1) {
  const std::vector<int> prefix = encode(" my fellow");
  DecodeResult r = heard(encode(" Americans ask"), {0, 20, 40, 60, 80}, 200);
  int forced = -1;
  const std::vector<Word> w = word_times(*base()->tokenizer, "en", prefix, r, 1, 200, &forced);
  ck_assert_int_eq(forced, 2);
  expect_text(joined(w), "_my_fellow_Americans_ask");
  ck_assert(w[0].probability == 1 && w[1].probability == 1);
  ck_assert_float_eq_tol(w[2].probability, 0.5f, 1e-6f);
  ck_assert_double_eq_tol(w[2].start, 0.8, 0.061);
}
END_TEST

START_TEST(what_is_sampled_after_a_prefix_is_never_lost_in_it) {
  DecodeResult r = heard(encode("ball game"), {0, 20, 40, 60}, 200);
  int forced = -1;
  const std::vector<Word> w = word_times(*base()->tokenizer, "en", encode(" foot"), r, 1, 200, &forced);
  ck_assert_int_eq(forced, 1);
  expect_text(joined(w), "_foot|ball_game");
}
END_TEST

START_TEST(no_text_gives_no_words) {
  ck_assert(word_times(*base()->tokenizer, "en", {}, heard({}, {0}, 50), 1, 50, nullptr).empty());
}
END_TEST

START_TEST(a_result_without_its_alignment_is_refused) {
  DecodeResult r = heard(encode(" so"), {0, 20}, 50);
  r.alignment.clear();
  r.alignment_rows = 0;
  bool refused = false;
  try {
    word_times(*base()->tokenizer, "en", {}, r, 1, 50, nullptr);
  } catch (const Error& e) {
    refused = e.code() == ErrorCode::kInvalidUse;
  }
  ck_assert(refused);
}
END_TEST

int main() {
  base();  // loaded once, before Check forks
  Suite* suite = suite_create("word_timing");
  TCase* warping = tcase_create("warping");
  tcase_add_test(warping, a_published_example_gives_the_published_path);
  tcase_add_test(warping, a_valley_of_low_cost_is_followed);
  tcase_add_test(warping, no_path_is_cheaper_also_with_ties);
  tcase_add_test(warping, equal_steps_prefer_the_diagonal);
  suite_add_tcase(suite, warping);
  TCase* words = tcase_create("words");
  tcase_add_test(words, times_on_real_attention_are_the_recorded_ones);
  tcase_add_test(words, times_with_a_forced_prefix_are_the_recorded_ones);
  tcase_add_test(words, timestamps_leave_text_and_times_as_they_are);
  tcase_add_test(words, words_begin_where_their_first_token_is_heard);
  tcase_add_test(words, punctuation_joins_the_word_that_it_belongs_to);
  tcase_add_test(words, a_pause_after_a_sentence_is_not_part_of_the_next_word);
  tcase_add_test(words, words_of_a_language_without_spaces_stand_close);
  tcase_add_test(words, forced_words_come_first_with_probability_1);
  tcase_add_test(words, what_is_sampled_after_a_prefix_is_never_lost_in_it);
  tcase_add_test(words, no_text_gives_no_words);
  tcase_add_test(words, a_result_without_its_alignment_is_refused);
  suite_add_tcase(suite, words);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
