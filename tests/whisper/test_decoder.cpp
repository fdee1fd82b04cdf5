// The decoder with real weights, against an independent NumPy decoder, and its rules.
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <new>

#include "tests/whisper/decoder_case.h"
#include "whisper/error.h"
#include "whisper/logit_rules.h"
#include "whisper/tokenizer.h"

#include <check.h>  // last: it defines macros with names such as fail

using namespace whisperxdna2;

namespace {

std::atomic<long> allocations{0};

const std::shared_ptr<const Model>& base() {
  static const std::shared_ptr<const Model> model = load_model(default_model_path());
  return model;
}

DecodeResult decode(const DecoderCase& c, Precision precision = Precision::kAuto) {
  Decoder decoder(base(), precision, 2);
  set_features(decoder, c);
  return decoder.decode(options_of(c));
}

// The same text; `tolerance` of the logarithms of probabilities: what rounding the weights to int8 does is ten times
// what the order of sums does.
void expect_recorded(const DecoderCase& c, Precision precision, float tolerance) {
  const DecodeResult r = decode(c, precision);
  const auto ids = load_npy<int32_t>("whisper/decoder/" + std::string(c.name) + "_ids.npy").data;
  const auto scores = load_npy<float>("whisper/decoder/" + std::string(c.name) + "_scores.npy").data;
  const size_t steps = (scores.size() - 1) / 2;  // the end's included
  const float *log_probs = scores.data(), *margins = log_probs + steps;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (margins[i] < 0.05f) ck_abort_msg("%s: token %zu is a close call: no vector to compare with", c.name, i);
    ck_assert_msg(i < r.tokens.size() && r.tokens[i] == ids[i], "%s: token %zu is %d instead of %d", c.name, i,
                  i < r.tokens.size() ? r.tokens[i] : -1, ids[i]);
    ck_assert_float_eq_tol(r.log_probs[i], log_probs[i], tolerance);
  }
  ck_assert_int_eq(r.tokens.size(), ids.size());
  ck_assert_int_eq(r.ended, static_cast<int>(ids.size()) < c.most_tokens);
  double sum = 0;
  for (size_t i = 0; i < ids.size() + r.ended; ++i) sum += log_probs[i];
  ck_assert_float_eq_tol(r.mean_log_prob, static_cast<float>(sum / (ids.size() + 1)), tolerance);
  ck_assert_float_eq_tol(r.no_speech_prob, scores.back(), tolerance / 5);
}
void expect_recorded(const DecoderCase& c) {
  expect_recorded(c, Precision::kF32, 0.01f);
  expect_recorded(c, Precision::kInt8, 0.1f);
}

// Logits [n_vocab] that are all `fill`, with some set.
std::vector<float> logits(float fill, std::vector<std::pair<int, float>> set = {}) {
  std::vector<float> l(base()->dims.n_vocab, fill);
  for (const auto& [id, value] : set) l[id] = value;
  return l;
}

std::vector<float> filtered(const std::vector<int>& sampled, std::vector<float> l, LogitRuleOptions o = {}) {
  LogitRules(*base()->tokenizer, o).apply(sampled, l.data());
  return l;
}

bool allowed(const std::vector<float>& l, int id) { return l[id] > -INFINITY; }

constexpr int kEot = 50257, kTime = 50364, kText = 400;
constexpr LogitRuleOptions kTimed{true, true, 1.0f};

}  // namespace

// Counts what the decoder allocates while it samples.
void* operator new(size_t size) {
  ++allocations;
  if (void* p = std::malloc(size)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }

START_TEST(text_without_timestamps_is_the_recorded_one) { expect_recorded(kLibri); }
END_TEST

START_TEST(text_with_timestamps_is_the_recorded_one) { expect_recorded(kLibriTimestamps); }
END_TEST

START_TEST(a_window_full_of_speech_loops_as_recorded) { expect_recorded(kJfkLoop); }
END_TEST

START_TEST(the_silent_tail_ends_the_loop) { expect_recorded(kJfkTail); }
END_TEST

START_TEST(text_after_a_forced_prefix_is_the_recorded_one) { expect_recorded(kJfkPrefix); }
END_TEST

START_TEST(results_do_not_depend_on_the_number_of_threads) {
  for (Precision precision : {Precision::kF32, Precision::kInt8}) {
    DecodeResult r[3];
    for (int t = 0; t < 3; ++t) {
      Decoder decoder(base(), precision, t + 1);
      set_features(decoder, kJfkPrefix);
      DecodeOptions o = options_of(kJfkPrefix);
      o.alignment = true;
      r[t] = decoder.decode(o);
    }
    for (int t = 1; t < 3; ++t) {
      ck_assert(r[t].tokens == r[0].tokens && r[t].log_probs == r[0].log_probs && r[t].alignment == r[0].alignment);
      ck_assert(r[t].no_speech_prob == r[0].no_speech_prob && r[t].mean_log_prob == r[0].mean_log_prob);
    }
  }
}
END_TEST

START_TEST(a_prefix_gives_the_state_that_sampling_it_gives) {
  const DecodeResult whole = decode(kLibri);
  Decoder decoder(base());
  set_features(decoder, kLibri);
  DecodeOptions o = options_of(kLibri);
  o.prefix.assign(whole.tokens.begin(), whole.tokens.begin() + 9);
  const DecodeResult rest = decoder.decode(o);
  ck_assert(std::vector<int>(whole.tokens.begin() + 9, whole.tokens.end()) == rest.tokens);
  for (size_t i = 0; i < rest.tokens.size(); ++i) {
    ck_assert_float_eq_tol(rest.log_probs[i], whole.log_probs[i + 9], 0.002f);
  }
}
END_TEST

START_TEST(alignment_scores_are_the_recorded_ones) {
  for (const auto& [precision, tolerance] : {std::pair(Precision::kF32, 0.03f), {Precision::kInt8, 0.4f}}) {
    Decoder decoder(base(), precision);
    set_features(decoder, kLibri);
    DecodeOptions o = options_of(kLibri);
    o.alignment = true;
    const DecodeResult r = decoder.decode(o);
    const auto wanted = load_npy<float>("whisper/decoder/libri_alignment.npy");  // each fourth row
    const int heads = 8, content = kLibri.content, every = 4;
    ck_assert_int_eq(r.alignment_rows, r.tokens.size() + 1);
    ck_assert_int_eq(r.alignment.size(), static_cast<size_t>(heads) * r.alignment_rows * content);
    ck_assert(wanted.shape == (std::vector<int64_t>{heads, (r.alignment_rows + every - 1) / every, content}));
    for (int h = 0; h < heads; ++h) {
      for (int64_t row = 0; row < wanted.shape[1]; ++row) {
        for (int c = 0; c < content; ++c) {
          ck_assert_float_eq_tol(r.alignment[(static_cast<size_t>(h) * r.alignment_rows + row * every) * content + c],
                                 wanted.data[(h * wanted.shape[1] + row) * content + c], tolerance);
        }
      }
    }
  }
}
END_TEST

START_TEST(alignment_has_the_row_of_the_end_also_after_a_cap) {
  Decoder decoder(base());
  set_features(decoder, kLibri);
  DecodeOptions o = options_of(kLibri);
  o.alignment = true;
  o.max_new_tokens = 5;
  const DecodeResult r = decoder.decode(o);
  ck_assert(r.tokens.size() == 5 && !r.ended && r.alignment_rows == 6);
}
END_TEST

START_TEST(language_probabilities_are_the_recorded_ones) {
  Decoder decoder(base(), Precision::kF32);
  set_features(decoder, kLibri);
  const std::vector<float> p = decoder.detect_language();
  const auto wanted = load_npy<float>("whisper/decoder/libri_language.npy").data;
  ck_assert_int_eq(p.size(), 99);
  double sum = 0, all = 0;
  for (float w : wanted) all += w;
  for (size_t i = 0; i < p.size(); ++i) {
    ck_assert_float_eq_tol(p[i], static_cast<float>(wanted[i] / all), 0.002f);
    sum += p[i];
  }
  ck_assert_double_eq_tol(sum, 1.0, 1e-5);
  ck_assert(p[0] > 0.9f);
}
END_TEST

// No law (with 2 beams the comma of kJfkTail is lost), but so it is with as many as OpenAI takes.
START_TEST(five_beams_find_no_less_likely_text) {
  for (const DecoderCase* c : {&kLibri, &kJfkTail, &kJfkPrefix, &kLibriTimestamps}) {
    Decoder decoder(base());
    set_features(decoder, *c);
    DecodeOptions o = options_of(*c);
    const auto sum = [](const DecodeResult& r) { return r.mean_log_prob * static_cast<float>(r.tokens.size() + 1); };
    const DecodeResult greedy = decoder.decode(o);
    o.beam_size = 5;
    const DecodeResult r = decoder.decode(o);
    ck_assert(r.ended && r.tokens.size() == r.log_probs.size());
    ck_assert_msg(sum(r) >= sum(greedy), "%s: %f, greedy %f", c->name, sum(r), sum(greedy));
  }
}
END_TEST

// What a hypothesis attends to is its own past, whatever slots it lies in.
START_TEST(a_beam_has_the_scores_that_its_text_has_alone) {
  Decoder decoder(base());
  set_features(decoder, kLibriTimestamps);
  DecodeOptions o = options_of(kLibriTimestamps);
  o.timestamps = false;
  o.alignment = true;
  o.beam_size = 4;
  const DecodeResult beam = decoder.decode(o);
  // Forced, all but the last token.
  o.beam_size = 1;
  o.prefix.assign(beam.tokens.begin(), beam.tokens.end() - 1);
  o.suppress_blank = false;
  const DecodeResult forced = decoder.decode(o);
  ck_assert(forced.tokens == std::vector<int>{beam.tokens.back()} && forced.log_probs[0] == beam.log_probs.back());
  ck_assert(forced.alignment == beam.alignment && forced.alignment_rows == beam.alignment_rows);
}
END_TEST

START_TEST(beams_do_not_depend_on_the_number_of_threads) {
  DecodeResult r[3];
  for (int t = 0; t < 3; ++t) {
    Decoder decoder(base(), Precision::kAuto, t + 1);
    set_features(decoder, kJfkTail);
    DecodeOptions o = options_of(kJfkTail);
    o.alignment = true;
    o.beam_size = 5;
    r[t] = decoder.decode(o);
  }
  for (int t = 1; t < 3; ++t) {
    ck_assert(r[t].tokens == r[0].tokens && r[t].log_probs == r[0].log_probs && r[t].alignment == r[0].alignment);
  }
}
END_TEST

START_TEST(sampling_allocates_nothing) {
  for (int beams : {1, 5}) {
    Decoder decoder(base());
    set_features(decoder, kJfkLoop);
    DecodeOptions o = options_of(kJfkLoop);
    o.alignment = true;
    o.beam_size = beams;
    long counted[2];
    for (int i = 0; i < 3; ++i) {  // the first call makes the network's memory
      o.max_new_tokens = i < 2 ? 5 : 45;
      const long before = allocations;
      const DecodeResult r = decoder.decode(o);
      if (beams == 1) ck_assert_int_eq(r.tokens.size(), o.max_new_tokens);
      if (i > 0) counted[i - 1] = allocations - before;
    }
    // The text of more tokens takes a few more steps to put together for the compression ratio.
    ck_assert_msg(counted[1] - counted[0] < 20, "%ld allocations for 5 tokens, %ld for 45", counted[0], counted[1]);
  }
}
END_TEST

START_TEST(sampling_at_a_temperature_repeats_itself_exactly) {
  Decoder decoder(base());
  set_features(decoder, kLibri);
  DecodeOptions o = options_of(kLibri);
  o.temperatures = {1.0f};
  o.max_new_tokens = 40;
  const DecodeResult a = decoder.decode(o), b = decoder.decode(o);
  ck_assert(a.tokens == b.tokens && a.log_probs == b.log_probs && a.temperature == 1.0f);
  ck_assert(a.tokens != decode(kLibri).tokens);
}
END_TEST

START_TEST(a_loop_is_decoded_again_at_the_next_temperature) {
  Decoder decoder(base());
  set_features(decoder, kJfkLoop);
  DecodeOptions o = options_of(kJfkLoop);
  o.max_new_tokens = 224;
  o.temperatures = {0.0f, 0.8f};
  const DecodeResult retried = decoder.decode(o);
  ck_assert_float_eq(retried.temperature, 0.8f);
  o.temperatures = {0.0f};
  const DecodeResult greedy = decoder.decode(o);
  ck_assert(greedy.compression_ratio > o.compression_ratio_limit && greedy.temperature == 0.0f);
  // One attempt's draws do not depend on the attempts before it.
  o.temperatures = {0.8f};
  ck_assert(decoder.decode(o).tokens == retried.tokens);
}
END_TEST

START_TEST(a_loop_can_be_cut_at_its_sixth_copy) {
  Decoder decoder(base());
  set_features(decoder, kJfkLoop);
  DecodeOptions o = options_of(kJfkLoop);
  o.max_new_tokens = 224;
  const DecodeResult whole = decoder.decode(o);
  o.stop_at_loop = true;
  const DecodeResult cut = decoder.decode(o);
  ck_assert_uint_lt(cut.tokens.size(), whole.tokens.size());
  ck_assert(std::equal(cut.tokens.begin(), cut.tokens.end(), whole.tokens.begin()));
  ck_assert(!cut.ended);
}
END_TEST

START_TEST(good_text_is_not_decoded_again) {
  Decoder decoder(base());
  set_features(decoder, kLibri);
  DecodeOptions o = options_of(kLibri);
  o.temperatures = {0.0f, 0.8f};
  const DecodeResult r = decoder.decode(o);
  ck_assert(r.temperature == 0.0f && r.compression_ratio > 0.5f && r.compression_ratio < 1.5f);
}
END_TEST

START_TEST(the_compression_ratio_is_bytes_by_zlib_bytes) {
  Decoder decoder(base());
  set_features(decoder, kLibri);
  // zlib.compress(b"Mr. Quilter is the apostle of the middle classes, and we are glad to welcome his gospel.")
  ck_assert_float_eq_tol(decoder.decode(options_of(kLibri)).compression_ratio, 1.0864198f, 1e-5f);
}
END_TEST

START_TEST(an_interrupted_decode_throws_at_once) {
  Decoder decoder(base());
  set_features(decoder, kLibri);
  const std::atomic<bool> interrupted{true};
  DecodeOptions o = options_of(kLibri);
  o.interrupted = &interrupted;
  bool thrown = false;
  try {
    decoder.decode(o);
  } catch (const Error& e) {
    thrown = e.code() == ErrorCode::kInterrupted;
  }
  ck_assert(thrown);
}
END_TEST

START_TEST(what_cannot_be_decoded_is_refused) {
  const auto refused = [](Decoder& decoder, const DecodeOptions& o) {
    try {
      decoder.decode(o);
    } catch (const Error& e) {
      return e.code() == ErrorCode::kInvalidUse;
    }
    return false;
  };
  Decoder decoder(base());
  const DecodeOptions good = options_of(kLibri);
  ck_assert_msg(refused(decoder, good), "no features");
  set_features(decoder, kLibri);
  DecodeOptions o = good;
  o.language = -1;
  ck_assert_msg(refused(decoder, o), "no language");
  o = good;
  o.prefix.assign(444, kText);
  ck_assert_msg(refused(decoder, o), "a prefix that fills the context");
  o = good;
  o.prefix = {51865};
  ck_assert_msg(refused(decoder, o), "an id beyond the vocabulary");
  o = good;
  o.prompt = {-1};
  ck_assert_msg(refused(decoder, o), "a negative id");
  o = good;
  o.beam_size = 0;
  ck_assert_msg(refused(decoder, o), "no beam");
}
END_TEST

START_TEST(of_a_long_prompt_the_last_223_tokens_are_used) {
  Decoder decoder(base());
  set_features(decoder, kLibri);
  DecodeOptions o = options_of(kLibri);
  o.max_new_tokens = 3;
  o.prompt.assign(223, kText);
  const DecodeResult a = decoder.decode(o);
  o.prompt.insert(o.prompt.begin(), 100, 1029);
  ck_assert(decoder.decode(o).log_probs == a.log_probs);
}
END_TEST

START_TEST(the_context_is_never_exceeded) {
  Decoder decoder(base());
  set_features(decoder, kJfkLoop);
  DecodeOptions o = options_of(kJfkLoop);
  o.alignment = true;
  o.prefix.assign(441, kText);  // 4 + 441 of 448
  o.suppress_blank = true;
  o.max_new_tokens = 1000;
  const DecodeResult r = decoder.decode(o);
  ck_assert(r.tokens.size() <= 3 && r.alignment_rows == 441 + static_cast<int>(r.tokens.size()) + 1);
}
END_TEST

START_TEST(control_tokens_and_symbols_are_never_allowed) {
  const std::vector<float> l = filtered({kText}, logits(0));
  for (int id = kEot + 1; id < base()->dims.n_vocab; ++id) ck_assert(!allowed(l, id));
  for (int id : base()->tokenizer->non_speech()) ck_assert(!allowed(l, id));
  ck_assert(allowed(l, kText) && allowed(l, kEot) && allowed(l, 220));
}
END_TEST

START_TEST(a_blank_and_the_end_are_not_allowed_first) {
  const std::vector<float> l = filtered({}, logits(0));
  ck_assert(!allowed(l, 220) && !allowed(l, kEot) && allowed(l, kText));
  ck_assert(allowed(filtered({}, logits(0), {false, false, 1.0f}), kEot));
}
END_TEST

START_TEST(the_first_token_is_a_timestamp_up_to_the_limit) {
  const std::vector<float> l = filtered({}, logits(0), kTimed);
  ck_assert(!allowed(l, kText) && !allowed(l, kEot) && allowed(l, kTime) && allowed(l, kTime + 50) &&
            !allowed(l, kTime + 51));
  const std::vector<float> tenth = filtered({}, logits(0), {true, true, 0.1f});
  ck_assert(allowed(tenth, kTime + 5) && !allowed(tenth, kTime + 6));
}
END_TEST

START_TEST(after_the_opening_timestamp_text_follows) {
  const std::vector<float> l = filtered({kTime}, logits(0), kTimed);
  ck_assert(allowed(l, kText) && !allowed(l, kTime) && !allowed(l, kTime + 1500));
}
END_TEST

START_TEST(after_text_and_a_timestamp_only_a_timestamp_or_the_end_follows) {
  const std::vector<float> l = filtered({kTime, kText, kTime + 30}, logits(0, {{kEot, 20}}), kTimed);
  ck_assert(!allowed(l, kText) && allowed(l, kEot));
  // The same time again opens the next segment; an earlier one does not.
  ck_assert(allowed(l, kTime + 30) && !allowed(l, kTime + 29));
}
END_TEST

START_TEST(a_segment_is_not_empty) {
  const std::vector<float> l = filtered({kTime, kText}, logits(0, {{kText, 20}}), kTimed);
  ck_assert(!allowed(l, kTime) && allowed(l, kTime + 1) && allowed(l, kText));
}
END_TEST

START_TEST(timestamps_that_outweigh_each_text_token_win) {
  // 1500 timestamps of equal weight against one text token: log(1500) = 7.31.
  ck_assert(!allowed(filtered({kTime, kText}, logits(-10, {{kText, -10 + 7.2f}}), kTimed), kText));
  const std::vector<float> base_logits = logits(-10);
  std::vector<float> l = base_logits;
  l[kText] = -10 + 7.4f;
  ck_assert(allowed(filtered({kTime, kText}, l, kTimed), kText));
}
END_TEST

int main() {
  base();  // loaded once, before Check forks
  Suite* suite = suite_create("decoder");
  TCase* text = tcase_create("text");
  tcase_add_test(text, text_without_timestamps_is_the_recorded_one);
  tcase_add_test(text, text_with_timestamps_is_the_recorded_one);
  tcase_add_test(text, a_window_full_of_speech_loops_as_recorded);
  tcase_add_test(text, the_silent_tail_ends_the_loop);
  tcase_add_test(text, text_after_a_forced_prefix_is_the_recorded_one);
  tcase_add_test(text, results_do_not_depend_on_the_number_of_threads);
  tcase_add_test(text, a_prefix_gives_the_state_that_sampling_it_gives);
  tcase_add_test(text, alignment_scores_are_the_recorded_ones);
  tcase_add_test(text, alignment_has_the_row_of_the_end_also_after_a_cap);
  tcase_add_test(text, language_probabilities_are_the_recorded_ones);
  tcase_add_test(text, five_beams_find_no_less_likely_text);
  tcase_add_test(text, a_beam_has_the_scores_that_its_text_has_alone);
  tcase_add_test(text, beams_do_not_depend_on_the_number_of_threads);
  tcase_add_test(text, sampling_allocates_nothing);
  tcase_add_test(text, sampling_at_a_temperature_repeats_itself_exactly);
  tcase_add_test(text, a_loop_is_decoded_again_at_the_next_temperature);
  tcase_add_test(text, a_loop_can_be_cut_at_its_sixth_copy);
  tcase_add_test(text, good_text_is_not_decoded_again);
  tcase_add_test(text, the_compression_ratio_is_bytes_by_zlib_bytes);
  tcase_add_test(text, an_interrupted_decode_throws_at_once);
  tcase_add_test(text, what_cannot_be_decoded_is_refused);
  tcase_add_test(text, of_a_long_prompt_the_last_223_tokens_are_used);
  tcase_add_test(text, the_context_is_never_exceeded);
  suite_add_tcase(suite, text);
  TCase* rules = tcase_create("rules");
  tcase_add_test(rules, control_tokens_and_symbols_are_never_allowed);
  tcase_add_test(rules, a_blank_and_the_end_are_not_allowed_first);
  tcase_add_test(rules, the_first_token_is_a_timestamp_up_to_the_limit);
  tcase_add_test(rules, after_the_opening_timestamp_text_follows);
  tcase_add_test(rules, after_text_and_a_timestamp_only_a_timestamp_or_the_end_follows);
  tcase_add_test(rules, a_segment_is_not_empty);
  tcase_add_test(rules, timestamps_that_outweigh_each_text_token_win);
  suite_add_tcase(suite, rules);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
