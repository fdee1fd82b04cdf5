#include <check.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "dsp/voice_activity.h"
#include "tests/npy.h"

using namespace whisperxdna2;

namespace {

std::vector<float> speech(const std::string& name) {
  const Npy<int16_t> clip = load_npy<int16_t>("dsp/" + name + ".npy");
  std::vector<float> signal(clip.data.begin(), clip.data.end());
  for (float& sample : signal) sample /= 32768;
  return signal;
}

std::vector<float> probabilities_of(const std::vector<float>& signal) {
  VoiceActivity voice;
  std::vector<float> probabilities;
  voice.push(signal.data(), signal.size(), &probabilities);
  voice.drain(&probabilities);
  return probabilities;
}

// onnxruntime running Silero's own file (see tests/data/dsp/README.md). Single precision in another
// order of summation: a recurrent network carries the difference on, but it stays below 1e-4 on
// these clips.
void assert_reference(const std::vector<float>& signal, const std::string& name) {
  const Npy<float> expected = load_npy<float>("dsp/" + name + "_voice.npy");
  const std::vector<float> got = probabilities_of(signal);
  ck_assert_uint_eq(got.size(), expected.data.size());
  for (size_t i = 0; i < got.size(); ++i)
    ck_assert_msg(std::fabs(got[i] - expected.data[i]) <= 1e-4f, "hop %zu: %.6f, not %.6f", i,
                  got[i], expected.data[i]);
}

void assert_same(const std::vector<float>& a, const std::vector<float>& b) {
  ck_assert_uint_eq(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i)
    ck_assert_msg(a[i] == b[i], "value %zu: %.9g is not %.9g", i, a[i], b[i]);
}

std::vector<SpeechInterval> intervals_of(const std::vector<float>& probabilities,
                                         const SpeechRules& rules, int64_t samples) {
  SpeechSegmenter segmenter(rules);
  for (float probability : probabilities) segmenter.push(probability);
  segmenter.drain(samples);
  return segmenter.take_finished();
}

// 60 scripts of probabilities with the intervals that Silero's Python makes of them.
struct Script {
  std::vector<float> probabilities;
  SpeechRules rules;
  int64_t samples;
  std::vector<SpeechInterval> expected;
};

std::vector<Script> load_scripts() {
  const Npy<float> probabilities = load_npy<float>("dsp/segmenter_probabilities.npy");
  const Npy<int32_t> rules = load_npy<int32_t>("dsp/segmenter_rules.npy");
  const Npy<int32_t> intervals = load_npy<int32_t>("dsp/segmenter_intervals.npy");
  ck_assert_int_eq(probabilities.shape[0], 60);
  ck_assert_int_eq(rules.shape[0], 60);
  std::vector<Script> scripts(60);
  for (int i = 0; i < 60; ++i) {
    const int64_t hops = probabilities.shape[1];
    const float* p = &probabilities.data[i * hops];
    const int32_t* r = &rules.data[i * 6];
    scripts[i].probabilities.assign(p, p + hops);
    scripts[i].rules = {r[0] / 1000.0f, r[1] / 1000.0f, r[2], r[3], r[4]};
    scripts[i].samples = r[5];
  }
  for (size_t i = 0; i < intervals.data.size(); i += 3)
    scripts.at(intervals.data[i])
        .expected.push_back({intervals.data[i + 1], intervals.data[i + 2]});
  return scripts;
}

}  // namespace

START_TEST(public_address_has_the_probabilities_of_the_reference) {
  assert_reference(speech("jfk"), "jfk");
}
END_TEST

START_TEST(read_speech_has_the_probabilities_of_the_reference) {
  assert_reference(speech("libri_1272-128104-0000"), "libri_1272-128104-0000");
}
END_TEST

START_TEST(music_has_the_probabilities_of_the_reference) {
  assert_reference(speech("vibe_ace"), "vibe_ace");
}
END_TEST

START_TEST(bird_has_the_probabilities_of_the_reference) {
  assert_reference(speech("robin"), "robin");
}
END_TEST

START_TEST(silence_has_the_probabilities_of_the_reference) {
  assert_reference(std::vector<float>(32000), "silence");
}
END_TEST

START_TEST(noise_has_the_probabilities_of_the_reference) {
  std::vector<float> noise(80000);
  uint32_t x = 1;
  for (float& sample : noise) {
    x = x * 1664525 + 1013904223;
    sample = std::floor((static_cast<int>(x >> 16) - 32768) / 16.0f) / 32768;
  }
  assert_reference(noise, "noise");
}
END_TEST

// ggml-org/whisper.cpp, tests/test-vad.cpp, for the same network and rules.
START_TEST(public_address_has_four_segments_as_in_whisper_cpp) {
  const std::vector<float> signal = speech("jfk");
  const std::vector<float> probabilities = probabilities_of(signal);
  ck_assert_uint_eq(probabilities.size(), 344);
  ck_assert_uint_eq(intervals_of(probabilities, SpeechRules(), signal.size()).size(), 4);
}
END_TEST

START_TEST(chunk_sizes_do_not_change_the_probabilities) {
  const std::vector<float> signal = speech("libri_1272-128104-0000");
  const std::vector<float> expected = probabilities_of(signal);
  std::mt19937 random(1);
  std::uniform_int_distribution<int64_t> size(0, 2000);
  VoiceActivity voice;
  std::vector<float> probabilities;
  for (int64_t at = 0, end = signal.size(); at < end;) {
    const int64_t count = std::min(size(random), end - at);
    voice.push(signal.data() + at, count, &probabilities);
    at += count;
    ck_assert_int_eq(probabilities.size(), at / kVoiceHop);
  }
  voice.drain(&probabilities);
  assert_same(probabilities, expected);
}
END_TEST

START_TEST(drain_and_reset_start_a_new_stream) {
  const std::vector<float> signal = speech("libri_1272-128104-0000");
  const std::vector<float> expected = probabilities_of(signal);
  VoiceActivity voice;
  for (bool drain : {true, false}) {
    std::vector<float> probabilities;
    voice.push(signal.data(), 20000, &probabilities);
    if (drain)
      voice.drain(&probabilities);
    else
      voice.reset();
    probabilities.clear();
    voice.push(signal.data(), signal.size(), &probabilities);
    voice.drain(&probabilities);
    assert_same(probabilities, expected);
  }
}
END_TEST

START_TEST(drain_adds_nothing_to_whole_hops) {
  VoiceActivity voice;
  std::vector<float> probabilities;
  const std::vector<float> signal(2 * kVoiceHop);
  voice.push(signal.data(), signal.size(), &probabilities);
  voice.drain(&probabilities);
  ck_assert_uint_eq(probabilities.size(), 2);
  voice.drain(&probabilities);
  ck_assert_uint_eq(probabilities.size(), 2);
}
END_TEST

START_TEST(broken_samples_are_not_remembered) {
  std::vector<float> broken = speech("jfk"), repaired = broken;
  const float values[] = {std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity(), 1e30f};
  const float meant[] = {0, 1, -1, 1};
  for (int i = 0; i < 4; ++i) {
    broken[10000 + 100 * i] = values[i];
    repaired[10000 + 100 * i] = meant[i];
  }
  assert_same(probabilities_of(broken), probabilities_of(repaired));
}
END_TEST

START_TEST(streams_in_several_threads_do_not_disturb_each_other) {
  const std::vector<float> signal = speech("libri_1272-128104-0000");
  std::vector<std::vector<float>> results(4);
  std::vector<std::thread> threads;
  for (auto& result : results) threads.emplace_back([&] { result = probabilities_of(signal); });
  for (std::thread& thread : threads) thread.join();
  for (const auto& result : results) assert_same(result, probabilities_of(signal));
}
END_TEST

START_TEST(scripts_give_the_intervals_of_the_reference) {
  for (const Script& script : load_scripts()) {
    const auto got = intervals_of(script.probabilities, script.rules, script.samples);
    ck_assert_uint_eq(got.size(), script.expected.size());
    for (size_t i = 0; i < got.size(); ++i) {
      ck_assert_int_eq(got[i].begin, script.expected[i].begin);
      ck_assert_int_eq(got[i].end, script.expected[i].end);
    }
  }
}
END_TEST

START_TEST(what_is_said_while_listening_holds_in_the_end) {
  for (const Script& script : load_scripts()) {
    SpeechSegmenter segmenter(script.rules);
    std::vector<SpeechInterval> finished;
    int64_t silent_until = 0;
    for (float probability : script.probabilities) {
      segmenter.push(probability);
      for (const SpeechInterval& interval : segmenter.take_finished()) finished.push_back(interval);
      ck_assert_int_ge(segmenter.silent_until(), silent_until);
      silent_until = segmenter.silent_until();
      // The next interval of the whole stream, if any, is the one announced and begins in what is
      // not yet silence.
      const bool more = finished.size() < script.expected.size();
      if (more) ck_assert_int_le(silent_until, script.expected[finished.size()].begin);
      if (const auto since = segmenter.speaking_since()) {
        ck_assert(more);
        ck_assert_int_eq(*since, script.expected[finished.size()].begin);
      }
    }
    segmenter.drain(script.samples);
    for (const SpeechInterval& interval : segmenter.take_finished()) finished.push_back(interval);
    ck_assert_uint_eq(finished.size(), script.expected.size());
    ck_assert(!segmenter.speaking_since());
    ck_assert_int_eq(segmenter.silent_until(), script.samples);
  }
}
END_TEST

START_TEST(silence_is_known_up_to_the_padding) {
  SpeechSegmenter segmenter{SpeechRules()};
  for (int i = 1; i <= 100; ++i) {
    segmenter.push(0.01f);
    ck_assert_int_eq(segmenter.silent_until(), i * kVoiceHop - SpeechRules().padding);
  }
}
END_TEST

START_TEST(speech_is_announced_when_it_is_long_enough) {
  SpeechSegmenter segmenter{SpeechRules()};
  for (int i = 0; i < 10; ++i) segmenter.push(0.01f);
  // Eight hops are 4096 samples, the first whole number of hops above 250 ms.
  for (int i = 0; i < 8; ++i) {
    segmenter.push(0.99f);
    ck_assert(!segmenter.speaking_since());
  }
  segmenter.push(0.99f);
  ck_assert(segmenter.speaking_since() == 10 * kVoiceHop - SpeechRules().padding);
}
END_TEST

START_TEST(speech_is_finished_when_the_silence_is_long_enough) {
  SpeechSegmenter segmenter{SpeechRules()};
  for (int i = 0; i < 20; ++i) segmenter.push(0.99f);
  // Of the silence that begins with hop 20 more than 100 ms must have passed before a hop: 4 hops.
  for (int i = 0; i < 4; ++i) {
    segmenter.push(0.01f);
    ck_assert(segmenter.take_finished().empty());
  }
  segmenter.push(0.01f);
  const auto finished = segmenter.take_finished();
  ck_assert_uint_eq(finished.size(), 1);
  ck_assert_int_eq(finished[0].begin, 0);
  ck_assert_int_eq(finished[0].end, 20 * kVoiceHop + SpeechRules().padding);
}
END_TEST

START_TEST(probability_between_the_thresholds_keeps_what_is) {
  std::vector<float> probabilities(20, 0.45f);
  ck_assert(intervals_of(probabilities, SpeechRules(), 20 * kVoiceHop).empty());
  probabilities[0] = 0.9f;
  const auto intervals = intervals_of(probabilities, SpeechRules(), 20 * kVoiceHop);
  ck_assert_uint_eq(intervals.size(), 1);
  ck_assert_int_eq(intervals[0].end, 20 * kVoiceHop);
}
END_TEST

START_TEST(padding_does_not_reach_beyond_the_stream) {
  SpeechRules rules;
  rules.min_silence = 0;
  rules.padding = 128;
  std::vector<float> probabilities(20, 0.9f);
  probabilities.push_back(0.1f);  // of a hop that the stream ends 50 samples into
  const int64_t end = 20 * kVoiceHop + 50;
  const auto intervals = intervals_of(probabilities, rules, end);
  ck_assert_uint_eq(intervals.size(), 1);
  ck_assert_int_eq(intervals[0].end, end);
}
END_TEST

START_TEST(segmenter_reset_starts_a_new_stream) {
  const Script script = load_scripts()[0];
  SpeechSegmenter segmenter(script.rules);
  for (int i = 0; i < 100; ++i) segmenter.push(0.9f);
  segmenter.reset();
  ck_assert_int_le(segmenter.silent_until(), 0);
  for (float probability : script.probabilities) segmenter.push(probability);
  segmenter.drain(script.samples);
  const auto finished = segmenter.take_finished();
  ck_assert_uint_eq(finished.size(), script.expected.size());
  ck_assert_int_eq(finished[0].begin, script.expected[0].begin);
}
END_TEST

int main() {
  Suite* suite = suite_create("voice_activity");
  TCase* network = tcase_create("network");
  tcase_add_test(network, public_address_has_the_probabilities_of_the_reference);
  tcase_add_test(network, read_speech_has_the_probabilities_of_the_reference);
  tcase_add_test(network, music_has_the_probabilities_of_the_reference);
  tcase_add_test(network, bird_has_the_probabilities_of_the_reference);
  tcase_add_test(network, silence_has_the_probabilities_of_the_reference);
  tcase_add_test(network, noise_has_the_probabilities_of_the_reference);
  tcase_add_test(network, public_address_has_four_segments_as_in_whisper_cpp);
  tcase_add_test(network, chunk_sizes_do_not_change_the_probabilities);
  tcase_add_test(network, drain_and_reset_start_a_new_stream);
  tcase_add_test(network, drain_adds_nothing_to_whole_hops);
  tcase_add_test(network, broken_samples_are_not_remembered);
  tcase_add_test(network, streams_in_several_threads_do_not_disturb_each_other);
  suite_add_tcase(suite, network);
  TCase* segmenter = tcase_create("segmenter");
  tcase_add_test(segmenter, scripts_give_the_intervals_of_the_reference);
  tcase_add_test(segmenter, what_is_said_while_listening_holds_in_the_end);
  tcase_add_test(segmenter, silence_is_known_up_to_the_padding);
  tcase_add_test(segmenter, speech_is_announced_when_it_is_long_enough);
  tcase_add_test(segmenter, speech_is_finished_when_the_silence_is_long_enough);
  tcase_add_test(segmenter, probability_between_the_thresholds_keeps_what_is);
  tcase_add_test(segmenter, padding_does_not_reach_beyond_the_stream);
  tcase_add_test(segmenter, segmenter_reset_starts_a_new_stream);
  suite_add_tcase(suite, segmenter);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
