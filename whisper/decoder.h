// Whisper's text decoder: cross attention over encoder features, KV cache, logit rules, fallback.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "whisper/cpu_encoder.h"
#include "whisper/model.h"

namespace whisperxdna2 {

struct DecodeOptions {
  int language = -1;            // id of a language token; ignored by English-only models
  bool translate = false;       // to English
  bool timestamps = false;      // sample timestamp tokens and apply their rules
  std::vector<int> prompt;      // text before the start token (startofprev); at most 223 ids are used, the last ones
  std::vector<int> prefix;      // text that must begin the result; not sampled, computed in one batch
  int max_new_tokens = 224;     // cap by the caller, who knows the duration
  float max_initial_timestamp = 1.0f;  // seconds
  // Hypotheses followed at once; 1 is greedy decoding. Only at temperature 0 (decoder_search.h).
  int beam_size = 1;
  bool suppress_blank = true;   // forbid a blank or an end as the first sampled token
  // Temperatures tried in turn while the result looks like a failure. {0} = plain greedy.
  std::vector<float> temperatures = {0.0f};
  float compression_ratio_limit = 2.4f;
  float log_prob_limit = -1.0f;
  // End, as if at the cap, when the text repeats its last n-gram of up to 16 tokens for the sixth time: a decode that
  // does will not end by itself.
  bool stop_at_loop = false;
  bool alignment = false;       // record the cross attention that word times are made from
  const std::atomic<bool>* interrupted = nullptr;  // polled at every token; Error(kInterrupted) when it becomes true
};

struct DecodeResult {
  std::vector<int> tokens;      // sampled ids without the prefix and without the end token; timestamps where asked for
  std::vector<float> log_probs; // of each of `tokens`
  bool ended = false;           // an end token was sampled (not cut by a cap or a loop)
  float mean_log_prob = 0;      // sum / (tokens + 1), the end token included
  float no_speech_prob = 0;     // softmax of the unfiltered logits at the start token
  float compression_ratio = 0;  // UTF-8 bytes / zlib bytes of the text
  float temperature = 0;        // the one that gave this result
  // With DecodeOptions::alignment: cross-attention scores before the softmax,
  // [alignment heads][prefix + tokens + 1 rows][content positions]; row i is the query that predicts token i (the last
  // row predicts the end).
  std::vector<float> alignment;
  int alignment_rows = 0;
};

// Not thread-safe: one per engine. The weights are shared through the model.
class Decoder {
 public:
  // kF32: the matrices as the model has them (f32, f16, bf16). Otherwise int8, made here (a tenth of a second for
  // base). threads: 0 = as many as there are processors. Results do not depend on it. Throws Error(kInterrupted) soon
  // after *cancel (may be null) became true.
  explicit Decoder(std::shared_ptr<const Model> model, Precision precision = Precision::kAuto, int threads = 0,
                   const std::atomic<bool>* cancel = nullptr);
  ~Decoder();
  Decoder(Decoder&&) noexcept;

  // Computes the cross-attention keys and values of all layers for `positions` rows of `features` [positions][d_model]
  // followed by `tail_rows` rows of `tail` (the virtual silent tail; may be 0). `content` is how many of the positions
  // hold audio: the rest and the tail take part in attention but not in the alignment. Copies what it needs.
  void set_features(const float* features, int positions, int content, const float* tail, int tail_rows);

  // Decodes the features last set. Throws Error: kInterrupted; kInvalidUse for a prefix that leaves no room, for ids
  // that are not in the vocabulary or for no language on a multilingual model.
  DecodeResult decode(const DecodeOptions& options);

  // Probability of each language, [n_languages], from one pass with the start token alone over the features last set.
  std::vector<float> detect_language();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace whisperxdna2
