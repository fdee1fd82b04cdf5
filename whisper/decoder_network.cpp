#include "whisper/decoder_network.h"

#include <algorithm>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/f32_kernels.h"
#include "kernels/cpu/gemv.h"
#include "kernels/cpu/linear.h"
#include "whisper/prepared.h"

namespace whisperxdna2 {
namespace {

constexpr char kStopped[] = "preparing the decoder was stopped";

}  // namespace

struct DecoderNorm {
  explicit DecoderNorm(const LayerNorm& n) : gain(n.gain.to_f32()), bias(n.bias.to_f32()) {}
  std::vector<float> gain, bias;
};

struct DecoderMatrix {
  DecoderMatrix() = default;
  explicit DecoderMatrix(const Tensor& t) : stored(&t) {
    w.type = t.dtype == DType::kF32 ? MatrixType::kF32 : t.dtype == DType::kF16 ? MatrixType::kF16 : MatrixType::kBF16;
    w.data = t.data;
    w.out = t.shape[0];
    w.in = t.shape[1];
  }
  explicit DecoderMatrix(const Linear& l) : DecoderMatrix(l.weight) {
    if (l.bias) bias = l.bias.to_f32();
  }
  MatrixView w;
  const Tensor* stored = nullptr;
  std::vector<float> bias;  // may be empty
};

namespace {

constexpr float kQueryScale = 0.125f;  // 1 / sqrt(kHeadWidth)
constexpr int kFeatureRows = 96;       // of the encoder at once: they stay in the second cache

size_t element_bytes(const MatrixView& w) {
  return w.type == MatrixType::kInt8 ? 1 : w.type == MatrixType::kF32 ? 4 : 2;
}

// Outputs of an item: enough bytes of the matrix to be worth a thread's while, and enough items for several threads.
int outputs_per_item(const MatrixView& w) {
  const size_t row = w.in * element_bytes(w);
  const size_t bytes = std::clamp<size_t>(w.out * row / 8, size_t{16} << 10, size_t{128} << 10);
  return std::max(1, static_cast<int>(bytes / row / kInt8PanelRows)) * kInt8PanelRows;
}

int items_of(const MatrixView& w) {
  const int per_item = outputs_per_item(w);
  return (w.out + per_item - 1) / per_item;
}

// Keys and values of the encoder's output in f32, [2 d][d], keys first.
PackedLinear pack_cross(const Attention& a, int d) {
  std::vector<float> weight = a.key.weight.to_f32();
  std::vector<float> bias = a.key.bias ? a.key.bias.to_f32() : std::vector<float>(d, 0.0f);
  const std::vector<float> value = a.value.weight.to_f32(), value_bias = a.value.bias.to_f32();
  weight.insert(weight.end(), value.begin(), value.end());
  bias.insert(bias.end(), value_bias.begin(), value_bias.end());
  return PackedLinear(weight.data(), bias.data(), 2 * d, d);
}

struct Block {
  explicit Block(const DecoderLayer& l)
      : self_norm(l.self_norm),
        cross_norm(l.cross_norm),
        mlp_norm(l.mlp_norm),
        query(l.self_attention.query),
        key(l.self_attention.key),
        value(l.self_attention.value),
        out(l.self_attention.out),
        cross_query(l.cross_attention.query),
        cross_key(l.cross_attention.key),
        cross_value(l.cross_attention.value),
        cross_out(l.cross_attention.out),
        fc1(l.fc1),
        fc2(l.fc2) {}
  DecoderNorm self_norm, cross_norm, mlp_norm;
  DecoderMatrix query, key, value, out, cross_query, cross_key, cross_value, cross_out, fc1, fc2;
  PackedLinear cross_key_value;  // instead of cross_key and cross_value, where they are not int8
};

}  // namespace

// Points into the model where matrices are not int8.
struct DecoderWeights {
  DecoderWeights(const Model& m, bool to_int8, int threads, const std::atomic<bool>* cancel)
      : int8(to_int8),
        held(to_int8 ? nullptr : m.hold_decoder_weights()),
        embedding(m.token_embedding),
        positions(m.decoder_positions.to_f32()),
        norm(m.decoder_norm) {
    for (const DecoderLayer& l : m.decoder_layers) blocks.emplace_back(l);
    if (int8) {
      pack(threads, cancel);
    } else {
      for (size_t i = 0; i < blocks.size(); ++i) {
        blocks[i].cross_key_value = pack_cross(m.decoder_layers[i].cross_attention, m.dims.d_model);
      }
    }
  }

  const bool int8;
  const std::shared_ptr<const void> held;  // the model's matrices in memory
  DecoderMatrix embedding;  // also the projection to logits
  std::vector<float> positions;
  std::vector<Block> blocks;
  DecoderNorm norm;

 private:
  void pack(int threads, const std::atomic<bool>* cancel) {
    std::vector<DecoderMatrix*> matrices;
    for (Block& b : blocks) {
      for (DecoderMatrix* m : {&b.query, &b.key, &b.value, &b.out, &b.cross_query, &b.cross_key, &b.cross_value,
                               &b.cross_out, &b.fc1, &b.fc2}) {
        matrices.push_back(m);
      }
    }
    matrices.push_back(&embedding);
    size_t bytes = 0, rows = 0;
    for (const DecoderMatrix* m : matrices) {
      bytes += int8_panel_bytes(m->w.out, m->w.in);
      rows += m->w.out;
    }
    panels = LargeBuffer<int8_t>(bytes);
    scales.resize(rows);

    int8_t* to = panels.data();
    float* scale = scales.data();
    for (DecoderMatrix* m : matrices) {
      const int out = m->w.out, in = m->w.in;
      // From the file and in pieces: the wider form of all the matrices is never in memory.
      m->stored->each_chunk([&](int64_t first, int64_t count, const float* values) {
        if (cancel && *cancel) throw Error(ErrorCode::kInterrupted, kStopped);
        const int row = static_cast<int>(first / in);
        const MatrixView chunk{MatrixType::kF32, values, static_cast<int>(count / in), in};
        const int n = (chunk.out + kInt8PanelRows - 1) / kInt8PanelRows;
        constexpr int kPanelsOfPart = 4;
        ThreadPool::instance().parallel_for(threads, (n + kPanelsOfPart - 1) / kPanelsOfPart, [&](int i) {
          gemv_kernels().pack(chunk, i * kPanelsOfPart, std::min(n, (i + 1) * kPanelsOfPart),
                              to + int8_panel_bytes(row, in), scale + row);
        });
      });
      m->w = {MatrixType::kInt8, to, out, in, scale};
      to += int8_panel_bytes(out, in);
      scale += out;
    }
  }

  LargeBuffer<int8_t> panels;
  std::vector<float> scales;
};

namespace {

// The decoders of a model share what is prepared from it.
std::shared_ptr<const DecoderWeights> shared_weights(const std::shared_ptr<const Model>& model, bool int8, int threads,
                                                     const std::atomic<bool>* cancel) {
  static Prepared<DecoderWeights> weights[2];
  return weights[int8].get(
      model, [&] { return std::make_shared<const DecoderWeights>(*model, int8, threads, cancel); }, kStopped, cancel);
}

}  // namespace

DecoderNetwork::DecoderNetwork(std::shared_ptr<const Model> model, bool int8, int threads,
                               const std::atomic<bool>* cancel)
    : model_(std::move(model)),
      dims_(model_->dims),
      d_(dims_.d_model),
      threads_(threads),
      weights_(shared_weights(model_, int8, threads, cancel)),
      alignment_index_(static_cast<size_t>(dims_.n_decoder_layers) * dims_.n_heads, -1) {
  const auto& heads = model_->alignment_heads;
  for (size_t i = 0; i < heads.size(); ++i) {
    alignment_index_[static_cast<size_t>(heads[i].first) * dims_.n_heads + heads[i].second] = static_cast<int>(i);
  }
}

DecoderNetwork::~DecoderNetwork() = default;

void DecoderNetwork::set_features(const float* features, int positions, int content, const float* tail, int tail_rows) {
  const int rows = positions + tail_rows;
  ProfileScope scope("decoder cross keys, values", int64_t{4} * rows * d_ * d_ * dims_.n_decoder_layers);
  const size_t head_size = static_cast<size_t>(rows) * kHeadWidth;
  const size_t size = 2 * head_size * dims_.n_heads * weights_->blocks.size();
  if (cross_cache_.size() < size) {
    cross_cache_ = {};
    cross_cache_ = LargeBuffer<uint16_t>(size);
  }
  cross_rows_ = rows;
  content_ = content;
  ThreadPool& pool = ThreadPool::instance();
  const int blocks = (rows + kFeatureRows - 1) / kFeatureRows;
  const auto row = [&](int i) {
    return i < positions ? features + static_cast<ptrdiff_t>(i) * d_
                         : tail + static_cast<ptrdiff_t>(i - positions) * d_;
  };
  if (weights_->int8) {
    const GemvKernels& kernels = gemv_kernels();
    std::vector<int16_t> integers(static_cast<size_t>(rows) * d_);
    std::vector<float> unit(rows);
    pool.parallel_for(threads_, blocks, [&](int block) {
      for (int i = block * kFeatureRows; i < std::min(rows, (block + 1) * kFeatureRows); ++i) {
        unit[i] = kernels.quantize_row(row(i), d_, input_limit(d_), &integers[static_cast<size_t>(i) * d_]);
      }
    });
    pool.parallel_for(threads_, static_cast<int>(weights_->blocks.size()) * dims_.n_heads, [&](int i) {
      const Block& b = weights_->blocks[i / dims_.n_heads];
      float products[kFeatureRows * kHeadWidth];
      uint16_t* to = cross_cache_.data() + 2 * head_size * i;
      GemvTask t{};
      t.first = i % dims_.n_heads * kHeadWidth;
      t.last = t.first + kHeadWidth;
      t.y = products;
      t.y_stride = kHeadWidth;
      for (int first = 0; first < rows; first += kFeatureRows) {
        t.integers = &integers[static_cast<size_t>(first) * d_];
        t.unit = &unit[first];
        t.rows = std::min(kFeatureRows, rows - first);
        const size_t at = static_cast<size_t>(first) * kHeadWidth;
        for (const DecoderMatrix* m : {&b.cross_key, &b.cross_value}) {
          t.w = m->w;
          t.bias = m->bias.empty() ? nullptr : m->bias.data();
          kernels.multiply(t);
          keep(products, kHeadWidth, t.rows, to + (m == &b.cross_value ? head_size : 0) + at);
        }
      }
    });
    return;
  }
  std::vector<float> key_value(static_cast<size_t>(rows) * 2 * d_);
  const ptrdiff_t stride = 2 * static_cast<ptrdiff_t>(d_);
  for (size_t layer = 0; layer < weights_->blocks.size(); ++layer) {
    const PackedLinear& w = weights_->blocks[layer].cross_key_value;
    linear(w, features, d_, positions, key_value.data(), stride, Epilogue::kNone, threads_);
    linear(w, tail, d_, tail_rows, key_value.data() + positions * stride, stride, Epilogue::kNone, threads_);
    pool.parallel_for(threads_, dims_.n_heads, [&](int head) {
      uint16_t* to = cross_cache_.data() + 2 * head_size * (layer * dims_.n_heads + head);
      keep(key_value.data() + head * kHeadWidth, stride, rows, to);
      keep(key_value.data() + d_ + head * kHeadWidth, stride, rows, to + head_size);
    });
  }
}

// One head's part of `count` rows in half precision.
void DecoderNetwork::keep(const float* rows, ptrdiff_t stride, int count, uint16_t* to) const {
  for (int i = 0; i < count; ++i) gemv_kernels().narrow(rows + i * stride, kHeadWidth, to + i * ptrdiff_t{kHeadWidth});
}

void DecoderNetwork::reserve(int rows, int projected, int slots, bool alignment) {
  const auto grow = [](std::vector<float>& v, size_t size) { v.resize(std::max(v.size(), size)); };
  const size_t row_size = static_cast<size_t>(rows) * d_;
  grow(x_, row_size);
  grow(query_, row_size);
  grow(key_value_, 2 * row_size);
  struct {
    Input* input;
    size_t rows, width;
  } const inputs[] = {{&normed_, static_cast<size_t>(rows), static_cast<size_t>(d_)},
                      {&mixed_, static_cast<size_t>(rows), static_cast<size_t>(d_)},
                      {&hidden_, static_cast<size_t>(rows), 4 * static_cast<size_t>(d_)},
                      {&last_, static_cast<size_t>(projected), static_cast<size_t>(d_)}};
  for (const auto& i : inputs) {
    grow(i.input->values, i.rows * i.width);
    grow(i.input->unit, i.rows);
    if (weights_->int8) i.input->integers.resize(std::max(i.input->integers.size(), i.rows * i.width));
  }
  grow(logits_, static_cast<size_t>(projected) * dims_.n_vocab);
  const size_t scores = static_cast<size_t>(dims_.n_heads) * std::max(cross_rows_, dims_.n_text_ctx);
  grow(scores_, scores);
  grow(weights_of_keys_, scores);
  if (slots > slots_) {
    self_cache_ = {};
    self_cache_ = LargeBuffer<uint16_t>(
        2 * static_cast<size_t>(slots) * kHeadWidth * dims_.n_heads * weights_->blocks.size(), Pages::kSmall);
    slots_ = slots;
  }
  const size_t recorded = alignment ? slots * alignment_size() : 0;
  if (recorded > alignment_.size()) {
    alignment_ = {};
    alignment_ = LargeBuffer<float>(recorded, Pages::kSmall);
  }
}

void DecoderNetwork::run(const Row* rows, int count, const int* projected, int n_projected) {
  rows_ = rows;
  count_ = count;
  projected_ = projected;
  n_projected_ = n_projected;
  for (int i = 0; i < count; ++i) {
    float* x = &x_[static_cast<size_t>(i) * d_];
    gemv_kernels().widen_row(weights_->embedding.w, rows[i].token, x);
    f32_kernels().add(x, &weights_->positions[static_cast<size_t>(rows[i].position) * d_], d_);
  }
  norm(x_.data(), count, weights_->blocks[0].self_norm, &normed_);
  measure(0);
  run_steps(threads_, steps(), this);
  measured_.reset();
}

// Begins to measure a step, as what was measured ends. Operations: of the products with matrices and of attention.
void DecoderNetwork::measure(int step) {
  static constexpr const char* kNames[] = {"decoder self attention", "decoder self out", "decoder cross attention",
                                           "decoder cross out",      "decoder fc1",      "decoder fc2"};
  measured_.reset();
  const int64_t d = d_, rows = count_;
  if (step / kStepsPerLayer == static_cast<int>(weights_->blocks.size())) {
    measured_.emplace("decoder logits", 2 * n_projected_ * d * dims_.n_vocab);
    return;
  }
  const int kind = step % kStepsPerLayer;
  int64_t products = 0;
  switch (kind) {
    case kSelf:
      products = 3 * d * d * rows;
      for (int64_t i = 0; i < rows; ++i) products += 2 * d * (rows_[i].position + 1);
      break;
    case kCross:
      products = rows * d * (d + 2 * cross_rows_);
      break;
    case kFc1:
    case kFc2:
      products = 4 * d * d * rows;
      break;
    default:
      products = d * d * rows;
  }
  measured_.emplace(kNames[kind], 2 * products);
}

int DecoderNetwork::steps() const {
  return static_cast<int>(weights_->blocks.size()) * kStepsPerLayer + (n_projected_ > 0);
}

int DecoderNetwork::items(int step) const noexcept {
  const size_t layer = step / kStepsPerLayer;
  if (layer == weights_->blocks.size()) return items_of(weights_->embedding.w);
  const Block& b = weights_->blocks[layer];
  switch (step % kStepsPerLayer) {
    case kSelfOut:
      return items_of(b.out.w);
    case kCrossOut:
      return items_of(b.cross_out.w);
    case kFc1:
      return items_of(b.fc1.w);
    case kFc2:
      return items_of(b.fc2.w);
    default:
      return dims_.n_heads;
  }
}

void DecoderNetwork::item(int step, int i) noexcept {
  const size_t layer = step / kStepsPerLayer;
  // Item i of a whole matrix.
  const auto part = [&](const DecoderMatrix& m, const Input& in, int count, float* y, int stride, Epilogue epilogue) {
    const int per_item = outputs_per_item(m.w), first = i * per_item;
    multiply(m, in, count, first, std::min(m.w.out, first + per_item), y + first, stride, epilogue);
  };
  if (layer == weights_->blocks.size()) {
    return part(weights_->embedding, last_, n_projected_, logits_.data(), dims_.n_vocab, Epilogue::kNone);
  }
  const Block& b = weights_->blocks[layer];
  switch (step % kStepsPerLayer) {
    case kSelf:
      return attend_self(layer, i);
    case kSelfOut:
      return part(b.out, mixed_, count_, x_.data(), d_, Epilogue::kAdd);
    case kCross:
      return attend_cross(layer, i);
    case kCrossOut:
      return part(b.cross_out, mixed_, count_, x_.data(), d_, Epilogue::kAdd);
    case kFc1:
      return part(b.fc1, normed_, count_, hidden_.values.data(), 4 * d_, Epilogue::kGelu);
    case kFc2:
      return part(b.fc2, hidden_, count_, x_.data(), d_, Epilogue::kAdd);
  }
}

void DecoderNetwork::finish(int step) noexcept {
  between_steps(step);
  if (step + 1 < steps()) measure(step + 1);
}

// What the next step reads.
void DecoderNetwork::between_steps(int step) {
  const size_t layer = step / kStepsPerLayer;
  if (layer == weights_->blocks.size()) return;
  const Block& b = weights_->blocks[layer];
  switch (step % kStepsPerLayer) {
    case kSelf:
    case kCross:
      return quantize(&mixed_, count_, d_);
    case kSelfOut:
      return norm(x_.data(), count_, b.cross_norm, &normed_);
    case kCrossOut:
      return norm(x_.data(), count_, b.mlp_norm, &normed_);
    case kFc1:
      return quantize(&hidden_, count_, 4 * d_);
    case kFc2:
      if (layer + 1 < weights_->blocks.size()) {
        return norm(x_.data(), count_, weights_->blocks[layer + 1].self_norm, &normed_);
      }
      for (int i = 0; i < n_projected_; ++i) {
        std::copy_n(&x_[static_cast<size_t>(projected_[i]) * d_], d_, &query_[static_cast<size_t>(i) * d_]);
      }
      norm(query_.data(), n_projected_, weights_->norm, &last_);
  }
}

void DecoderNetwork::norm(const float* x, int count, const DecoderNorm& n, Input* to) {
  f32_kernels().layer_norm(x, count, d_, n.gain.data(), n.bias.data(), to->values.data());
  quantize(to, count, d_);
}

void DecoderNetwork::quantize(Input* input, int count, int width) {
  if (!weights_->int8) return;
  for (int i = 0; i < count; ++i) {
    const size_t at = static_cast<size_t>(i) * width;
    input->unit[i] = gemv_kernels().quantize_row(&input->values[at], width, input_limit(width), &input->integers[at]);
  }
}

void DecoderNetwork::multiply(const DecoderMatrix& m, const Input& in, int count, int first, int last, float* y,
                              ptrdiff_t stride, Epilogue epilogue) const {
  GemvTask t{};
  t.w = m.w;
  t.first = first;
  t.last = last;
  t.bias = m.bias.empty() ? nullptr : m.bias.data();
  t.x = in.values.data();
  t.x_stride = m.w.in;
  t.integers = in.integers.data();
  t.unit = in.unit.data();
  t.rows = count;
  t.y = y;
  t.y_stride = stride;
  t.epilogue = epilogue;
  gemv_kernels().multiply(t);
}

void DecoderNetwork::attend_self(size_t layer, int head) {
  const Block& b = weights_->blocks[layer];
  const int first = head * kHeadWidth, last = first + kHeadWidth;
  multiply(b.query, normed_, count_, first, last, query_.data() + first, d_, Epilogue::kNone);
  float* key_value = key_value_.data() + 2 * first;
  multiply(b.key, normed_, count_, first, last, key_value, 2 * d_, Epilogue::kNone);
  multiply(b.value, normed_, count_, first, last, key_value + kHeadWidth, 2 * d_, Epilogue::kNone);
  const size_t cached = static_cast<size_t>(slots_) * kHeadWidth;
  uint16_t* keys = self_cache_.data() + 2 * cached * (layer * dims_.n_heads + head);
  uint16_t* values = keys + cached;
  const size_t scratch = static_cast<size_t>(head) * std::max(cross_rows_, dims_.n_text_ctx);
  for (int i = 0; i < count_; ++i) {
    const Row& row = rows_[i];
    const size_t slot = static_cast<size_t>(row.history[row.position]) * kHeadWidth;
    keep(key_value + static_cast<ptrdiff_t>(i) * 2 * d_, 0, 1, keys + slot);
    keep(key_value + static_cast<ptrdiff_t>(i) * 2 * d_ + kHeadWidth, 0, 1, values + slot);
    float* query = query_.data() + static_cast<ptrdiff_t>(i) * d_ + first;
    for (int c = 0; c < kHeadWidth; ++c) query[c] *= kQueryScale;
    gemv_kernels().attend(query, keys, values, row.history, row.position + 1, &scores_[scratch],
                          &weights_of_keys_[scratch], mixed_.values.data() + static_cast<ptrdiff_t>(i) * d_ + first);
  }
}

void DecoderNetwork::attend_cross(size_t layer, int head) {
  const Block& b = weights_->blocks[layer];
  const int first = head * kHeadWidth;
  multiply(b.cross_query, normed_, count_, first, first + kHeadWidth, query_.data() + first, d_, Epilogue::kNone);
  const size_t cached = static_cast<size_t>(cross_rows_) * kHeadWidth;
  const uint16_t* keys = cross_cache_.data() + 2 * cached * (layer * dims_.n_heads + head);
  const size_t scratch = static_cast<size_t>(head) * std::max(cross_rows_, dims_.n_text_ctx);
  const int recorded = alignment_index_[layer * dims_.n_heads + head];
  for (int i = 0; i < count_; ++i) {
    const Row& row = rows_[i];
    float* query = query_.data() + static_cast<ptrdiff_t>(i) * d_ + first;
    for (int c = 0; c < kHeadWidth; ++c) query[c] *= kQueryScale;
    gemv_kernels().attend(query, keys, keys + cached, nullptr, cross_rows_, &scores_[scratch],
                          &weights_of_keys_[scratch], mixed_.values.data() + static_cast<ptrdiff_t>(i) * d_ + first);
    if (!row.record || recorded < 0) continue;
    std::copy_n(
        &scores_[scratch], content_,
        alignment_.data() + row.history[row.position] * alignment_size() + static_cast<size_t>(recorded) * content_);
  }
}

}  // namespace whisperxdna2
