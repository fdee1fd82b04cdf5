// Beam search (openai/whisper whisper/decoding.py, BeamSearchDecoder with patience 1 and MaximumLikelihoodRanker
// without a length penalty) over candidates that somebody else computes. A beam of one is greedy decoding.
// Deterministic: of equally good candidates, that of the better hypothesis comes first, then that with the smaller id.
#pragma once

#include <vector>

namespace whisperxdna2 {

struct Candidate {
  int token;
  float log_prob;
};

// The `most` likeliest of the `count` logits, best first, with their log probabilities; fewer where the rest is minus
// infinity.
void most_likely(const float* logits, int count, int most, std::vector<Candidate>* out);

struct Hypothesis {
  std::vector<int> tokens;       // without the end
  std::vector<float> log_probs;  // of `tokens`
  double sum = 0;                // of all log probabilities, the end's included
  bool ended = false;            // the end was chosen
  // Where the keys and values of what it consists of are cached: one slot for each token of the beginning and of
  // `tokens`.
  std::vector<int> slots;
};

class BeamSearch {
 public:
  // beams: at least 1. most_tokens: a hypothesis is cut there. beginning: tokens before the sampled ones; they are in
  // slots 0, 1, ... Takes all memory that it needs.
  BeamSearch(int beams, int end_token, int most_tokens, int beginning);

  // Hypotheses to be continued, best first: one to begin with, later at most `beams`.
  int live() const { return n_live_; }
  const Hypothesis& live(int i) const { return live_[i]; }

  // Continues them with candidates[i] for live(i): the likeliest beams + 1 tokens (for one beam 1 will do), best first.
  // Each new live hypothesis has a new slot at the end. Returns whether there is more to do: not when `beams`
  // hypotheses have ended, nor at most_tokens or without any candidate.
  bool advance(const std::vector<std::vector<Candidate>>& candidates);

  // Whether `beams` hypotheses have ended: best() is one of them.
  bool complete() const { return n_ended_ == beams_; }

  // Of those that have ended, and the best live ones where fewer than `beams` have, the one with the greatest mean log
  // probability of its tokens (the end's is in the sum but not in the count). What follows is undefined.
  const Hypothesis& best();

  // Slots that a search may use.
  static int slots(int beams, int most_tokens, int beginning) { return beginning + beams * most_tokens; }

 private:
  struct Continuation {
    int from;
    Candidate by;
    double sum;
  };
  void end(const Hypothesis& h, double sum, bool ended);

  const int beams_, end_token_, most_tokens_;
  std::vector<Hypothesis> live_, next_, ended_;
  int n_live_ = 1, n_ended_ = 0;
  int next_slot_;
  std::vector<Continuation> continuations_;
};

// Whether the text ends in six copies of an n-gram of up to 16 tokens.
bool repeats_itself(const std::vector<int>& tokens);

}  // namespace whisperxdna2
