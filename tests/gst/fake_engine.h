// A scripted stand-in for whisper/engine.cpp: the element's tests link it instead of the library.
//
// It "recognizes" test signals exactly: a run of samples of the constant value N/100 is the word "wN", spoken for as
// long as the run lasts; zeros are silence. Words that touch belong to one caption. Like the real engine it works in
// windows of audio_context * 320 samples, returns a caption when it is complete, and blocks push() while three windows
// wait. Everything that can go wrong or take long is set by the test.
#pragma once

#include <atomic>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "whisper/engine.h"
#include "whisper/error.h"

struct FakeEngine {
  static constexpr int kDModel = 8;

  std::atomic<int> load_ms{0};            // how long the constructor takes
  std::atomic<bool> load_ignores_cancel{false};
  std::atomic<bool> load_fails{false};
  std::atomic<int> load_error{0};         // an ErrorCode
  std::atomic<int> window_ms{0};          // how long next() works on a window
  std::atomic<int> fail_at_window{-1};    // next() throws kDevice at this window
  std::atomic<bool> never_answers{false};  // next() returns only when interrupted
  std::atomic<int> skips_window{-1};       // gives this window's audio up, which has waited for 11 s
  std::atomic<bool> no_durations{false};  // words end where they start
  std::atomic<int> alive{0}, made{0};     // engines
  std::atomic<int> silent_samples{0};     // taken by push_silence()

  std::mutex mutex;
  std::string detected_language = "en";   // where the language is "auto"
  std::vector<std::string> notices;
  whisperxdna2::EncoderInfo info;         // of every engine, at any time
  whisperxdna2::EngineOptions options;    // of the engine made last
  std::optional<whisperxdna2::LiveOptions> live;  // as set last
  std::string prompt;                     // as set last: initial prompt, "|", hotwords

  // Before each test.
  void reset();
};

extern FakeEngine fake;
