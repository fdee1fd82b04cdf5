// The decoder's recorded inputs and what an independent decoder made of them (tests/data/whisper/decoder).
#pragma once

#include <string>
#include <vector>

#include "tests/npy.h"
#include "whisper/decoder.h"
#include "whisper/model.h"

// Half-precision rows as f32.
inline std::vector<float> load_half(const std::string& name) {
  const auto array = load_npy<int16_t>("whisper/decoder/" + name + ".npy");
  whisperxdna2::Tensor t;
  t.dtype = whisperxdna2::DType::kF16;
  t.shape = {static_cast<int>(array.data.size())};
  t.data = array.data.data();
  return t.to_f32();
}

struct DecoderCase {
  const char* name;
  const char* clip;
  int content;  // positions
  bool tail;
  bool timestamps;
  std::vector<int> prefix;
  int most_tokens;
};

inline const DecoderCase kJfkPrefix{
    "jfk_8.00s_prefix", "jfk_8.00s", 400, true, false, {400, 370, 452, 7177, 6280}, 224};
inline const DecoderCase kJfkLoop{"jfk_10.24s_loop", "jfk_10.24s", 512, false, false, {}, 60};
inline const DecoderCase kJfkTail{"jfk_10.24s_tail", "jfk_10.24s", 512, true, false, {}, 224};
inline const DecoderCase kLibri{"libri", "libri", 293, false, false, {}, 224};
inline const DecoderCase kLibriTimestamps{"libri_timestamps", "libri", 293, false, true, {}, 224};

inline void set_features(whisperxdna2::Decoder& decoder, const DecoderCase& c) {
  const std::vector<float> rows = load_half(std::string(c.clip) + "_features"), tail = load_half("tail");
  decoder.set_features(rows.data(), 512, c.content, tail.data(), c.tail ? 64 : 0);
}

inline whisperxdna2::DecodeOptions options_of(const DecoderCase& c) {
  whisperxdna2::DecodeOptions o;
  o.language = 50259;  // English
  o.timestamps = c.timestamps;
  o.prefix = c.prefix;
  o.max_new_tokens = c.most_tokens;
  return o;
}
