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
constexpr float kQueryScale = 0.125f;      // 1 / sqrt(kHeadWidth)
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

// Whether the text ends in six copies of an n-gram.
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

// UTF-8 bytes by zlib bytes: above the limit, the text repeats itself.
float zlib_ratio(std::string text) {
  text.erase(0, text.find_first_not_of(' '));
  text.erase(text.find_last_not_of(' ') + 1);
  if (text.empty()) return 0;
  uLongf size = compressBound(static_cast<uLong>(text.size()));
  std::vector<Bytef> out(size);
  compress(out.data(), &size, reinterpret_cast<const Bytef*>(text.data()), static_cast<uLong>(text.size()));
  return static_cast<float>(text.size()) / static_cast<float>(size);
}

}  // namespace

struct Decoder::State {
  State(std::shared_ptr<const Model> m, int n_threads)
      : model(std::move(m)),
        dims(model->dims),
        d(dims.d_model),
        weights(shared_weights(model)),
        threads(n_threads > 0 ? n_threads : ThreadPool::available_processors()),
        self_cache(static_cast<size_t>(dims.n_decoder_layers) * dims.n_heads * 2 * dims.n_text_ctx * kHeadWidth),
        logits(2 * static_cast<size_t>(dims.n_vocab)) {}

  // Keys of one head in a cache of `rows` rows, its values behind them.
  uint16_t* head_cache(std::vector<uint16_t>& cache, size_t layer, int head, int rows) const {
    return cache.data() + (layer * dims.n_heads + head) * 2 * rows * kHeadWidth;
  }

  // Files `count` rows of [keys | values] as rows first.. of a layer's caches.
  void keep(const float* key_value, int count, std::vector<uint16_t>& cache, size_t layer, int first, int rows) const {
    for (int head = 0; head < dims.n_heads; ++head) {
      uint16_t* keys = head_cache(cache, layer, head, rows) + static_cast<size_t>(first) * kHeadWidth;
      uint16_t* values = keys + static_cast<size_t>(rows) * kHeadWidth;
      for (int i = 0; i < count; ++i, keys += kHeadWidth, values += kHeadWidth) {
        const float* from = key_value + static_cast<size_t>(i) * 2 * d + head * kHeadWidth;
        narrow(from, kHeadWidth, keys);
        narrow(from + d, kHeadWidth, values);
      }
    }
  }

  // Memory for runs of up to `count` tokens.
  void reserve(int count) {
    const size_t size = static_cast<size_t>(count) * d;
    if (x.size() >= size) return;
    for (std::vector<float>* v : {&x, &normed, &query, &mixed}) v->resize(size);
    key_value.resize(2 * size);
    hidden.resize(4 * size);
  }

  // Runs the tokens at positions `past`.. through all blocks. Afterwards `normed` holds the last states, [count][d].
  // With `align`, appends the alignment heads' scores of the rows from `first_aligned` on.
  void run(const int* tokens, int count, int past, bool align, int first_aligned) {
    reserve(count);
    const size_t heads = model->alignment_heads.size();
    float* record = nullptr;
    if (align) {
      alignment.resize((aligned_rows + count - first_aligned) * heads * content);
      record = &alignment[aligned_rows * heads * content];
      aligned_rows += count - first_aligned;
    }
    for (int i = 0; i < count; ++i) {
      float* row = &x[static_cast<size_t>(i) * d];
      widen_row(weights->embedding, tokens[i], row);
      f32_kernels().add(row, &weights->positions[static_cast<size_t>(past + i) * d], d);
    }
    for (size_t layer = 0; layer < weights->blocks.size(); ++layer) {
      const Block& b = weights->blocks[layer];
      norm(b.self_norm, count);
      product(b.query, normed, count, query, d, Epilogue::kNone);
      multiply(b.key.weight, b.key.bias_or_null(), normed.data(), d, count, key_value.data(), 2 * d, Epilogue::kNone,
               threads);
      multiply(b.value.weight, b.value.bias_or_null(), normed.data(), d, count, key_value.data() + d, 2 * d,
               Epilogue::kNone, threads);
      keep(key_value.data(), count, self_cache, layer, past, dims.n_text_ctx);
      attend_all(layer, count, self_cache, dims.n_text_ctx, past, nullptr, 0);
      product(b.out, mixed, count, x, d, Epilogue::kAdd);

      norm(b.cross_norm, count);
      product(b.cross_query, normed, count, query, d, Epilogue::kNone);
      attend_all(layer, count, cross_cache, cross_rows, -1, record, first_aligned);
      product(b.cross_out, mixed, count, x, d, Epilogue::kAdd);

      norm(b.mlp_norm, count);
      product(b.fc1, normed, count, hidden, 4 * d, Epilogue::kGelu);
      product(b.fc2, hidden, count, x, d, Epilogue::kAdd);
    }
    norm(weights->norm, count);
  }

  void norm(const Norm& n, int count) {
    f32_kernels().layer_norm(x.data(), count, d, n.gain.data(), n.bias.data(), normed.data());
  }

  void product(const Layer& l, const std::vector<float>& in, int count, std::vector<float>& out, ptrdiff_t stride,
               Epilogue epilogue) {
    multiply(l.weight, l.bias_or_null(), in.data(), l.weight.in, count, out.data(), stride, epilogue, threads);
  }

  // mixed = attention of `query` over a layer's cache of `rows` rows: all of them, or with past >= 0 those up to the
  // query's own position. `record`: takes the scores of the alignment heads of queries from first_recorded on, or null.
  void attend_all(size_t layer, int count, std::vector<uint16_t>& cache, int rows, int past, float* record,
                  int first_recorded) {
    struct {
      State* s;
      size_t layer;
      std::vector<uint16_t>* cache;
      int rows, past;
      float* record;
      int first_recorded;
    } job{this, layer, &cache, rows, past, record, first_recorded};
    // A single query over a short text is less work than handing it over.
    const bool small = count == 1 && past >= 0 && past < 128;
    ThreadPool::instance().parallel_for(small ? 1 : threads, count * dims.n_heads, [&job](int task) {
      State& s = *job.s;
      const int row = task / s.dims.n_heads, head = task % s.dims.n_heads;
      const int visible = job.past >= 0 ? job.past + row + 1 : job.rows;
      thread_local std::vector<float> scores, soft;
      scores.resize(std::max(scores.size(), static_cast<size_t>(job.rows)));
      soft.resize(scores.size());
      const size_t at = static_cast<size_t>(row) * s.d + head * kHeadWidth;
      float scaled[kHeadWidth];
      for (int c = 0; c < kHeadWidth; ++c) scaled[c] = s.query[at + c] * kQueryScale;
      const uint16_t* keys = s.head_cache(*job.cache, job.layer, head, job.rows);
      attend(scaled, keys, keys + static_cast<size_t>(job.rows) * kHeadWidth, visible, scores.data(), soft.data(),
             &s.mixed[at]);
      if (!job.record || row < job.first_recorded) return;
      const auto& heads = s.model->alignment_heads;
      for (size_t i = 0; i < heads.size(); ++i) {
        if (heads[i] != std::make_pair(static_cast<int>(job.layer), head)) continue;
        std::copy_n(scores.data(), s.content,
                    job.record + ((row - job.first_recorded) * heads.size() + i) * s.content);
      }
    });
  }

  // Logits of rows first, first + step of the last run, [rows][n_vocab].
  void project(int first, int step, int rows) {
    multiply(weights->embedding, nullptr, normed.data() + static_cast<ptrdiff_t>(first) * d,
             static_cast<ptrdiff_t>(step) * d, rows, logits.data(), dims.n_vocab, Epilogue::kNone, threads);
  }

  // What the decoder is given to begin with.
  struct Start {
    std::vector<int> tokens;
    int sot = 0;          // index of the start token
    int before_text = 0;  // index of the last control token: it predicts the first token of the text
  };
  Start start(const DecodeOptions& options) const;
  DecodeResult attempt(const DecodeOptions& options, const Start& start, float temperature);
  int sample(const float* filtered, float temperature, std::mt19937& random) const;

  const std::shared_ptr<const Model> model;
  const ModelDims dims;
  const int d;
  const std::shared_ptr<const Weights> weights;
  const int threads;

  std::vector<uint16_t> self_cache, cross_cache;  // [layer][head][keys, values][rows][kHeadWidth]
  int cross_rows = 0, content = 0;

  std::vector<float> x, normed, query, mixed, key_value, hidden;  // [tokens of a run][d], twice and four times d
  std::vector<float> logits;
  std::vector<float> alignment;  // [row][alignment head][content]
  size_t aligned_rows = 0;
};

Decoder::Decoder(std::shared_ptr<const Model> model, int threads)
    : state_(std::make_unique<State>(std::move(model), threads)) {}
Decoder::~Decoder() = default;
Decoder::Decoder(Decoder&&) noexcept = default;

void Decoder::set_features(const float* features, int positions, int content, const float* tail, int tail_rows) {
  State& s = *state_;
  if (positions < 1 || content < 0 || content > positions || tail_rows < 0) {
    throw Error(ErrorCode::kInvalidUse, "features need at least one position, and content within them");
  }
  s.cross_rows = positions + tail_rows;
  s.content = content;
  s.cross_cache.resize(s.weights->blocks.size() * s.dims.n_heads * 2 * s.cross_rows * kHeadWidth);
  std::vector<float> key_value(static_cast<size_t>(s.cross_rows) * 2 * s.d);
  for (size_t layer = 0; layer < s.weights->blocks.size(); ++layer) {
    const PackedLinear& w = s.weights->blocks[layer].cross_key_value;
    const ptrdiff_t stride = 2 * static_cast<ptrdiff_t>(s.d);
    linear(w, features, s.d, positions, key_value.data(), stride, Epilogue::kNone, s.threads);
    linear(w, tail, s.d, tail_rows, key_value.data() + positions * stride, stride, Epilogue::kNone, s.threads);
    s.keep(key_value.data(), s.cross_rows, s.cross_cache, layer, 0, s.cross_rows);
  }
}

std::vector<float> Decoder::detect_language() {
  State& s = *state_;
  if (s.cross_rows == 0) throw Error(ErrorCode::kInvalidUse, "detect_language() needs set_features() first");
  const SpecialTokens& special = s.model->tokenizer->special();
  if (!special.multilingual) return {};
  s.run(&special.sot, 1, 0, false, 0);
  s.project(0, 0, 1);
  const float* of = s.logits.data() + special.language_begin;
  const float total = log_sum_exp(of, special.n_languages);
  std::vector<float> p(special.n_languages);
  for (int i = 0; i < special.n_languages; ++i) p[i] = std::exp(of[i] - total);
  return p;
}

DecodeResult Decoder::decode(const DecodeOptions& o) {
  State& s = *state_;
  if (s.cross_rows == 0) throw Error(ErrorCode::kInvalidUse, "decode() needs set_features() first");
  if (o.temperatures.empty()) throw Error(ErrorCode::kInvalidUse, "decode() needs at least one temperature");
  const State::Start start = s.start(o);
  DecodeResult r;
  for (float temperature : o.temperatures) {
    r = s.attempt(o, start, temperature);
    const bool repeats = r.compression_ratio > o.compression_ratio_limit;
    const bool unsure = r.mean_log_prob < o.log_prob_limit;
    const bool silent = r.no_speech_prob > kNoSpeechLimit && unsure;
    if (!(repeats || unsure) || silent) break;
  }
  return r;
}

Decoder::State::Start Decoder::State::start(const DecodeOptions& o) const {
  const SpecialTokens& special = model->tokenizer->special();
  Start s;
  std::vector<int>& tokens = s.tokens;
  if (!o.prompt.empty()) {
    tokens.push_back(special.sot_prev);
    tokens.insert(tokens.end(), o.prompt.end() - std::min(o.prompt.size(), kMostPromptTokens), o.prompt.end());
  }
  s.sot = static_cast<int>(tokens.size());
  tokens.push_back(special.sot);
  if (special.multilingual) {
    if (o.language < special.language_begin || o.language >= special.language_begin + special.n_languages) {
      throw Error(ErrorCode::kInvalidUse, "a multilingual model needs a language token");
    }
    tokens.push_back(o.language);
    tokens.push_back(o.translate ? special.translate : special.transcribe);
  }
  if (!o.timestamps) tokens.push_back(special.no_timestamps);
  s.before_text = static_cast<int>(tokens.size()) - 1;
  if (tokens.size() + o.prefix.size() >= static_cast<size_t>(dims.n_text_ctx)) {
    throw Error(ErrorCode::kInvalidUse, "a prefix of " + std::to_string(o.prefix.size()) +
                                            " tokens leaves no room in the decoder's context");
  }
  tokens.insert(tokens.end(), o.prefix.begin(), o.prefix.end());
  for (int id : tokens) {
    if (id < 0 || id >= dims.n_vocab) {
      throw Error(ErrorCode::kInvalidUse, "token " + std::to_string(id) + " is not in the vocabulary");
    }
  }
  return s;
}

int Decoder::State::sample(const float* filtered, float temperature, std::mt19937& random) const {
  const float most = largest(filtered, dims.n_vocab);
  if (temperature <= 0) {
    const float* end = filtered + dims.n_vocab;
    const float* best = std::find(filtered, end, most);
    return best == end ? model->tokenizer->special().eot : static_cast<int>(best - filtered);
  }
  // The sums are in double and in order, so that the same number always finds the same token.
  const auto weight = [&](int i) { return std::exp(static_cast<double>(filtered[i] - most) / temperature); };
  double total = 0;
  for (int i = 0; i < dims.n_vocab; ++i) total += weight(i);
  double left = static_cast<double>(random()) / 4294967296.0 * total;
  int last = model->tokenizer->special().eot;
  for (int i = 0; i < dims.n_vocab; ++i) {
    const double w = weight(i);
    if (w > 0) last = i;
    left -= w;
    if (left < 0) break;
  }
  return last;
}

DecodeResult Decoder::State::attempt(const DecodeOptions& o, const Start& start, float temperature) {
  const Tokenizer& tokenizer = *model->tokenizer;
  const SpecialTokens& special = tokenizer.special();
  const int given = static_cast<int>(start.tokens.size());
  const int most = std::max(0, std::min(o.max_new_tokens, dims.n_text_ctx - given));
  const LogitRules rules(tokenizer, {o.suppress_blank, o.timestamps, o.max_initial_timestamp});
  // Each attempt has its own sequence, so that it does not depend on the ones before it.
  std::mt19937 random(static_cast<uint32_t>(std::lround(temperature * 1000)));

  // All memory now, none while sampling.
  DecodeResult r;
  r.temperature = temperature;
  r.tokens.reserve(most);
  r.log_probs.reserve(most);
  const bool align = o.alignment && content > 0;
  alignment.clear();
  aligned_rows = 0;
  if (align) {
    alignment.reserve((given - start.before_text + static_cast<size_t>(most)) * model->alignment_heads.size() * content);
  }

  const auto poll = [&] {
    if (o.interrupted && *o.interrupted) throw Error(ErrorCode::kInterrupted, "decoding was interrupted");
  };
  poll();
  run(start.tokens.data(), given, 0, align, start.before_text);
  project(start.sot, given - 1 - start.sot, 2);
  r.no_speech_prob = std::exp(logits[special.no_speech] - log_sum_exp(logits.data(), dims.n_vocab));
  float* next_logits = logits.data() + dims.n_vocab;

  double total = 0;
  int past = given;
  while (static_cast<int>(r.tokens.size()) < most) {
    poll();
    rules.apply(r.tokens, next_logits);
    const int next = sample(next_logits, temperature, random);
    const float log_prob = next_logits[next] - log_sum_exp(next_logits, dims.n_vocab);
    total += log_prob;
    if (next == special.eot) {
      r.ended = true;
      break;
    }
    r.tokens.push_back(next);
    r.log_probs.push_back(log_prob);
    const bool last = static_cast<int>(r.tokens.size()) == most || (o.stop_at_loop && repeats_itself(r.tokens));
    if (last && !align) break;
    run(&next, 1, past++, align, 0);
    if (last) break;
    project(0, 0, 1);
    next_logits = logits.data();
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
