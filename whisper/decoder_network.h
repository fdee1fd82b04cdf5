// The arithmetic of Whisper's text decoder: one pass of some tokens through all blocks, with caches of keys and values.
// What the tokens are is decoder.h's business.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "kernels/cpu/f32_kernels.h"
#include "kernels/cpu/large_buffer.h"
#include "kernels/cpu/profile.h"
#include "kernels/cpu/steps.h"
#include "whisper/model.h"

namespace whisperxdna2 {

struct DecoderMatrix;
struct DecoderNorm;
struct DecoderWeights;

// Not thread-safe. The weights are shared by all decoders of a model.
//
// With `int8` every matrix has one scale per row and its inputs 14 bits (kernels/cpu/gemv.h); norms, softmax and the
// residual stream are f32, keys and values half precision. Otherwise matrices are as the model has them.
class DecoderNetwork final : private StepWork {
 public:
  // Throws Error(kInterrupted) soon after *cancel (may be null) became true.
  DecoderNetwork(std::shared_ptr<const Model> model, bool int8, int threads, const std::atomic<bool>* cancel);
  ~DecoderNetwork() override;

  // As Decoder::set_features().
  void set_features(const float* features, int positions, int content, const float* tail, int tail_rows);
  bool has_features() const { return cross_rows_ > 0; }
  int content() const { return content_; }

  // Makes room for passes of `rows` tokens, `projected` of them projected, and for `slots` tokens in the caches, with
  // or without a record of their alignment. Forgets what the caches hold.
  void reserve(int rows, int projected, int slots, bool alignment);

  // One token of a pass. It attends to the tokens in the slots history[0] .. history[position], of which the last one
  // is its own. Tokens of one pass may attend to those before them in it.
  struct Row {
    int token;
    int position;
    const int* history;
    bool record;  // keep its alignment
  };
  // Runs `count` rows; afterwards logits(i) are those of row projected[i].
  void run(const Row* rows, int count, const int* projected, int n_projected);
  float* logits(int i) { return &logits_[static_cast<size_t>(i) * dims_.n_vocab]; }
  // Cross-attention scores before the softmax of the recorded row in `slot`, [alignment heads][content].
  const float* alignment(int slot) const { return alignment_.data() + slot * alignment_size(); }
  size_t alignment_size() const { return model_->alignment_heads.size() * content_; }

 private:
  // Rows that a matrix is multiplied with.
  struct Input {
    std::vector<float> values;
    std::vector<int16_t> integers;  // int8 matrices only
    std::vector<float> unit;
  };
  enum Step { kSelf, kSelfOut, kCross, kCrossOut, kFc1, kFc2, kStepsPerLayer };

  int steps() const;
  int items(int step) const noexcept override;
  void item(int step, int i) noexcept override;
  void finish(int step) noexcept override;
  void between_steps(int step);
  void measure(int step);
  void attend_self(size_t layer, int head);
  void attend_cross(size_t layer, int head);
  void norm(const float* x, int count, const DecoderNorm& n, Input* to);
  void quantize(Input* input, int count, int width);
  void multiply(const DecoderMatrix& m, const Input& in, int count, int first, int last, float* y, ptrdiff_t stride,
                Epilogue epilogue) const;
  void keep(const float* rows, ptrdiff_t stride, int count, uint16_t* to) const;

  const std::shared_ptr<const Model> model_;
  const ModelDims dims_;
  const int d_;
  const int threads_;
  const std::shared_ptr<const DecoderWeights> weights_;
  std::vector<int> alignment_index_;  // [layer][head]: which alignment head it is, or -1

  // Half precision. Rows of one head lie together: [layer][head][keys, values][slot or row][kHeadWidth].
  LargeBuffer<uint16_t> self_cache_, cross_cache_;
  int slots_ = 0, cross_rows_ = 0, content_ = 0;
  LargeBuffer<float> alignment_;  // [slot][alignment head][content]

  // The pass at hand.
  const Row* rows_ = nullptr;
  const int* projected_ = nullptr;
  int count_ = 0, n_projected_ = 0;
  std::optional<ProfileScope> measured_;      // the step at hand
  std::vector<float> x_, query_, key_value_;  // [row][d], twice d
  Input normed_, mixed_, hidden_, last_;      // last_: the projected rows
  std::vector<float> scores_, weights_of_keys_;  // [head][longest cache]
  std::vector<float> logits_;                 // [projected][n_vocab]
};

}  // namespace whisperxdna2
