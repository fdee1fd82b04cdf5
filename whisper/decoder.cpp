#include "whisper/decoder.h"

#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <mutex>
#include <random>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/f32_kernels.h"
#include "kernels/cpu/gemv.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/thread_pool.h"
#include "whisper/error.h"
#include "whisper/logit_rules.h"
#include "whisper/tokenizer.h"

namespace whisperxdna2 {
namespace {

constexpr size_t kMostPromptTokens = 223;  // openai/whisper: n_text_ctx / 2 - 1
constexpr float kNoSpeechLimit = 0.6f;     // a silent window is no failure to be decoded again

MatrixView view(const Tensor& t) {
  MatrixView m;
  m.type = t.dtype == DType::kF32 ? MatrixType::kF32 : t.dtype == DType::kF16 ? MatrixType::kF16 : MatrixType::kBF16;
  m.data = t.data;
  m.out = t.shape[0];
  m.in = t.shape[1];
  return m;
}

struct Norm {
  explicit Norm(const LayerNorm& n) : gain(n.gain.to_f32()), bias(n.bias.to_f32()) {}
  std::vector<float> gain, bias;
};

// A linear layer in the model's own memory.
struct Layer {
  explicit Layer(const Linear& l) : weight(view(l.weight)) {
    if (l.bias) bias = l.bias.to_f32();
  }
  const float* bias_or_null() const { return bias.empty() ? nullptr : bias.data(); }
  MatrixView weight;
  std::vector<float> bias;
};

// Keys and values of the encoder's output are the one large product: f32, packed, [2 d][d], keys first.
PackedLinear pack_cross(const Attention& a, int d) {
  std::vector<float> weight = a.key.weight.to_f32();
  std::vector<float> bias = a.key.bias ? a.key.bias.to_f32() : std::vector<float>(d, 0.0f);
  const std::vector<float> value = a.value.weight.to_f32(), value_bias = a.value.bias.to_f32();
  weight.insert(weight.end(), value.begin(), value.end());
  bias.insert(bias.end(), value_bias.begin(), value_bias.end());
  return PackedLinear(weight.data(), bias.data(), 2 * d, d);
}

struct Block {
  explicit Block(const DecoderLayer& l, int d)
      : self_norm(l.self_norm),
        query(l.self_attention.query),
        key(l.self_attention.key),
        value(l.self_attention.value),
        out(l.self_attention.out),
        cross_norm(l.cross_norm),
        cross_query(l.cross_attention.query),
        cross_out(l.cross_attention.out),
        cross_key_value(pack_cross(l.cross_attention, d)),
        mlp_norm(l.mlp_norm),
        fc1(l.fc1),
        fc2(l.fc2) {}
  Norm self_norm;
  Layer query, key, value, out;
  Norm cross_norm;
  Layer cross_query, cross_out;
  PackedLinear cross_key_value;
  Norm mlp_norm;
  Layer fc1, fc2;
};

struct Weights {
  explicit Weights(const Model& m)
      : embedding(view(m.token_embedding)), positions(m.decoder_positions.to_f32()), norm(m.decoder_norm) {
    for (const DecoderLayer& l : m.decoder_layers) blocks.emplace_back(l, m.dims.d_model);
  }
  MatrixView embedding;
  std::vector<float> positions;
  std::vector<Block> blocks;
  Norm norm;
};

// The decoders of a model share what is prepared from it, while one of them lives.
std::shared_ptr<const Weights> shared_weights(const std::shared_ptr<const Model>& model) {
  static std::mutex mutex;
  static std::map<std::weak_ptr<const Model>, std::weak_ptr<const Weights>, std::owner_less<>> known;
  std::lock_guard<std::mutex> lock(mutex);
  for (auto it = known.begin(); it != known.end();) it = it->second.expired() ? known.erase(it) : std::next(it);
  if (const auto it = known.find(model); it != known.end()) {
    if (auto w = it->second.lock()) return w;
  }
  auto w = std::make_shared<const Weights>(*model);
  known[model] = w;
  return w;
}

float zlib_ratio(const std::string& text) {
  if (text.empty()) return 0;
  uLongf size = compressBound(static_cast<uLong>(text.size()));
  std::vector<Bytef> out(size);
  compress(out.data(), &size, reinterpret_cast<const Bytef*>(text.data()), static_cast<uLong>(text.size()));
  return static_cast<float>(text.size()) / static_cast<float>(size);
}

}  // namespace

struct Decoder::State {
  explicit State(std::shared_ptr<const Model> m)
      : model(std::move(m)),
        dims(model->dims),
        d(dims.d_model),
        weights(shared_weights(model)),
        threads(ThreadPool::available_processors()),
        logits(dims.n_vocab) {
    self_cache.resize(dims.n_decoder_layers);
    for (auto& c : self_cache) c.resize(static_cast<size_t>(dims.n_text_ctx) * 2 * d);
    cross_cache.resize(dims.n_decoder_layers);
  }

  // Runs the tokens at positions `past`.. through all blocks. Afterwards x holds the normed last states, [count][d].
  // With `align`, appends the alignment heads' raw scores of the rows from `first_aligned` on.
  void run(const int* tokens, int count, int past, bool align, int first_aligned) {
    const size_t size = static_cast<size_t>(count) * d;
    x.resize(size);
    normed.resize(size);
    query.resize(size);
    mixed.resize(size);
    hidden.resize(4 * size);
    for (int i = 0; i < count; ++i) {
      embed(tokens[i], &x[static_cast<size_t>(i) * d]);
      for (int c = 0; c < d; ++c) x[static_cast<size_t>(i) * d + c] += weights->positions[static_cast<size_t>(past + i) * d + c];
    }
    for (size_t layer = 0; layer < weights->blocks.size(); ++layer) {
      const Block& b = weights->blocks[layer];
      norm(b.self_norm, x, count);
      float* cache = self_cache[layer].data() + static_cast<size_t>(past) * 2 * d;
      product(b.query, normed.data(), count, query.data(), d, Epilogue::kNone);
      product(b.key, normed.data(), count, cache, 2 * d, Epilogue::kNone);
      product(b.value, normed.data(), count, cache + d, 2 * d, Epilogue::kNone);
      attention(self_cache[layer].data(), count, [&](int row) { return past + row + 1; }, nullptr);
      product(b.out, mixed.data(), count, x.data(), d, Epilogue::kAdd);

      norm(b.cross_norm, x, count);
      product(b.cross_query, normed.data(), count, query.data(), d, Epilogue::kNone);
      float* scores = nullptr;
      if (align) {
        raw_scores.resize(static_cast<size_t>(count) * dims.n_heads * cross_rows);
        scores = raw_scores.data();
      }
      attention(cross_cache[layer].data(), count, [&](int) { return cross_rows; }, scores);
      if (align) record_alignment(static_cast<int>(layer), count, first_aligned);
      product(b.cross_out, mixed.data(), count, x.data(), d, Epilogue::kAdd);

      norm(b.mlp_norm, x, count);
      product(b.fc1, normed.data(), count, hidden.data(), 4 * d, Epilogue::kGelu);
      multiply(b.fc2.weight, b.fc2.bias_or_null(), hidden.data(), 4 * d, count, x.data(), d, Epilogue::kAdd, threads);
    }
    norm(weights->norm, x, count);
    x.swap(normed);
    if (align) aligned_rows += count - first_aligned;
  }

  void embed(int token, float* out) const {
    const MatrixView& e = weights->embedding;
    Tensor row;
    row.dtype = model->token_embedding.dtype;
    row.shape = {d};
    row.data = static_cast<const char*>(e.data) + static_cast<size_t>(token) * d * (e.type == MatrixType::kF32 ? 4 : 2);
    const std::vector<float> wide = row.to_f32();
    std::copy(wide.begin(), wide.end(), out);
  }

  void norm(const Norm& n, const std::vector<float>& in, int count) {
    f32_kernels().layer_norm(in.data(), count, d, n.gain.data(), n.bias.data(), normed.data());
  }

  void product(const Layer& l, const float* in, int count, float* out, ptrdiff_t stride, Epilogue epilogue) {
    multiply(l.weight, l.bias_or_null(), in, d, count, out, stride, epilogue, threads);
  }

  // mixed = attention of `query` over rows of [keys | values]. `visible(row)`: how many of them a query sees. `scores`:
  // [count][heads][cross_rows] or null.
  template <class Visible>
  void attention(const float* key_value, int count, const Visible& visible, float* scores) {
    const int heads = dims.n_heads;
    // All heads of a row are a little work only: one task for each half of them, or for each row of a long prefix.
    const int parts = count == 1 ? std::min(2, heads) : 1;
    ThreadPool::instance().parallel_for(threads, count * parts, [&](int task) {
      const int row = task / parts, part = task % parts;
      thread_local std::vector<float> raw, soft;
      const int most = visible(row);
      raw.resize(std::max(raw.size(), static_cast<size_t>(most)));
      soft.resize(std::max(soft.size(), static_cast<size_t>(most)));
      for (int h = heads * part / parts; h < heads * (part + 1) / parts; ++h) {
        const size_t at = static_cast<size_t>(row) * d + h * kHeadWidth;
        float scaled[kHeadWidth];
        for (int c = 0; c < kHeadWidth; ++c) scaled[c] = query[at + c] * 0.125f;
        float* out = scores ? scores + (static_cast<size_t>(row) * heads + h) * cross_rows : raw.data();
        attend(scaled, key_value + h * kHeadWidth, key_value + d + h * kHeadWidth, 2 * d, most, kHeadWidth, out,
               soft.data(), &mixed[at]);
      }
    });
  }

  // alignment: [row][alignment head][content].
  void record_alignment(int layer, int count, int first) {
    const size_t heads = model->alignment_heads.size();
    alignment.resize((aligned_rows + count - first) * heads * content);
    for (size_t i = 0; i < heads; ++i) {
      if (model->alignment_heads[i].first != layer) continue;
      const int head = model->alignment_heads[i].second;
      for (int row = first; row < count; ++row) {
        const float* from = &raw_scores[(static_cast<size_t>(row) * dims.n_heads + head) * cross_rows];
        std::copy(from, from + content, &alignment[((aligned_rows + row - first) * heads + i) * content]);
      }
    }
  }

  // logits of row `row` of x.
  void project(int row) {
    multiply(weights->embedding, nullptr, x.data() + static_cast<size_t>(row) * d, d, 1, logits.data(), dims.n_vocab,
             Epilogue::kNone, threads);
  }

  DecodeResult decode_at(const DecodeOptions& o, float temperature);

  const std::shared_ptr<const Model> model;
  const ModelDims dims;
  const int d;
  const std::shared_ptr<const Weights> weights;
  const int threads;

  std::vector<std::vector<float>> self_cache;   // of each layer: [n_text_ctx][keys | values]
  std::vector<std::vector<float>> cross_cache;  // of each layer: [cross_rows][keys | values]
  int cross_rows = 0, content = 0;

  std::vector<float> x, normed, query, mixed, hidden, raw_scores, logits;
  std::vector<float> alignment;
  size_t aligned_rows = 0;
};

Decoder::Decoder(std::shared_ptr<const Model> model) : state_(std::make_unique<State>(std::move(model))) {}
Decoder::~Decoder() = default;
Decoder::Decoder(Decoder&&) noexcept = default;

void Decoder::set_features(const float* features, int positions, int content, const float* tail, int tail_rows) {
  State& s = *state_;
  if (positions < 1 || content < 0 || content > positions) {
    throw Error(ErrorCode::kInvalidUse, "features need at least one position, and content within them");
  }
  s.cross_rows = positions + tail_rows;
  s.content = content;
  for (size_t layer = 0; layer < s.weights->blocks.size(); ++layer) {
    const PackedLinear& w = s.weights->blocks[layer].cross_key_value;
    std::vector<float>& cache = s.cross_cache[layer];
    cache.resize(static_cast<size_t>(s.cross_rows) * 2 * s.d);
    linear(w, features, s.d, positions, cache.data(), 2 * s.d, Epilogue::kNone, s.threads);
    if (tail_rows > 0) {
      linear(w, tail, s.d, tail_rows, cache.data() + static_cast<size_t>(positions) * 2 * s.d, 2 * s.d, Epilogue::kNone,
             s.threads);
    }
  }
}

std::vector<float> Decoder::detect_language() {
  State& s = *state_;
  const SpecialTokens& special = s.model->tokenizer->special();
  if (!special.multilingual) return {};
  s.run(&special.sot, 1, 0, false, 0);
  s.project(0);
  const float* of = s.logits.data() + special.language_begin;
  const float total = log_sum_exp(of, special.n_languages);
  std::vector<float> p(special.n_languages);
  for (int i = 0; i < special.n_languages; ++i) p[i] = std::exp(of[i] - total);
  return p;
}

DecodeResult Decoder::decode(const DecodeOptions& o) {
  DecodeResult r;
  for (float temperature : o.temperatures) {
    r = state_->decode_at(o, temperature);
    const bool repeats = r.compression_ratio > o.compression_ratio_limit;
    const bool unsure = r.mean_log_prob < o.log_prob_limit;
    const bool silent = r.no_speech_prob > kNoSpeechLimit && unsure;
    if (!(repeats || unsure) || silent) break;
  }
  return r;
}

DecodeResult Decoder::State::decode_at(const DecodeOptions& o, float temperature) {
  const Tokenizer& tokenizer = *model->tokenizer;
  const SpecialTokens& special = tokenizer.special();
  if (cross_rows == 0) throw Error(ErrorCode::kInvalidUse, "decode() needs set_features() first");

  std::vector<int> tokens;
  if (!o.prompt.empty()) {
    tokens.push_back(special.sot_prev);
    tokens.insert(tokens.end(), o.prompt.end() - std::min(o.prompt.size(), kMostPromptTokens), o.prompt.end());
  }
  const int sot_row = static_cast<int>(tokens.size());
  tokens.push_back(special.sot);
  if (special.multilingual) {
    tokens.push_back(o.language >= 0 ? o.language : special.language_begin);
    tokens.push_back(o.translate ? special.translate : special.transcribe);
  }
  if (!o.timestamps) tokens.push_back(special.no_timestamps);
  const int first_aligned = static_cast<int>(tokens.size()) - 1;
  // Room for one sampled token at least.
  const size_t prefix = std::min(o.prefix.size(), static_cast<size_t>(dims.n_text_ctx) - tokens.size() - 1);
  tokens.insert(tokens.end(), o.prefix.begin(), o.prefix.begin() + static_cast<ptrdiff_t>(prefix));

  const bool align = o.alignment && content > 0;
  alignment.clear();
  aligned_rows = 0;
  DecodeResult r;
  r.temperature = temperature;
  run(tokens.data(), static_cast<int>(tokens.size()), 0, align, first_aligned);
  project(sot_row);
  r.no_speech_prob = std::exp(logits[special.no_speech] - log_sum_exp(logits.data(), dims.n_vocab));
  project(static_cast<int>(tokens.size()) - 1);

  const LogitRules rules(tokenizer, {o.suppress_blank, o.timestamps, o.max_initial_timestamp});
  std::minstd_rand random(1 + static_cast<unsigned>(std::lround(temperature * 1000)));
  int past = static_cast<int>(tokens.size());
  const int most = std::min(o.max_new_tokens, dims.n_text_ctx - past);
  double total = 0;
  while (static_cast<int>(r.tokens.size()) < most) {
    if (o.interrupted && *o.interrupted) throw Error(ErrorCode::kInterrupted, "interrupted");
    rules.apply(r.tokens, logits.data());
    int next = static_cast<int>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    const float sum = log_sum_exp(logits.data(), dims.n_vocab);
    if (temperature > 0) {
      // A Gumbel-max sample: argmax of logits / temperature + noise.
      std::uniform_real_distribution<double> uniform(1e-12, 1.0);
      double best = -INFINITY;
      for (int i = 0; i < dims.n_vocab; ++i) {
        if (logits[i] == -INFINITY) continue;
        const double noisy = logits[i] / temperature - std::log(-std::log(uniform(random)));
        if (noisy > best) {
          best = noisy;
          next = i;
        }
      }
    }
    const float log_prob = logits[next] - sum;
    total += log_prob;
    if (next == special.eot) {
      r.ended = true;
      break;
    }
    r.tokens.push_back(next);
    r.log_probs.push_back(log_prob);
    run(&next, 1, past++, align, 0);
    if (static_cast<int>(r.tokens.size()) < most) project(0);
  }
  r.mean_log_prob = static_cast<float>(total / static_cast<double>(r.tokens.size() + 1));
  r.compression_ratio = zlib_ratio(tokenizer.decode(r.tokens));
  if (align) {
    const size_t heads = model->alignment_heads.size();
    r.alignment_rows = static_cast<int>(aligned_rows);
    r.alignment.resize(alignment.size());
    for (size_t row = 0; row < aligned_rows; ++row) {
      for (size_t h = 0; h < heads; ++h) {
        std::copy_n(&alignment[(row * heads + h) * content], content, &r.alignment[(h * aligned_rows + row) * content]);
      }
    }
  }
  return r;
}

}  // namespace whisperxdna2
