// Whisper's byte-level BPE vocabulary: ids to bytes always, text to ids for prompts.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace whisperxdna2 {

// The ids of the control tokens follow from the vocabulary's size (openai/whisper whisper/tokenizer.py).
struct SpecialTokens {
  int eot, sot, translate, transcribe, sot_lm, sot_prev, no_speech, no_timestamps;
  int timestamp_begin;  // <|0.00|>; one id per 20 ms up to <|30.00|>
  int language_begin;   // <|en|>
  int n_languages;      // 99 or 100; 0 for an English-only model
  bool multilingual;
};

class Tokenizer {
 public:
  // tokens[id] = the raw bytes of text token id, in merge-rank order (id = rank), 50256 or 50257 of them.
  // n_vocab: 51864, 51865 or 51866. Throws Error(kInvalidFile) where the two do not fit each other.
  Tokenizer(std::vector<std::string> tokens, int n_vocab);
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  const SpecialTokens& special() const { return special_; }
  bool is_text(int id) const { return id >= 0 && id < special_.eot; }
  bool is_timestamp(int id) const { return id >= special_.timestamp_begin; }

  // Raw bytes of one text token; possibly part of a UTF-8 sequence. Empty for control tokens.
  const std::string& bytes(int id) const;
  // Text of a whole token sequence; control tokens are left out, invalid UTF-8 becomes U+FFFD.
  std::string decode(const std::vector<int>& ids) const;
  // Byte-pair encoding with GPT-2's pre-split, as tiktoken does it (control tokens are not recognized in the text;
  // bytes that are no UTF-8 are kept). Hugging Face's multilingual tokenizer differs: its list of merges lacks the
  // first one, " t", so that it gives " this" as two tokens. Any length, n log n.
  std::vector<int> encode(std::string_view text) const;

  // Language code ("en") to the id of its token, and back; -1 and "" where unknown.
  int language_id(std::string_view code) const;
  std::string language_code(int id) const;

  // Ids never to be sampled: brackets, music notes and the like, 82 ids (84 for English-only) without the control
  // tokens (openai/whisper whisper/tokenizer.py non_speech_tokens).
  const std::vector<int>& non_speech() const { return non_speech_; }

  // Groups text tokens into words: at a leading space, or for languages written without spaces (zh ja th lo my yue) at
  // each code point that is no combining mark; never inside a UTF-8 sequence. Control tokens are left out. Punctuation
  // forms words of its own here; see word_timing.h. (openai/whisper whisper/tokenizer.py split_to_word_tokens, which
  // parts marks from their letters.)
  struct Word {
    std::string text;
    std::vector<int> tokens;
  };
  std::vector<Word> split_words(const std::vector<int>& ids, std::string_view language) const;

 private:
  struct Ranks;  // bytes -> id
  std::vector<std::string> tokens_;
  std::unique_ptr<const Ranks> ranks_;
  SpecialTokens special_{};
  std::vector<int> non_speech_;
};

}  // namespace whisperxdna2
