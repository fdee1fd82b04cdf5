#include "whisper/decoder.h"

#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "kernels/cpu/gemv.h"
#include "kernels/cpu/thread_pool.h"
#include "whisper/decoder_network.h"
#include "whisper/decoder_search.h"
#include "whisper/error.h"
#include "whisper/logit_rules.h"
#include "whisper/tokenizer.h"

namespace whisperxdna2 {
namespace {

constexpr size_t kMostPromptTokens = 223;  // openai/whisper: n_text_ctx / 2 - 1
constexpr float kNoSpeechLimit = 0.6f;     // a silent window is no failure to be decoded again

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
  State(std::shared_ptr<const Model> m, Precision precision, int n_threads, const std::atomic<bool>* cancel)
      : model(std::move(m)),
        dims(model->dims),
        threads(n_threads > 0 ? n_threads : ThreadPool::available_processors()),
        network(model, precision != Precision::kF32, threads, cancel),
        numbers(dims.n_text_ctx) {
    std::iota(numbers.begin(), numbers.end(), 0);
  }

  // What the decoder is given to begin with.
  struct Start {
    std::vector<int> tokens;
    int sot = 0;          // index of the start token
    int before_text = 0;  // index of the last control token: it predicts the first token of the text
  };
  Start start(const DecodeOptions& options) const;
  DecodeResult attempt(const DecodeOptions& options, const Start& start, float temperature);
  Candidate sample(const float* filtered, float temperature, std::mt19937& random) const;

  const std::shared_ptr<const Model> model;
  const ModelDims dims;
  const int threads;
  DecoderNetwork network;
  std::vector<int> numbers;  // 0, 1, ...
  std::vector<DecoderNetwork::Row> rows;
};

Decoder::Decoder(std::shared_ptr<const Model> model, Precision precision, int threads, const std::atomic<bool>* cancel)
    : state_(std::make_unique<State>(std::move(model), precision, threads, cancel)) {}
Decoder::~Decoder() = default;
Decoder::Decoder(Decoder&&) noexcept = default;

void Decoder::set_features(const float* features, int positions, int content, const float* tail, int tail_rows) {
  if (positions < 1 || content < 0 || content > positions || tail_rows < 0) {
    throw Error(ErrorCode::kInvalidUse, "features need at least one position, and content within them");
  }
  state_->network.set_features(features, positions, content, tail, tail_rows);
}

std::vector<float> Decoder::detect_language() {
  State& s = *state_;
  if (!s.network.has_features()) throw Error(ErrorCode::kInvalidUse, "detect_language() needs set_features() first");
  const SpecialTokens& special = s.model->tokenizer->special();
  if (!special.multilingual) return {};
  s.network.reserve(1, 1, s.dims.n_text_ctx, false);
  const DecoderNetwork::Row row{special.sot, 0, s.numbers.data(), false};
  const int first = 0;
  s.network.run(&row, 1, &first, 1);
  const float* of = s.network.logits(0) + special.language_begin;
  const float total = gemv_kernels().log_sum_exp(of, special.n_languages);
  std::vector<float> p(special.n_languages);
  for (int i = 0; i < special.n_languages; ++i) p[i] = std::exp(of[i] - total);
  return p;
}

DecodeResult Decoder::decode(const DecodeOptions& o) {
  State& s = *state_;
  if (!s.network.has_features()) throw Error(ErrorCode::kInvalidUse, "decode() needs set_features() first");
  if (o.beam_size < 1) throw Error(ErrorCode::kInvalidUse, "decode() needs at least one beam");
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

// One token by its probability at the temperature.
Candidate Decoder::State::sample(const float* filtered, float temperature, std::mt19937& random) const {
  const float most = gemv_kernels().largest(filtered, dims.n_vocab);
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
  return {last, filtered[last] - gemv_kernels().log_sum_exp(filtered, dims.n_vocab)};
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
  const int beams = temperature > 0 ? 1 : o.beam_size;
  const bool align = o.alignment && network.content() > 0;
  BeamSearch search(beams, special.eot, most, given);
  network.reserve(std::max(given, beams), std::max(2, beams), BeamSearch::slots(beams, most, given), align);
  std::vector<std::vector<Candidate>> candidates(beams);
  for (auto& some : candidates) some.reserve(beams + 1);
  rows.clear();
  rows.reserve(std::max(given, beams));
  for (int i = 0; i < given; ++i) rows.push_back({start.tokens[i], i, numbers.data(), align && i >= start.before_text});

  const auto poll = [&] {
    if (o.interrupted && *o.interrupted) throw Error(ErrorCode::kInterrupted, "decoding was interrupted");
  };
  poll();
  const int projected[] = {start.sot, given - 1};
  network.run(rows.data(), given, projected, 2);
  DecodeResult r;
  r.temperature = temperature;
  const float* first_logits = network.logits(0);
  r.no_speech_prob =
      std::exp(first_logits[special.no_speech] - gemv_kernels().log_sum_exp(first_logits, dims.n_vocab));

  int logits_of_live = 1;  // where in the network's those of the first live hypothesis are
  const auto consider = [&](int i) {
    float* logits = network.logits(logits_of_live + i);
    rules.apply(search.live(i).tokens, logits);
    if (temperature > 0) {
      candidates[i].assign(1, sample(logits, temperature, random));
    } else {
      most_likely(logits, dims.n_vocab, beams == 1 ? 1 : beams + 1, &candidates[i]);
    }
  };
  for (bool more = most > 0; more;) {
    poll();
    ThreadPool::instance().parallel_for(threads, search.live(), [&consider](int i) { consider(i); });
    more = search.advance(candidates) && !(o.stop_at_loop && repeats_itself(search.live(0).tokens));
    // The last tokens are run as well where their alignment is wanted.
    if (!more && (!align || search.complete())) break;
    rows.clear();
    for (int i = 0; i < search.live(); ++i) {
      const Hypothesis& h = search.live(i);
      rows.push_back({h.tokens.back(), static_cast<int>(h.slots.size()) - 1, h.slots.data(), align});
    }
    network.run(rows.data(), search.live(), numbers.data(), more ? search.live() : 0);
    logits_of_live = 0;
  }
  const Hypothesis& best = search.best();
  r.tokens = best.tokens;
  r.log_probs = best.log_probs;
  r.ended = best.ended;
  r.mean_log_prob = static_cast<float>(best.sum / static_cast<double>(r.tokens.size() + 1));
  r.compression_ratio = zlib_ratio(tokenizer.decode(r.tokens));
  if (align) {
    const size_t heads = model->alignment_heads.size(), content = network.content();
    r.alignment_rows = static_cast<int>(best.slots.size()) - start.before_text;
    r.alignment.resize(r.alignment_rows * heads * content);
    for (int row = 0; row < r.alignment_rows; ++row) {
      const float* from = network.alignment(best.slots[start.before_text + row]);
      for (size_t h = 0; h < heads; ++h) {
        std::copy_n(from + h * content, content, &r.alignment[(h * r.alignment_rows + row) * content]);
      }
    }
  }
  return r;
}

}  // namespace whisperxdna2
