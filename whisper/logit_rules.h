// Which tokens may be sampled next (openai/whisper whisper/decoding.py, SuppressBlank, SuppressTokens,
// ApplyTimestampRules).
#pragma once

#include <vector>

#include "whisper/tokenizer.h"

namespace whisperxdna2 {

struct LogitRuleOptions {
  bool suppress_blank = true;
  bool timestamps = false;
  float max_initial_timestamp = 1.0f;  // seconds
};

class LogitRules {
 public:
  LogitRules(const Tokenizer& tokenizer, const LogitRuleOptions& options);

  // Sets the logits ([n_vocab]) of what may not follow `sampled` (without prompt and prefix) to minus infinity.
  void apply(const std::vector<int>& sampled, float* logits) const;

 private:
  void apply_timestamp_rules(const std::vector<int>& sampled, float* logits) const;

  SpecialTokens special_;
  LogitRuleOptions options_;
  std::vector<int> always_;  // never sampled
  std::vector<int> blank_;   // never first
  int n_vocab_;
};

}  // namespace whisperxdna2
