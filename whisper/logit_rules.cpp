#include "whisper/logit_rules.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/gemv.h"

namespace whisperxdna2 {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();
constexpr int kTimestamps = 1501;          // <|0.00|> to <|30.00|>
constexpr float kTimestampStep = 0.02f;    // seconds, whatever the audio context

}  // namespace

LogitRules::LogitRules(const Tokenizer& tokenizer, const LogitRuleOptions& options)
    : special_(tokenizer.special()),
      options_(options),
      always_(tokenizer.non_speech()),
      blank_(tokenizer.encode(" ")),
      n_vocab_(special_.timestamp_begin + kTimestamps) {
  always_.insert(always_.end(), {special_.transcribe, special_.translate, special_.sot, special_.sot_prev,
                                 special_.sot_lm, special_.no_speech, special_.no_timestamps});
  for (int i = 0; i < special_.n_languages; ++i) always_.push_back(special_.language_begin + i);
  blank_.push_back(special_.eot);
}

void LogitRules::apply(const std::vector<int>& sampled, float* logits) const {
  for (int id : always_) logits[id] = kNever;
  if (options_.suppress_blank && sampled.empty()) {
    for (int id : blank_) logits[id] = kNever;
  }
  if (options_.timestamps) {
    apply_timestamp_rules(sampled, logits);
  } else {
    std::fill(logits + special_.timestamp_begin, logits + n_vocab_, kNever);
  }
}

void LogitRules::apply_timestamp_rules(const std::vector<int>& sampled, float* logits) const {
  const int begin = special_.timestamp_begin;
  const size_t n = sampled.size();
  const bool last_is_time = n >= 1 && sampled[n - 1] >= begin;
  const bool before_is_time = n < 2 || sampled[n - 2] >= begin;
  // Timestamps come in pairs, except before the end.
  if (last_is_time && before_is_time) std::fill(logits + begin, logits + n_vocab_, kNever);
  if (last_is_time && !before_is_time) std::fill(logits, logits + special_.eot, kNever);

  // They never decrease, and a segment is not empty.
  const auto last = std::find_if(sampled.rbegin(), sampled.rend(), [&](int id) { return id >= begin; });
  if (last != sampled.rend()) {
    const int least = last_is_time && !before_is_time ? *last : *last + 1;
    std::fill(logits + begin, logits + std::min(least, n_vocab_), kNever);
  }
  if (n == 0) {
    std::fill(logits, logits + begin, kNever);
    const int most = begin + static_cast<int>(std::lround(options_.max_initial_timestamp / kTimestampStep));
    std::fill(logits + std::min(most + 1, n_vocab_), logits + n_vocab_, kNever);
  }

  // If all timestamps together are likelier than any text, one of them it is.
  const float times = gemv_kernels().log_sum_exp(logits + begin, n_vocab_ - begin);
  const float text = gemv_kernels().largest(logits, begin);
  if (times > text) std::fill(logits, logits + begin, kNever);
}

}  // namespace whisperxdna2
