// The caption policies, driven by a scripted recognizer: no model, no audio.
#include <check.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <functional>
#include <random>
#include <string>

#include "whisper/captions.h"

using namespace whisperxdna2;

namespace {

constexpr double kRate = 16000.0;

struct Script {
  std::vector<Word> words;  // what is truly said
  int64_t samples = 0;
};

// Words of 0.1 to 0.6 s with pauses, each with a text and a token of its own.
Script make_script(std::mt19937& random, double seconds) {
  std::uniform_real_distribution<double> duration(0.1, 0.6), chance(0, 1);
  Script s;
  s.samples = static_cast<int64_t>(seconds * kRate);
  double t = chance(random);
  while (true) {
    Word w;
    w.start = t;
    w.end = t + duration(random);
    if (w.end > seconds - 0.05) break;
    const int n = static_cast<int>(s.words.size());
    w.text = "w" + std::to_string(n);
    w.tokens = {n};
    w.probability = 0.9f;
    s.words.push_back(w);
    t = w.end + (chance(random) < 0.15 ? 0.3 + 2 * chance(random) : 0.02);
    if (chance(random) < 0.02) t += 15 * chance(random);
  }
  return s;
}

// Recognizes what lies wholly in the window after the forced prefix; a word cut by the right edge comes out garbled, as
// a real decoder does it. Times are off by up to `jitter` seconds.
struct ScriptedRecognizer {
  const Script& script;
  std::mt19937& random;
  double jitter;
  double loop_chance = 0;
  float probability = 0.9f;
  int calls = 0;

  Recognition operator()(const AudioWindow& window, int positions, const std::vector<int>& prefix) {
    ++calls;
    std::uniform_real_distribution<double> off(-jitter, jitter), chance(0, 1);
    const double from = window.first / kRate;
    const double to = std::min(window.end() / kRate, from + positions * 0.02);
    const int after = prefix.empty() ? -1 : prefix.back();
    Recognition r;
    for (const Word& w : script.words) {
      if (w.tokens[0] <= after || w.start < from - 0.01 || w.start > to - 0.05) continue;
      Word heard = w;
      heard.probability = probability;
      heard.start = std::clamp(w.start + off(random), from, to) - from;
      heard.end = std::clamp(w.end + off(random), heard.start + from, to) - from;
      if (w.end > to) heard.text += "~";
      r.words.push_back(heard);
    }
    if (positions == 512 && chance(random) < loop_chance) r.ended = false;
    return r;
  }
};

// A signal that is loud during words and nowhere else.
struct ScriptedSignal : Signal {
  explicit ScriptedSignal(const Script& s) : script(s) {}

  // The first word that ends after `time`.
  std::vector<Word>::const_iterator after(double time) const {
    return std::upper_bound(script.words.begin(), script.words.end(), time,
                            [](double t, const Word& w) { return t < w.end; });
  }
  double spoken(double from, double to) const {
    double sum = 0;
    for (auto w = after(from); w != script.words.end() && w->start < to; ++w) {
      sum += std::min(w->end, to) - std::max(w->start, from);
    }
    return sum;
  }
  int64_t quietest(int64_t from, int64_t to) const override {
    int64_t best = from;
    double least = 1e9;
    for (int64_t c = from; c <= to; c += 160) {
      const double loud = spoken(c / kRate - 0.08, c / kRate + 0.08);
      if (loud < least - 1e-6) {  // rounding decides nothing
        least = loud;
        best = c;
      }
    }
    return best;
  }
  double speech(int64_t from, int64_t to) const override { return spoken(from / kRate, to / kRate); }
  int64_t voice_begin(int64_t from, int64_t to) const override {
    const auto w = after(from / kRate);
    return w == script.words.end() || w->start * kRate >= to ? to : std::max<int64_t>(from, w->start * kRate);
  }
  int64_t voice_end(int64_t from, int64_t to) const override {
    auto w = after(to / kRate);
    if (w == script.words.end() || w->start * kRate >= to) {
      if (w == script.words.begin()) return from;
      --w;
    }
    return std::max<int64_t>(from, std::min<int64_t>(to, w->end * kRate));
  }

  const Script& script;
};

using OnDecision = std::function<void(const AudioWindow&, const CaptionPolicy::Decision&)>;

// Runs a policy over the script as the engine would: audio arrives in pieces, up to `ahead` windows are planned before
// the oldest is decided.
std::vector<Word> run(CaptionPolicy& policy, const Script& script, ScriptedRecognizer& recognizer, std::mt19937& random,
                      size_t ahead, int* windows, const OnDecision& on_decision = {}) {
  std::vector<Word> out;
  std::deque<AudioWindow> queue;
  const ScriptedSignal signal(script);
  std::uniform_int_distribution<int64_t> piece(1, 40000);
  int64_t available = 0;
  bool ended = false;
  while (true) {
    while (queue.size() < ahead) {
      const auto w = policy.plan(available, ended, signal);
      if (!w) break;
      ck_assert_int_ge(w->first, policy.needed_from());
      ck_assert_int_gt(w->count, 0);
      ck_assert_int_le(w->end(), available);
      queue.push_back(*w);
    }
    if (queue.size() < ahead && !ended) {
      available = std::min(script.samples, available + piece(random));
      ended = available == script.samples;
      continue;
    }
    if (queue.empty()) return out;
    const AudioWindow w = queue.front();
    queue.pop_front();
    ++*windows;
    ck_assert_int_lt(*windows, 10000);
    const auto d = policy.decide(
        w,
        [&](int positions, const std::vector<int>& prefix) {
          ck_assert(!w.silent);
          return recognizer(w, positions, prefix);
        },
        signal);
    if (d.replan) queue.clear();
    if (on_decision) on_decision(w, d);
    out.insert(out.end(), d.words.begin(), d.words.end());
  }
}

void check_every_word_once(const Script& script, const std::vector<Word>& words) {
  ck_assert_uint_eq(words.size(), script.words.size());
  for (size_t i = 0; i < words.size(); ++i) {
    ck_assert_str_eq(words[i].text.c_str(), script.words[i].text.c_str());
    ck_assert(std::fabs(words[i].start - script.words[i].start) < 0.2);
  }
}

Recognition said(const std::vector<std::string>& texts, double seconds_per_word, float probability = 0.9f) {
  Recognition r;
  double t = 0;
  for (const std::string& text : texts) {
    Word w;
    w.text = text;
    w.start = t;
    w.end = t += seconds_per_word;
    w.probability = probability;
    r.words.push_back(w);
  }
  return r;
}

Word word(const std::string& text, double start, double end) {
  Word w;
  w.text = text;
  w.start = start;
  w.end = end;
  w.probability = 0.5f;
  return w;
}

}  // namespace

START_TEST(short_windows_return_every_word_once) {
  for (int seed = 0; seed < 400; ++seed) {
    std::mt19937 random(seed);
    const Script script = make_script(random, 5 + seed % 90);
    ScriptedRecognizer recognizer{script, random, 0.03};
    const auto policy = make_short_window_policy(512);
    int windows = 0;
    check_every_word_once(script, run(*policy, script, recognizer, random, 1 + seed % 3, &windows));
  }
}
END_TEST

START_TEST(plan_does_not_depend_on_how_audio_arrives_or_how_far_ahead_it_is) {
  for (int seed = 0; seed < 100; ++seed) {
    std::mt19937 random(seed);
    const Script script = make_script(random, 60);
    std::vector<std::vector<Word>> outcomes;
    for (size_t ahead = 1; ahead <= 3; ++ahead) {
      std::mt19937 same(seed);  // the recognizer's errors must not differ
      ScriptedRecognizer recognizer{script, same, 0};
      const auto policy = make_short_window_policy(512);
      int windows = 0;
      std::mt19937 pieces(seed * 10 + static_cast<int>(ahead));
      outcomes.push_back(run(*policy, script, recognizer, pieces, ahead, &windows));
    }
    for (const auto& o : outcomes) check_every_word_once(script, o);
  }
}
END_TEST

START_TEST(loops_cost_a_second_decode_but_no_word) {
  int calls = 0, windows = 0;
  for (int seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    const Script script = make_script(random, 60);
    ScriptedRecognizer recognizer{script, random, 0.02, 0.3};
    const auto policy = make_short_window_policy(512);
    check_every_word_once(script, run(*policy, script, recognizer, random, 2, &windows));
    calls += recognizer.calls;
  }
  ck_assert_int_gt(calls, windows + windows / 5);
}
END_TEST

START_TEST(a_passed_over_sentence_is_heard_in_a_shorter_window) {
  // Full windows hear nothing of the first five seconds.
  int passed_over = 0;
  for (int seed = 0; seed < 50; ++seed) {
    std::mt19937 random(seed);
    const Script script = make_script(random, 60);
    ScriptedRecognizer honest{script, random, 0};
    const ScriptedSignal signal(script);
    const auto policy = make_short_window_policy(512);
    std::vector<Word> words;
    while (const auto w = policy->plan(script.samples, true, signal)) {
      const auto d = policy->decide(
          *w,
          [&](int positions, const std::vector<int>& prefix) {
            Recognition r = honest(*w, positions, prefix);
            const auto late = std::find_if(r.words.begin(), r.words.end(), [](const Word& x) { return x.start > 5; });
            double lost = 0;
            for (auto x = r.words.begin(); x != late; ++x) lost += x->end - x->start;
            if (positions == 512 && prefix.empty() && late != r.words.end() && lost > 2) {
              r.words.erase(r.words.begin(), late);
              ++passed_over;
            }
            return r;
          },
          signal);
      words.insert(words.end(), d.words.begin(), d.words.end());
    }
    check_every_word_once(script, words);
  }
  ck_assert_int_gt(passed_over, 25);
}
END_TEST

START_TEST(a_prefix_that_silences_the_recognizer_is_dropped) {
  for (int seed = 0; seed < 50; ++seed) {
    std::mt19937 random(seed);
    const Script script = make_script(random, 60);
    ScriptedRecognizer honest{script, random, 0};
    const ScriptedSignal signal(script);
    const auto policy = make_short_window_policy(512);
    std::vector<Word> words;
    while (const auto w = policy->plan(script.samples, true, signal)) {
      const auto d = policy->decide(
          *w,
          [&](int positions, const std::vector<int>& prefix) {
            return prefix.empty() ? honest(*w, positions, prefix) : Recognition();
          },
          signal);
      words.insert(words.end(), d.words.begin(), d.words.end());
    }
    // Less speech than makes a decode doubtful may be lost, and a word at the cut; sentences may not.
    double lost_since = 0;
    for (const Word& w : words) {
      ck_assert(signal.spoken(lost_since, w.start - 0.01) < 2.5);
      lost_since = w.end;
    }
  }
}
END_TEST

START_TEST(windows_advance_by_seven_seconds_of_speech_or_more) {
  std::mt19937 random(1);
  const Script script = make_script(random, 600);
  ScriptedRecognizer recognizer{script, random, 0.02};
  const auto policy = make_short_window_policy(512);
  int windows = 0;
  run(*policy, script, recognizer, random, 2, &windows);
  ck_assert_int_le(windows, 600 / 6);
}
END_TEST

START_TEST(a_stream_without_words_ends) {
  std::mt19937 random(1);
  Script script;
  script.samples = 60 * 16000;
  ScriptedRecognizer recognizer{script, random, 0};
  for (int positions : {64, 512, 750}) {
    const auto policy = make_short_window_policy(positions);
    int windows = 0;
    ck_assert(run(*policy, script, recognizer, random, 2, &windows).empty());
    ck_assert_int_eq(policy->settled(), script.samples);
  }
}
END_TEST

START_TEST(short_windows_of_other_lengths_return_every_word_once) {
  for (int positions : {256, 750, 1499}) {
    for (int seed = 0; seed < 50; ++seed) {
      std::mt19937 random(seed);
      const Script script = make_script(random, 90);
      ScriptedRecognizer recognizer{script, random, 0.02};
      const auto policy = make_short_window_policy(positions);
      int windows = 0;
      check_every_word_once(script, run(*policy, script, recognizer, random, 2, &windows));
    }
  }
}
END_TEST

START_TEST(long_windows_continue_where_the_recognizer_says) {
  Script script;
  script.samples = 100 * 16000;
  std::vector<double> starts;
  const auto policy = make_long_window_policy();
  script.words = {word("speech", 0, 100)};
  const ScriptedSignal unused(script);
  while (const auto w = policy->plan(script.samples, true, unused)) {
    starts.push_back(w->first / kRate);
    ck_assert(!policy->plan(script.samples, true, unused));  // one at a time
    policy->decide(
        *w,
        [](int positions, const std::vector<int>& prefix) {
          ck_assert_int_eq(positions, 1500);
          ck_assert(prefix.empty());
          Recognition r;
          r.resume = 24.5;
          return r;
        },
        unused);
  }
  ck_assert_uint_eq(starts.size(), 5);
  ck_assert_double_eq_tol(starts[4], 98.0, 1e-9);
  ck_assert_int_eq(policy->settled(), script.samples);
}
END_TEST

START_TEST(live_captions_return_every_word_once_and_in_time) {
  for (int seed = 0; seed < 300; ++seed) {
    std::mt19937 random(seed);
    const Script script = make_script(random, 5 + seed % 90);
    ScriptedRecognizer recognizer{script, random, 0.03};
    LiveOptions options;
    options.hop = 0.5 + 0.25 * (seed % 5);
    const auto policy = make_live_policy(options);
    int windows = 0;
    double latest = 0;
    const auto words = run(*policy, script, recognizer, random, 1, &windows,
                           [&](const AudioWindow& w, const CaptionPolicy::Decision& d) {
                             for (const Word& word : d.words) latest = std::max(latest, w.end() / kRate - word.end);
                           });
    check_every_word_once(script, words);
    ck_assert(latest <= options.deadline + 0.1);
  }
}
END_TEST

START_TEST(live_captions_survive_loops_and_unsure_words) {
  for (int seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    const Script script = make_script(random, 60);
    ScriptedRecognizer recognizer{script, random, 0.03, 0.2};
    recognizer.probability = 0.3f;
    const auto policy = make_live_policy({});
    int windows = 0;
    check_every_word_once(script, run(*policy, script, recognizer, random, 1, &windows));
  }
}
END_TEST

namespace {

// What a live recognizer may do wrong: cut words and words close to the live edge come out as something else each time,
// without confidence; decodes loop; a forced prefix silences it, or is echoed; without one, it makes a word of the end
// of another, and may hear nothing else.
struct Unreliable {
  ScriptedRecognizer honest;
  double misheard = 0.3, loop = 0.1, silenced = 0.05, echoed = 0.1, repeated = 0.5, stuck = 0.5;

  Recognition operator()(const AudioWindow& window, int positions, const std::vector<int>& prefix) {
    std::uniform_real_distribution<double> chance(0, 1);
    Recognition r = honest(window, positions, prefix);
    if (!prefix.empty() && chance(honest.random) < silenced) r.words.clear();
    if (!prefix.empty() && chance(honest.random) < echoed) {
      const size_t count = std::min<size_t>(prefix.size(), 1 + honest.random() % 3);
      const double end = honest.script.words[prefix.back()].end - window.first / kRate;
      for (size_t i = 0; i < count; ++i) {
        Word again = honest.script.words[prefix[prefix.size() - 1 - i]];
        again.start = again.end = end;
        again.probability = chance(honest.random) < 0.5 ? 0.3f : 0.8f;
        r.words.insert(r.words.begin(), again);
      }
    }
    for (const Word& w : honest.script.words) {
      const double from = window.first / kRate;
      if (!prefix.empty() || w.start > from - 0.01 || w.end < from - 0.05 || chance(honest.random) > repeated) continue;
      Word again = w;
      again.start = 0;
      again.end = std::max(0.05, w.end - from);
      r.words.insert(r.words.begin(), again);
      if (w.end > from + 0.05 && chance(honest.random) < stuck) r.words.resize(1);
    }
    for (Word& w : r.words) {
      const bool close = w.end > window.count / kRate - 0.45;
      if ((close && !window.last && chance(honest.random) < misheard) || w.text.back() == '~') {
        w.text = "?" + std::to_string(++honest.calls);
        w.probability = 0.4f;
      }
    }
    if (!r.words.empty() && chance(honest.random) < loop) {
      const Word last = r.words.back();
      for (int i = 0; i < 6; ++i) r.words.push_back(last);
      for (size_t i = r.words.size() - 6; i < r.words.size(); ++i) r.words[i].start = r.words[i].end = last.end;
    }
    return r;
  }
};

}  // namespace

START_TEST(ten_thousand_live_scripts_keep_every_word_once_in_order_and_in_time) {
  int forced = 0, retried = 0;
  for (int seed = 0; seed < 10000; ++seed) {
    std::mt19937 random(seed);
    const Script script = make_script(random, 3 + seed % 37);
    Unreliable recognizer{{script, random, 0.03}};
    LiveOptions options;
    options.hop = 0.5 + 0.25 * (seed % 4);
    const auto policy = make_live_policy(options);
    const ScriptedSignal signal(script);
    std::vector<Word> words;
    int64_t available = 0, settled = 0;
    double latest = 0;
    for (bool ended = false; !ended;) {
      available = std::min(script.samples, available + 1600);
      ended = available == script.samples;
      while (const auto w = policy->plan(available, ended, signal)) {
        const auto d = policy->decide(
            *w, [&](int positions, const std::vector<int>& prefix) { return recognizer(*w, positions, prefix); },
            signal);
        for (const Word& word : d.words) latest = std::max(latest, available / kRate - word.end);
        words.insert(words.end(), d.words.begin(), d.words.end());
        ck_assert_int_ge(policy->settled(), settled);
        settled = policy->settled();
        forced += d.forced;
        retried += d.retried;
        ck_assert_int_eq(static_cast<int>(d.overload), static_cast<int>(Overload::kNone));
      }
    }
    check_every_word_once(script, words);
    for (size_t i = 1; i < words.size(); ++i) ck_assert(words[i].start >= words[i - 1].start - 0.1);
    ck_assert_msg(latest <= options.deadline + 0.1, "seed %d: %.2f s", seed, latest);
  }
  ck_assert_int_gt(retried, 10000);
  ck_assert_int_gt(forced, 0);
}
END_TEST

START_TEST(words_that_are_said_twice_are_kept) {
  Script script;
  for (int i = 0; i < 20; ++i) {
    Word w = word(i % 4 < 2 ? "no" : "well", 1 + 0.4 * i, 1.3 + 0.4 * i);
    w.tokens = {i};
    script.words.push_back(w);
  }
  script.samples = 10 * 16000;
  for (const float probability : {0.3f, 0.9f}) {
    std::mt19937 random(1);
    ScriptedRecognizer recognizer{script, random, 0.02};
    recognizer.probability = probability;
    const auto policy = make_live_policy({});
    int windows = 0;
    check_every_word_once(script, run(*policy, script, recognizer, random, 1, &windows));
  }
}
END_TEST

// Time passes while a window is decoded: `cost` seconds.
START_TEST(a_slow_machine_does_less_but_keeps_every_word_and_a_bounded_delay) {
  struct {
    double cost;
    Overload least, most;
    double delay;
  } const machines[] = {{0.8, Overload::kNone, Overload::kNone, 5.2},
                        {1.3, Overload::kLongerHop, Overload::kNoPartials, 7},
                        {2.9, Overload::kNoPartials, Overload::kOneDecode, 13},
                        {5.5, Overload::kOneDecode, Overload::kOneDecode, 25}};
  for (const auto& machine : machines) {
    for (int seed = 0; seed < 50; ++seed) {
      std::mt19937 random(seed);
      const Script script = make_script(random, 120);
      ScriptedRecognizer recognizer{script, random, 0.03};
      recognizer.probability = 0.5f;
      const auto policy = make_live_policy({});
      const ScriptedSignal signal(script);
      std::vector<Word> words;
      double now = 0, latest = 0;
      Overload most = Overload::kNone;
      for (bool ended = false; !ended;) {
        now += 0.1;
        const auto available = std::min(script.samples, static_cast<int64_t>(now * kRate));
        ended = available == script.samples;
        while (const auto w =
                   policy->plan(std::min(script.samples, static_cast<int64_t>(now * kRate)), ended, signal)) {
          const auto d = policy->decide(
              *w,
              [&](int positions, const std::vector<int>& prefix) {
                now += machine.cost;
                return recognizer(*w, positions, prefix);
              },
              signal);
          for (const Word& word : d.words) latest = std::max(latest, now - word.end);
          words.insert(words.end(), d.words.begin(), d.words.end());
          most = std::max(most, d.overload);
          if (d.overload >= Overload::kNoPartials) ck_assert(d.partial.empty());
        }
      }
      check_every_word_once(script, words);
      ck_assert_int_le(static_cast<int>(most), static_cast<int>(machine.most));
      if (seed == 0) ck_assert_int_ge(static_cast<int>(most), static_cast<int>(machine.least));
      ck_assert_msg(latest <= machine.delay, "cost %.1f, seed %d: %.2f s", machine.cost, seed, latest);
    }
  }
}
END_TEST

START_TEST(skipped_audio_is_gone_and_the_rest_is_heard) {
  for (int seed = 0; seed < 100; ++seed) {
    std::mt19937 random(seed);
    const Script script = make_script(random, 60);
    ScriptedRecognizer recognizer{script, random, 0};
    const auto policy = make_live_policy({});
    const ScriptedSignal signal(script);
    std::vector<Word> words;
    for (int64_t available = 1600; available <= script.samples; available += 1600) {
      if (available == 30 * 16000) {
        const std::vector<Word> heard = policy->skip(available);
        words.insert(words.end(), heard.begin(), heard.end());
        available += 10 * 16000;
        policy->skip(available);
        ck_assert_int_eq(policy->settled(), available);
      }
      while (const auto w = policy->plan(available, available == script.samples, signal)) {
        if (w->end() > 41 * 16000) ck_assert_int_ge(w->first, 40 * 16000);
        const auto d = policy->decide(
            *w, [&](int positions, const std::vector<int>& prefix) { return recognizer(*w, positions, prefix); },
            signal);
        words.insert(words.end(), d.words.begin(), d.words.end());
      }
    }
    double end = 0;
    for (const Word& w : words) {
      ck_assert(w.start < 30.1 || w.start > 39.9);
      ck_assert(w.start >= end - 0.01);
      end = w.start;
    }
    for (const Word& w : script.words) {
      if ((w.end > 28.3 && w.start < 40.1) || w.end > 59) continue;  // not decoded yet, or skipped
      ck_assert(std::any_of(words.begin(), words.end(), [&](const Word& x) { return x.text == w.text; }));
    }
  }
}
END_TEST

START_TEST(words_are_cut_to_their_voice) {
  Script script;
  script.words = {word("a", 2.0, 2.4), word("b", 3.0, 3.5)};
  const ScriptedSignal signal(script);
  Word w = word("a", 0.0, 2.9);
  fit_to_voice(&w, signal);
  ck_assert_double_eq_tol(w.start, 1.94, 1e-3);
  ck_assert_double_eq_tol(w.end, 2.5, 1e-3);
  w = word("inside", 3.1, 3.3);
  fit_to_voice(&w, signal);
  ck_assert_double_eq_tol(w.start, 3.1, 1e-9);
  ck_assert_double_eq_tol(w.end, 3.3, 1e-9);
  w = word("unvoiced", 2.6, 2.8);
  fit_to_voice(&w, signal);
  ck_assert_double_eq_tol(w.start, 2.6, 1e-9);
  ck_assert_double_eq_tol(w.end, 2.8, 1e-9);
}
END_TEST

START_TEST(words_that_nobody_can_have_said_are_invented) {
  Script script;
  script.words = {word("voice", 2.0, 2.6)};
  const ScriptedSignal signal(script);
  const auto invented = [&](const std::string& text, double start, double speech, float probability = 0.9f,
                            bool continues = false) {
    Word w = word(text, start, start + 0.3);
    w.probability = probability;
    return is_invented({w}, speech, continues, signal);
  };
  ck_assert(invented("hello", 5.0, 3.0));        // no voice there
  ck_assert(!invented("hello", 2.1, 0.6));
  ck_assert(invented("Music", 2.1, 0.6));
  ck_assert(invented("Music", 2.1, 3.0));        // sung
  ck_assert(!invented("music.", 2.1, 0.6, 0.9f, true));  // somebody talks about it
  ck_assert(!invented("Okay.", 2.1, 0.6));       // is said
  ck_assert(invented("Okay.", 2.1, 0.6, 0.3f));
  ck_assert(!invented("okay.", 2.1, 0.6, 0.3f, true));
  ck_assert(invented("hello", 2.1, 3.0, 0.05f));
  ck_assert(!invented("hello", 2.1, 3.0, 0.2f));
  ck_assert(invented("\u266a", 2.1, 0.6));
  ck_assert(!is_invented({}, 0, false, signal));
}
END_TEST

START_TEST(a_language_is_locked_when_windows_agree_and_may_change_with_the_next_segment) {
  LanguageLock lock;
  ck_assert(lock.open(0));
  ck_assert_int_eq(lock.language(), -1);
  lock.hear(0, {0.4f, 0.6f});
  ck_assert_int_eq(lock.language(), 1);
  lock.hear(0, {0.9f, 0.1f});   // 1.3 : 0.7
  ck_assert_int_eq(lock.language(), 0);
  lock.hear(0, {0.9f, 0.1f});
  ck_assert(lock.open(0));      // two agree
  lock.hear(0, {0.8f, 0.2f});
  ck_assert(!lock.open(0));
  // The next segment must sound clearly like another one.
  ck_assert(lock.open(7));
  lock.hear(7, {0.4f, 0.6f});
  ck_assert_int_eq(lock.language(), 0);
  lock.hear(9, {0.1f, 0.9f});
  ck_assert_int_eq(lock.language(), 1);
}
END_TEST

START_TEST(live_windows_never_exceed_the_encoder) {
  std::mt19937 random(5);
  const Script script = make_script(random, 200);
  ScriptedRecognizer recognizer{script, random, 0.02};
  const auto policy = make_live_policy({});
  int windows = 0;
  run(*policy, script, recognizer, random, 1, &windows,
      [](const AudioWindow& w, const CaptionPolicy::Decision&) { ck_assert_int_le(w.count, 512 * 320); });
  ck_assert_int_ge(windows, 60);
}
END_TEST

namespace {

// Speech is sure when it has lasted a while.
struct LateSignal : ScriptedSignal {
  LateSignal(const Script& s, double shortest) : ScriptedSignal(s), min_speech(shortest) {}

  double speech(int64_t from, int64_t to) const override {
    double sum = 0;
    for (auto w = after(from / kRate); w != script.words.end() && w->start + min_speech < to / kRate; ++w) {
      sum += std::min(w->end, to / kRate) - std::max(w->start, from / kRate);
    }
    return sum;
  }

  const double min_speech;
};

}  // namespace

START_TEST(live_windows_hold_what_came_before_speech_was_sure) {
  for (const double min_speech : {0.1, 0.25, 1.0, 3.0}) {
    for (const double padding : {0.0, 0.15, 2.0}) {
      for (double start = 10; start < 11; start += 0.13) {
        Script script;
        script.words = {word("long", start, start + 5)};
        script.samples = 20 * 16000;
        LiveOptions options;
        options.onset = min_speech + padding;
        const auto policy = make_live_policy(options);
        const LateSignal signal(script, min_speech);
        int64_t first = -1;
        for (int64_t available = 1600; first < 0; available += 1600) {
          ck_assert_int_le(available, script.samples);
          while (const auto w = policy->plan(available, false, signal)) {
            if (!w->silent) {
              first = w->first;
              break;
            }
            policy->decide(*w, {}, signal);
          }
        }
        ck_assert_double_le(first / kRate, start - padding + 0.01);
        ck_assert_double_ge(first / kRate, start - padding - options.hop - 0.01);
      }
    }
  }
}
END_TEST

START_TEST(echo_in_doubt_and_in_no_time_is_a_loop) {
  size_t first = 0;
  Recognition r = said({"one's", "brother's", "brother's", "brother"}, 0.4, 0.4f);
  ck_assert(!is_loop(r, &first));
  r.words[2].end = r.words[2].start + 0.05;
  ck_assert(is_loop(r, &first));
  ck_assert_uint_eq(first, 2);
  for (Word& w : r.words) w.probability = 0.9f;
  ck_assert(!is_loop(r, &first));
}
END_TEST

START_TEST(repetition_at_speaking_speed_is_speech) {
  size_t first = 0;
  ck_assert(!is_loop(said({"words,", "words,", "words,", "words"}, 0.4), &first));
}
END_TEST

START_TEST(fast_repetition_is_a_loop_and_the_first_copy_is_known) {
  size_t first = 0;
  ck_assert(is_loop(said({"he", "said", "I", "am", "I", "am", "I", "am"}, 0.05), &first));
  ck_assert_uint_eq(first, 4);
}
END_TEST

START_TEST(long_words_take_longer) {
  size_t first = 0;
  ck_assert(is_loop(said({"brother's", "brother's", "brother's"}, 0.3), &first));
  ck_assert(!is_loop(said({"no", "no", "no"}, 0.3), &first));
}
END_TEST

START_TEST(doubtful_repetition_is_a_loop) {
  size_t first = 0;
  ck_assert(is_loop(said({"one's", "brother's", "brother's", "brother's"}, 0.4, 0.4f), &first));
  ck_assert_uint_eq(first, 2);
}
END_TEST

START_TEST(six_copies_are_a_loop_at_any_speed) {
  size_t first = 0;
  ck_assert(is_loop(said({"no", "No,", "no.", "no", "no", "NO"}, 0.5), &first));
  ck_assert_uint_eq(first, 1);
}
END_TEST

START_TEST(a_decode_that_hits_the_cap_is_a_loop) {
  Recognition r = said({"one", "two"}, 0.3);
  r.ended = false;
  size_t first = 0;
  ck_assert(is_loop(r, &first));
  ck_assert_uint_eq(first, 2);
}
END_TEST

START_TEST(captions_end_with_sentences) {
  SegmentShaper shaper;
  std::vector<Segment> out;
  shaper.add({word("Mr.", 0, 0.2), word("Quilter", 0.2, 0.6), word("speaks.", 0.6, 1.0), word("Then", 1.1, 1.3)}, &out);
  ck_assert_uint_eq(out.size(), 1);
  ck_assert_str_eq(out[0].text.c_str(), "Mr. Quilter speaks.");
  ck_assert_double_eq_tol(*shaper.held_since(), 1.1, 1e-9);
  shaper.finish(&out);
  ck_assert_uint_eq(out.size(), 2);
  ck_assert(!shaper.held_since());
  ck_assert_float_eq_tol(out[0].confidence, 0.5f, 1e-5f);
}
END_TEST

START_TEST(captions_fit_two_lines_and_seven_seconds) {
  std::mt19937 random(3);
  SegmentShaper shaper;
  std::vector<Segment> out;
  Script script = make_script(random, 300);
  shaper.add(script.words, &out);
  shaper.finish(&out);
  size_t words = 0;
  double last = 0;
  for (const Segment& s : out) {
    ck_assert_uint_le(s.text.size(), 84);
    ck_assert(s.end - s.start <= 7.01);
    ck_assert(s.start >= last && s.end > s.start);
    last = s.end;
    words += s.words.size();
  }
  ck_assert_uint_eq(words, script.words.size());
}
END_TEST

START_TEST(captions_never_part_a_word) {
  SegmentShaper shaper;
  std::vector<Segment> out;
  std::vector<Word> words;
  for (int i = 0; i < 60; ++i) {
    Word w = word(i % 2 ? "-operation" : "co", i * 0.3, i * 0.3 + 0.3);
    w.space_before = i % 2 == 0;
    words.push_back(w);
  }
  shaper.add(words, &out);
  shaper.finish(&out);
  ck_assert_uint_gt(out.size(), 2);
  for (const Segment& s : out) {
    ck_assert(s.words.front().space_before);
    ck_assert_str_eq(s.words.back().text.c_str(), "-operation");
  }
}
END_TEST

START_TEST(a_long_sentence_leaves_a_caption_worth_reading) {
  SegmentShaper shaper;
  std::vector<Segment> out;
  double t = 0;
  std::vector<Word> words;
  for (const char* text : {"All",   "that", "they", "had",    "left", "in", "the",   "cellar", "of",  "the",
                           "house", "was",  "a",    "barrel", "full", "of", "tins,", "bread",  "and", "water."}) {
    words.push_back(word(text, t, t + 0.2));
    t += 0.22;
  }
  shaper.add(words, &out);
  ck_assert_uint_eq(out.size(), 2);
  ck_assert_str_eq(out[0].text.c_str(), "All that they had left in the cellar of the house was a barrel");
  ck_assert_str_eq(out[1].text.c_str(), "full of tins, bread and water.");
}
END_TEST

START_TEST(wide_characters_take_two_columns) {
  SegmentShaper shaper;
  std::vector<Segment> out;
  std::vector<Word> words;
  for (int i = 0; i < 60; ++i) {
    Word w = word("\u5e7f", i * 0.1, i * 0.1 + 0.1);
    w.space_before = false;
    words.push_back(w);
  }
  shaper.add(words, &out);
  shaper.finish(&out);
  ck_assert_uint_eq(out.size(), 2);
  ck_assert_uint_le(out[0].words.size(), 42);
  ck_assert_uint_ge(out[1].words.size(), 10);
}
END_TEST

START_TEST(a_mark_of_its_own_joins_the_word_before) {
  SegmentShaper shaper;
  std::vector<Segment> out;
  shaper.add({word("corpus", 0, 0.3), word(".", 0.3, 0.4), word("Next", 0.5, 0.8)}, &out);
  ck_assert_uint_eq(out.size(), 1);
  ck_assert_str_eq(out[0].text.c_str(), "corpus.");
  SegmentShaper single(true);
  out.clear();
  single.add({word("corpus", 0, 0.3), word(".", 0.3, 0.4), word("\u2014", 0.4, 0.5)}, &out);
  ck_assert_uint_eq(out.size(), 1);
}
END_TEST

START_TEST(a_pause_ends_a_caption) {
  SegmentShaper shaper;
  std::vector<Segment> out;
  shaper.add({word("and", 0, 0.3), word("then", 2.0, 2.3)}, &out);
  ck_assert_uint_eq(out.size(), 1);
  ck_assert_str_eq(out[0].text.c_str(), "and");
}
END_TEST

START_TEST(text_written_without_spaces_is_joined) {
  SegmentShaper shaper;
  std::vector<Segment> out;
  Word a = word("\u5e7f", 0, 0.2), b = word("\u5dde", 0.2, 0.4);
  a.space_before = b.space_before = false;
  shaper.add({a, b}, &out);
  shaper.finish(&out);
  ck_assert_str_eq(out[0].text.c_str(), "\u5e7f\u5dde");
}
END_TEST

START_TEST(captions_never_overlap_whatever_the_word_times) {
  std::mt19937 random(9);
  std::uniform_real_distribution<double> off(-0.5, 0.5);
  SegmentShaper shaper;
  std::vector<Segment> out;
  std::vector<Word> words;
  for (int i = 0; i < 500; ++i) {
    const double t = std::max(0.0, i * 0.3 + off(random));
    words.push_back(word(i % 7 ? "x" : "y.", t, t + std::max(0.0, off(random))));
  }
  shaper.add(words, &out);
  shaper.finish(&out);
  double last = 0;
  for (const Segment& s : out) {
    ck_assert(s.start >= last);
    ck_assert(s.end > s.start);
    last = s.end;
    for (size_t i = 0; i < s.words.size(); ++i) {
      ck_assert(s.words[i].end > s.words[i].start);
      if (i > 0) ck_assert(s.words[i].start >= s.words[i - 1].end);
    }
  }
}
END_TEST

int main() {
  Suite* suite = suite_create("captions");
  TCase* policy = tcase_create("policy");
  tcase_set_timeout(policy, 240);
  tcase_add_test(policy, short_windows_return_every_word_once);
  tcase_add_test(policy, plan_does_not_depend_on_how_audio_arrives_or_how_far_ahead_it_is);
  tcase_add_test(policy, loops_cost_a_second_decode_but_no_word);
  tcase_add_test(policy, a_passed_over_sentence_is_heard_in_a_shorter_window);
  tcase_add_test(policy, a_prefix_that_silences_the_recognizer_is_dropped);
  tcase_add_test(policy, windows_advance_by_seven_seconds_of_speech_or_more);
  tcase_add_test(policy, a_stream_without_words_ends);
  tcase_add_test(policy, short_windows_of_other_lengths_return_every_word_once);
  tcase_add_test(policy, long_windows_continue_where_the_recognizer_says);
  suite_add_tcase(suite, policy);
  tcase_add_test(policy, live_captions_return_every_word_once_and_in_time);
  tcase_add_test(policy, live_captions_survive_loops_and_unsure_words);
  tcase_add_test(policy, ten_thousand_live_scripts_keep_every_word_once_in_order_and_in_time);
  tcase_add_test(policy, words_that_are_said_twice_are_kept);
  tcase_add_test(policy, a_slow_machine_does_less_but_keeps_every_word_and_a_bounded_delay);
  tcase_add_test(policy, skipped_audio_is_gone_and_the_rest_is_heard);
  tcase_add_test(policy, words_are_cut_to_their_voice);
  tcase_add_test(policy, words_that_nobody_can_have_said_are_invented);
  tcase_add_test(policy, a_language_is_locked_when_windows_agree_and_may_change_with_the_next_segment);
  tcase_add_test(policy, live_windows_never_exceed_the_encoder);
  tcase_add_test(policy, live_windows_hold_what_came_before_speech_was_sure);
  TCase* loops = tcase_create("loops");
  tcase_add_test(loops, repetition_at_speaking_speed_is_speech);
  tcase_add_test(loops, fast_repetition_is_a_loop_and_the_first_copy_is_known);
  tcase_add_test(loops, echo_in_doubt_and_in_no_time_is_a_loop);
  tcase_add_test(loops, long_words_take_longer);
  tcase_add_test(loops, doubtful_repetition_is_a_loop);
  tcase_add_test(loops, six_copies_are_a_loop_at_any_speed);
  tcase_add_test(loops, a_decode_that_hits_the_cap_is_a_loop);
  suite_add_tcase(suite, loops);
  TCase* shaping = tcase_create("shaping");
  tcase_add_test(shaping, captions_end_with_sentences);
  tcase_add_test(shaping, captions_fit_two_lines_and_seven_seconds);
  tcase_add_test(shaping, captions_never_part_a_word);
  tcase_add_test(shaping, a_long_sentence_leaves_a_caption_worth_reading);
  tcase_add_test(shaping, wide_characters_take_two_columns);
  tcase_add_test(shaping, a_mark_of_its_own_joins_the_word_before);
  tcase_add_test(shaping, a_pause_ends_a_caption);
  tcase_add_test(shaping, text_written_without_spaces_is_joined);
  tcase_add_test(shaping, captions_never_overlap_whatever_the_word_times);
  suite_add_tcase(suite, shaping);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? 0 : 1;
}
