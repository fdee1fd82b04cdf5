#include "whisper/decoder_search.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "kernels/cpu/gemv.h"

namespace whisperxdna2 {

void most_likely(const float* logits, int count, int most, std::vector<Candidate>* out) {
  constexpr int kBlock = 256;  // few blocks hold one of the best: the others are only glanced at
  const GemvKernels& kernels = gemv_kernels();
  out->clear();
  float least = -std::numeric_limits<float>::infinity();  // what must be exceeded
  for (int first = 0; first < count; first += kBlock) {
    const int n = std::min(kBlock, count - first);
    if (!(kernels.largest(logits + first, n) > least)) continue;
    for (int i = first; i < first + n; ++i) {
      if (!(logits[i] > least)) continue;
      const auto after =
          std::find_if(out->begin(), out->end(), [&](const Candidate& c) { return c.log_prob < logits[i]; });
      if (static_cast<int>(out->size()) < most) {
        out->insert(after, {i, logits[i]});
      } else {
        std::move_backward(after, out->end() - 1, out->end());
        *after = {i, logits[i]};
      }
      if (static_cast<int>(out->size()) == most) least = out->back().log_prob;
    }
  }
  const float total = kernels.log_sum_exp(logits, count);
  for (Candidate& c : *out) c.log_prob -= total;
}

BeamSearch::BeamSearch(int beams, int end_token, int most_tokens, int beginning)
    : beams_(beams),
      end_token_(end_token),
      most_tokens_(most_tokens),
      live_(beams),
      next_(beams),
      ended_(beams),
      next_slot_(beginning) {
  for (std::vector<Hypothesis>* some : {&live_, &next_, &ended_}) {
    for (Hypothesis& h : *some) {
      h.tokens.reserve(most_tokens);
      h.log_probs.reserve(most_tokens);
      h.slots.reserve(beginning + most_tokens);
    }
  }
  live_[0].slots.resize(beginning);
  std::iota(live_[0].slots.begin(), live_[0].slots.end(), 0);
  continuations_.reserve(static_cast<size_t>(beams) * (beams + 1));
}

bool BeamSearch::advance(const std::vector<std::vector<Candidate>>& candidates) {
  continuations_.clear();
  for (int i = 0; i < n_live_; ++i) {
    for (const Candidate& c : candidates[i]) continuations_.push_back({i, c, live_[i].sum + c.log_prob});
  }
  if (continuations_.empty()) return false;
  std::sort(continuations_.begin(), continuations_.end(), [](const Continuation& a, const Continuation& b) {
    if (a.sum != b.sum) return a.sum > b.sum;
    return a.from != b.from ? a.from < b.from : a.by.token < b.by.token;
  });
  int n_next = 0;
  for (const Continuation& c : continuations_) {
    if (n_next == beams_) break;
    const Hypothesis& from = live_[c.from];
    if (c.by.token == end_token_) {
      end(from, c.sum, true);
      continue;
    }
    Hypothesis& h = next_[n_next++];
    h = from;
    h.tokens.push_back(c.by.token);
    h.log_probs.push_back(c.by.log_prob);
    h.slots.push_back(next_slot_++);
    h.sum = c.sum;
  }
  live_.swap(next_);
  n_live_ = n_next;
  return n_ended_ < beams_ && n_live_ > 0 && static_cast<int>(live_[0].tokens.size()) < most_tokens_;
}

void BeamSearch::end(const Hypothesis& h, double sum, bool ended) {
  if (n_ended_ == beams_) return;
  Hypothesis& to = ended_[n_ended_++];
  to = h;
  to.sum = sum;
  to.ended = ended;
}

const Hypothesis& BeamSearch::best() {
  for (int i = 0; i < n_live_; ++i) end(live_[i], live_[i].sum, false);
  const auto mean = [](const Hypothesis& h) {
    return h.sum / static_cast<double>(std::max<size_t>(1, h.tokens.size()));
  };
  return *std::max_element(ended_.begin(), ended_.begin() + n_ended_,
                           [&](const Hypothesis& a, const Hypothesis& b) { return mean(a) < mean(b); });
}

bool repeats_itself(const std::vector<int>& tokens) {
  constexpr size_t kLongest = 16, kCopies = 6;
  for (size_t n = 1; n <= kLongest && n * kCopies <= tokens.size(); ++n) {
    if (std::equal(tokens.end() - static_cast<ptrdiff_t>(n * (kCopies - 1)), tokens.end(),
                   tokens.end() - static_cast<ptrdiff_t>(n * kCopies))) {
      return true;
    }
  }
  return false;
}

}  // namespace whisperxdna2
