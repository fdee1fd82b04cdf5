// Beam search over scripted probabilities: what it keeps, when it ends, and what it prefers.
#include "whisper/decoder_search.h"

#include <check.h>

#include <cmath>
#include <functional>
#include <map>
#include <random>

using namespace whisperxdna2;

namespace {

constexpr int kEnd = 0;
using Tokens = std::vector<int>;
// Logits of what may follow some tokens.
using Script = std::function<std::vector<float>(const Tokens&)>;

Hypothesis search(const Script& script, int beams, int most, int beginning = 3) {
  BeamSearch s(beams, kEnd, most, beginning);
  std::vector<std::vector<Candidate>> candidates(beams);
  bool more = true;
  while (more) {
    for (int i = 0; i < s.live(); ++i) {
      const std::vector<float> logits = script(s.live(i).tokens);
      most_likely(logits.data(), static_cast<int>(logits.size()), beams + 1, &candidates[i]);
    }
    more = s.advance(candidates);
  }
  return s.best();
}

// Probabilities of tokens 0 (the end), 1, 2, ... after the given ones; after others, the end is certain.
Script probabilities(std::map<Tokens, std::vector<float>> table) {
  return [table = std::move(table)](const Tokens& tokens) {
    const auto entry = table.find(tokens);
    std::vector<float> logits = entry == table.end() ? std::vector<float>{1, 0, 0, 0} : entry->second;
    for (float& l : logits) l = l > 0 ? std::log(l) : -INFINITY;
    return logits;
  };
}

// Logits that are a function of the tokens, different for each seed, over `vocabulary` tokens.
Script random_script(unsigned seed, int vocabulary) {
  return [=](const Tokens& tokens) {
    std::seed_seq seeds(tokens.begin(), tokens.end());
    unsigned mixed[1];
    seeds.generate(mixed, mixed + 1);
    std::mt19937 random(mixed[0] + seed);
    std::normal_distribution<float> normal(0, 2);
    std::vector<float> logits(vocabulary);
    for (float& l : logits) l = normal(random);
    return logits;
  };
}

Hypothesis plain_greedy(const Script& script, int most) {
  Hypothesis h;
  while (static_cast<int>(h.tokens.size()) < most) {
    const std::vector<float> logits = script(h.tokens);
    size_t best = 0;
    double total = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      if (logits[i] > logits[best]) best = i;
      total += std::exp(static_cast<double>(logits[i]));
    }
    const double log_prob = logits[best] - std::log(total);
    h.sum += log_prob;
    if (best == kEnd) {
      h.ended = true;
      break;
    }
    h.tokens.push_back(static_cast<int>(best));
  }
  return h;
}

}  // namespace

START_TEST(the_likeliest_come_first_and_equals_in_order) {
  std::vector<float> logits(1000, -INFINITY);
  logits[3] = logits[700] = logits[256] = 1;
  logits[999] = 2;
  logits[255] = 0.5f;
  std::vector<Candidate> out;
  for (int most : {1, 2, 3, 4, 5, 9}) {
    most_likely(logits.data(), 1000, most, &out);
    const int wanted[] = {999, 3, 256, 700, 255};
    ck_assert_uint_eq(out.size(), std::min(most, 5));
    for (size_t i = 0; i < out.size(); ++i) ck_assert_int_eq(out[i].token, wanted[i]);
  }
  double total = 0;
  for (const Candidate& c : out) total += std::exp(static_cast<double>(c.log_prob));
  ck_assert_double_eq_tol(total, 1, 1e-6);
}
END_TEST

START_TEST(one_beam_is_greedy) {
  for (unsigned seed = 0; seed < 50; ++seed) {
    const Script script = random_script(seed, 40);
    const Hypothesis got = search(script, 1, 30), wanted = plain_greedy(script, 30);
    ck_assert(got.tokens == wanted.tokens && got.ended == wanted.ended);
    ck_assert_double_eq_tol(got.sum, wanted.sum, 1e-4);
  }
}
END_TEST

START_TEST(two_beams_find_what_greed_passes_by) {
  // Greedy takes 1 and is stuck with doubtful ones; 2 leads to certain ones.
  const Script script = probabilities({{{}, {0, 0.6f, 0.4f, 0}},
                                       {{1}, {0.3f, 0.25f, 0.25f, 0.2f}},
                                       {{2}, {0, 0, 0, 1}},
                                       {{2, 3}, {1, 0, 0, 0}}});
  ck_assert(search(script, 1, 10).tokens == (Tokens{1}));
  const Hypothesis h = search(script, 2, 10);
  ck_assert(h.tokens == (Tokens{2, 3}) && h.ended);
  ck_assert_double_eq_tol(h.sum, std::log(0.4), 1e-6);
}
END_TEST

START_TEST(of_the_ended_the_best_mean_wins) {
  // {1}: 0.5 in one token; {2, 3, 1}: 0.4 in three, the better mean.
  const Script script = probabilities({{{}, {0, 0.5f, 0.4f, 0.1f}},
                                       {{2}, {0, 0, 0, 1}},
                                       {{2, 3}, {0, 1, 0, 0}}});
  ck_assert(search(script, 1, 10).tokens == (Tokens{1}));
  const Hypothesis h = search(script, 2, 10);
  ck_assert(h.tokens == (Tokens{2, 3, 1}) && h.ended);
}
END_TEST

START_TEST(a_wide_beam_finds_the_best_of_all_texts) {
  // Four texts of up to two tokens of two kinds at each step: eight beams lose none.
  for (unsigned seed = 0; seed < 30; ++seed) {
    const Script script = random_script(seed, 3);
    const auto log_prob = [&](const Tokens& before, int token) {
      const std::vector<float> l = script(before);
      double total = 0;
      for (float x : l) total += std::exp(static_cast<double>(x));
      return l[token] - std::log(total);
    };
    double best = -1e9;
    Tokens wanted;
    const auto consider = [&](const Tokens& t, double sum) {
      const double mean = sum / static_cast<double>(std::max<size_t>(1, t.size()));
      if (mean > best) {
        best = mean;
        wanted = t;
      }
    };
    consider({}, log_prob({}, kEnd));
    for (int a : {1, 2}) {
      const double first = log_prob({}, a);
      consider({a}, first + log_prob({a}, kEnd));
      for (int b : {1, 2}) consider({a, b}, first + log_prob({a}, b));  // cut
    }
    ck_assert(search(script, 8, 2).tokens == wanted);
  }
}
END_TEST

START_TEST(a_text_that_does_not_end_is_cut) {
  const Script script = [](const Tokens&) { return std::vector<float>{-INFINITY, 1, 0, 0}; };
  for (int beams : {1, 3}) {
    const Hypothesis h = search(script, beams, 7);
    ck_assert(h.tokens == Tokens(7, 1) && !h.ended);
  }
}
END_TEST

START_TEST(without_candidates_nothing_follows) {
  const Hypothesis h = search([](const Tokens&) { return std::vector<float>(4, -INFINITY); }, 2, 7);
  ck_assert(h.tokens.empty() && !h.ended);
}
END_TEST

START_TEST(hypotheses_have_slots_of_their_own_and_share_their_past) {
  const int beams = 4, beginning = 5, most = 12;
  const Script script = random_script(3, 20);
  BeamSearch s(beams, kEnd, most, beginning);
  std::vector<std::vector<Candidate>> candidates(beams);
  std::map<int, Tokens> in_slot;  // the tokens up to it
  for (bool more = true; more;) {
    for (int i = 0; i < s.live(); ++i) {
      const std::vector<float> logits = script(s.live(i).tokens);
      most_likely(logits.data(), static_cast<int>(logits.size()), beams + 1, &candidates[i]);
    }
    more = s.advance(candidates);
    for (int i = 0; i < s.live(); ++i) {
      const Hypothesis& h = s.live(i);
      ck_assert_uint_eq(h.slots.size(), beginning + h.tokens.size());
      for (int p = 0; p < beginning; ++p) ck_assert_int_eq(h.slots[p], p);
      for (size_t n = 0; n + 1 < h.tokens.size(); ++n) {
        ck_assert(in_slot.at(h.slots[beginning + n]) == Tokens(h.tokens.begin(), h.tokens.begin() + n + 1));
      }
      ck_assert_int_lt(h.slots.back(), BeamSearch::slots(beams, most, beginning));
      ck_assert(in_slot.emplace(h.slots.back(), h.tokens).second);
    }
  }
}
END_TEST

START_TEST(six_copies_repeat_themselves) {
  const auto copies = [](int n, Tokens phrase) {
    Tokens all = {9, 9};
    for (int i = 0; i < n; ++i) all.insert(all.end(), phrase.begin(), phrase.end());
    return all;
  };
  ck_assert(repeats_itself(copies(6, {1})) && repeats_itself(copies(6, {1, 2, 3})) &&
            repeats_itself(copies(7, {4, 5})));
  ck_assert(!repeats_itself(copies(5, {1})) && !repeats_itself(copies(5, {1, 2, 3})) && !repeats_itself({}));
}
END_TEST

int main() {
  Suite* suite = suite_create("decoder_search");
  TCase* all = tcase_create("all");
  tcase_add_test(all, the_likeliest_come_first_and_equals_in_order);
  tcase_add_test(all, one_beam_is_greedy);
  tcase_add_test(all, two_beams_find_what_greed_passes_by);
  tcase_add_test(all, of_the_ended_the_best_mean_wins);
  tcase_add_test(all, a_wide_beam_finds_the_best_of_all_texts);
  tcase_add_test(all, a_text_that_does_not_end_is_cut);
  tcase_add_test(all, without_candidates_nothing_follows);
  tcase_add_test(all, hypotheses_have_slots_of_their_own_and_share_their_past);
  tcase_add_test(all, six_copies_repeat_themselves);
  suite_add_tcase(suite, all);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
