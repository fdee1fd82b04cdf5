#include "whisper/tokenizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <queue>
#include <set>
#include <unordered_map>

#include "whisper/error.h"

namespace whisperxdna2 {
namespace {

// openai/whisper whisper/tokenizer.py LANGUAGES, in its order: the ids follow it.
constexpr std::array<const char*, 100> kLanguages = {
    "en", "zh", "de", "es",  "ru", "ko", "fr", "ja", "pt", "tr", "pl", "ca", "nl", "ar", "sv",
    "it", "id", "hi", "fi",  "vi", "he", "uk", "el", "ms", "cs", "ro", "da", "hu", "ta", "no",
    "th", "ur", "hr", "bg",  "lt", "la", "mi", "ml", "cy", "sk", "te", "fa", "lv", "bn", "sr",
    "az", "sl", "kn", "et",  "mk", "br", "eu", "is", "hy", "ne", "mn", "bs", "kk", "sq", "sw",
    "gl", "mr", "pa", "si",  "km", "sn", "yo", "so", "af", "oc", "ka", "be", "tg", "sd", "gu",
    "am", "yi", "lo", "uz",  "fo", "ht", "ps", "tk", "nn", "mt", "sa", "lb", "my", "bo", "tl",
    "mg", "as", "tt", "haw", "ln", "ha", "ba", "jw", "su", "yue"};

constexpr std::array<const char*, 6> kSpacelessLanguages = {"zh", "ja", "th", "lo", "my", "yue"};

constexpr char32_t kReplacement = 0xfffd;

// Reads one code point at `at` and moves on. An ill-formed sequence gives U+FFFD for each maximal subpart, as Python's
// errors="replace" and the Unicode standard (section 3.9) do it.
char32_t next_code_point(std::string_view text, size_t& at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(at++);
  if (lead < 0x80) return lead;
  int more;
  unsigned low = 0x80, high = 0xbf;  // of the second byte
  char32_t code;
  if (lead >= 0xc2 && lead <= 0xdf) {
    more = 1, code = lead & 0x1f;
  } else if (lead >= 0xe0 && lead <= 0xef) {
    more = 2, code = lead & 0x0f;
    if (lead == 0xe0) low = 0xa0;
    if (lead == 0xed) high = 0x9f;
  } else if (lead >= 0xf0 && lead <= 0xf4) {
    more = 3, code = lead & 0x07;
    if (lead == 0xf0) low = 0x90;
    if (lead == 0xf4) high = 0x8f;
  } else {
    return kReplacement;
  }
  for (; more > 0; --more, low = 0x80, high = 0xbf) {
    if (at == text.size() || byte(at) < low || byte(at) > high) return kReplacement;
    code = code << 6 | (byte(at++) & 0x3f);
  }
  return code;
}

void append_utf8(std::string& text, char32_t code) {
  utf8proc_uint8_t buffer[4];
  const auto length = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code), buffer);
  text.append(reinterpret_cast<const char*>(buffer), static_cast<size_t>(length));
}

std::u32string to_code_points(std::string_view bytes) {
  std::u32string text;
  for (size_t at = 0; at < bytes.size();) text.push_back(next_code_point(bytes, at));
  return text;
}

std::string to_utf8(const std::u32string& text) {
  std::string bytes;
  for (const char32_t code : text) append_utf8(bytes, code);
  return bytes;
}

// Whether a reader takes both code points for parts of one character: combining marks, the vowels of Thai and Lao that
// are written after their consonant as one with it, Myanmar's stacked consonants, joiners.
bool is_one_character(char32_t before, char32_t after) {
  constexpr char32_t kMyanmarVirama = 0x1039;
  const auto first = static_cast<utf8proc_int32_t>(before), second = static_cast<utf8proc_int32_t>(after);
  const utf8proc_category_t category = utf8proc_category(second);
  return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC || category == UTF8PROC_CATEGORY_ME ||
         before == kMyanmarVirama || !utf8proc_grapheme_break(first, second);
}

enum class Class { kSpace, kLetter, kNumber, kOther };

// The classes of GPT-2's pattern: \s (Unicode White_Space), \p{L}, \p{N} and the rest.
Class class_of(char32_t code) {
  if ((code >= 9 && code <= 13) || code == 0x20 || code == 0x85 || code == 0xa0 || code == 0x1680 ||
      (code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 || code == 0x202f ||
      code == 0x205f || code == 0x3000)
    return Class::kSpace;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return Class::kLetter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return Class::kNumber;
    default:
      return Class::kOther;
  }
}

// Length in bytes of the first piece of `text` (not empty) under GPT-2's pattern (openai/gpt-2 src/encoder.py):
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
size_t first_piece(std::string_view text) {
  if (text[0] == '\'') {
    for (const std::string_view suffix : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"})
      if (text.substr(0, suffix.size()) == suffix) return suffix.size();
  }
  // A run of one class, with one plain space before it.
  const size_t begin = text[0] == ' ' ? 1 : 0;
  if (begin < text.size()) {
    size_t at = begin;
    const Class kind = class_of(next_code_point(text, at));
    if (kind != Class::kSpace) {
      for (size_t next = at; next < text.size(); at = next)
        if (class_of(next_code_point(text, next)) != kind) break;
      return at;
    }
  }
  // White space: all of it at the end of the text, otherwise all but the last one, which the next piece may take.
  size_t at = 0, last = 0;
  for (size_t next = 0; next < text.size(); at = next) {
    if (class_of(next_code_point(text, next)) != Class::kSpace) return last > 0 ? last : at;
    last = at;
  }
  return at;
}

SpecialTokens special_tokens(int n_vocab) {
  const bool multilingual = n_vocab >= 51865;
  const int slots = n_vocab - 51765 - (multilingual ? 1 : 0);
  SpecialTokens special{};
  special.multilingual = multilingual;
  special.n_languages = multilingual ? slots : 0;
  special.eot = multilingual ? 50257 : 50256;
  special.sot = special.eot + 1;
  special.language_begin = special.sot + 1;
  special.translate = special.language_begin + slots;
  special.transcribe = special.translate + 1;
  special.sot_lm = special.translate + 2;
  special.sot_prev = special.translate + 3;
  special.no_speech = special.translate + 4;
  special.no_timestamps = special.translate + 5;
  special.timestamp_begin = special.translate + 6;
  return special;
}

}  // namespace

struct Tokenizer::Ranks {
  std::unordered_map<std::string_view, int> id;  // views into tokens_

  int of(std::string_view bytes) const {
    const auto found = id.find(bytes);
    return found == id.end() ? -1 : found->second;
  }

  // Merges the adjacent pair of lowest rank, the leftmost of equals, until no pair is a token.
  void encode_piece(std::string_view piece, std::vector<int>& out) const;
};

void Tokenizer::Ranks::encode_piece(std::string_view piece, std::vector<int>& out) const {
  if (const int whole = of(piece); whole >= 0) {
    out.push_back(whole);
    return;
  }
  // Parts form a list over their first bytes: end[i] is where the part that begins at i ends, 0 once merged away.
  const size_t n = piece.size();
  std::vector<size_t> end(n), before(n);
  struct Pair {
    int rank;
    size_t begin, middle, end;
    bool operator>(const Pair& other) const {
      return rank != other.rank ? rank > other.rank : begin > other.begin;
    }
  };
  std::priority_queue<Pair, std::vector<Pair>, std::greater<Pair>> pairs;
  const auto propose = [&](size_t begin) {
    const size_t middle = end[begin];
    if (middle == n) return;
    const int rank = of(piece.substr(begin, end[middle] - begin));
    if (rank >= 0) pairs.push({rank, begin, middle, end[middle]});
  };
  for (size_t i = 0; i < n; ++i) end[i] = i + 1, before[i] = i - 1;
  for (size_t i = 0; i + 1 < n; ++i) propose(i);
  while (!pairs.empty()) {
    const Pair pair = pairs.top();
    pairs.pop();
    if (end[pair.begin] != pair.middle || end[pair.middle] != pair.end)
      continue;  // one of them has been merged
    end[pair.begin] = pair.end;
    end[pair.middle] = 0;
    if (pair.end < n) before[pair.end] = pair.begin;
    if (pair.begin > 0) propose(before[pair.begin]);
    propose(pair.begin);
  }
  for (size_t i = 0; i < n; i = end[i]) out.push_back(of(piece.substr(i, end[i] - i)));
}

Tokenizer::Tokenizer(std::vector<std::string> tokens, int n_vocab) : tokens_(std::move(tokens)) {
  if (n_vocab < 51864 || n_vocab > 51866)
    throw Error(ErrorCode::kInvalidFile, "a vocabulary of " + std::to_string(n_vocab) +
                                             " tokens is not Whisper's (51864, 51865 or 51866)");
  special_ = special_tokens(n_vocab);
  if (tokens_.size() != static_cast<size_t>(special_.eot))
    throw Error(ErrorCode::kInvalidFile, "the tokenizer has " + std::to_string(tokens_.size()) +
                                             " text tokens, but the weights are made for " +
                                             std::to_string(special_.eot));
  auto ranks = std::make_unique<Ranks>();
  ranks->id.reserve(tokens_.size());
  for (size_t id = 0; id < tokens_.size(); ++id) {
    // The multilingual vocabulary's last text token is empty.
    if (tokens_[id].empty() && id + 1 == tokens_.size() && special_.multilingual) continue;
    if (tokens_[id].empty() || !ranks->id.emplace(tokens_[id], static_cast<int>(id)).second)
      throw Error(ErrorCode::kInvalidFile,
                  "the tokenizer's token " + std::to_string(id) + " is empty or there twice");
  }
  for (int byte = 0; byte < 256; ++byte) {
    const char character = static_cast<char>(byte);
    if (ranks->of({&character, 1}) < 0)
      throw Error(ErrorCode::kInvalidFile,
                  "the tokenizer has no token for byte " + std::to_string(byte));
  }
  ranks_ = std::move(ranks);

  std::set<int> forbidden = {encode(" -")[0], encode(" '")[0]};
  const auto forbid = [&](std::string_view symbol, bool first_part) {
    for (const char* space : {"", " "}) {
      const std::vector<int> ids = encode(std::string(space) + std::string(symbol));
      if (first_part || ids.size() == 1) forbidden.insert(ids[0]);
    }
  };
  for (const char* symbol :
       {"\"",  "#",  "(",  ")",   "*",   "+",   "/",   ":",  ";",   "<",  "=",  ">",
        "@",   "[",  "\\", "]",   "^",   "_",   "`",   "{",  "|",   "}",  "~",  "「",
        "」",  "『", "』", "<<",  ">>",  "<<<", ">>>", "--", "---", "-(", "-[", "('",
        "(\"", "((", "))", "(((", ")))", "[[",  "]]",  "{{", "}}",  "♪♪", "♪♪♪"})
    forbid(symbol, false);
  // Music notes: their first byte token is forbidden where they take several.
  for (const char* symbol : {"♩", "♪", "♫", "♬", "♭", "♮", "♯"}) forbid(symbol, true);
  non_speech_.assign(forbidden.begin(), forbidden.end());
}

Tokenizer::~Tokenizer() = default;

const std::string& Tokenizer::bytes(int id) const {
  static const std::string empty;
  return is_text(id) ? tokens_[static_cast<size_t>(id)] : empty;
}

std::string Tokenizer::decode(const std::vector<int>& ids) const {
  std::string all;
  for (const int id : ids) all += bytes(id);
  return to_utf8(to_code_points(all));
}

std::vector<int> Tokenizer::encode(std::string_view text) const {
  std::vector<int> ids;
  while (!text.empty()) {
    const size_t length = first_piece(text);
    ranks_->encode_piece(text.substr(0, length), ids);
    text.remove_prefix(length);
  }
  return ids;
}

int Tokenizer::language_id(std::string_view code) const {
  for (int i = 0; i < special_.n_languages; ++i)
    if (code == kLanguages[static_cast<size_t>(i)]) return special_.language_begin + i;
  return -1;
}

std::string Tokenizer::language_code(int id) const {
  const int index = id - special_.language_begin;
  return index >= 0 && index < special_.n_languages ? kLanguages[static_cast<size_t>(index)] : "";
}

std::vector<Tokenizer::Word> Tokenizer::split_words(const std::vector<int>& ids,
                                                    std::string_view language) const {
  const bool spaceless =
      std::find(kSpacelessLanguages.begin(), kSpacelessLanguages.end(), language) != kSpacelessLanguages.end();
  // Groups of tokens that end at a code point's end. A group may decode to U+FFFD only where the whole text does.
  std::string all;
  for (const int id : ids) all += bytes(id);
  const std::u32string full = to_code_points(all);
  std::vector<Word> groups;
  Word group;
  std::string raw;
  size_t offset = 0;
  char32_t before = 0;
  for (const int id : ids) {
    if (!is_text(id)) continue;
    raw += bytes(id);
    group.tokens.push_back(id);
    if (raw.empty()) continue;
    const std::u32string decoded = to_code_points(raw);
    const size_t bad = decoded.find(kReplacement);
    if (bad != std::u32string::npos &&
        (offset + bad >= full.size() || full[offset + bad] != kReplacement))
      continue;
    offset += decoded.size();
    group.text = to_utf8(decoded);
    if (spaceless && !groups.empty() && is_one_character(before, decoded.front())) {
      groups.back().text += group.text;
      groups.back().tokens.insert(groups.back().tokens.end(), group.tokens.begin(), group.tokens.end());
    } else {
      groups.push_back(std::move(group));
    }
    before = decoded.back();
    group = {};
    raw.clear();
  }
  if (!group.tokens.empty()) {
    group.text = to_utf8(to_code_points(raw));
    groups.push_back(std::move(group));
  }
  if (spaceless) return groups;

  // Python's string.punctuation; a group counts where it is a substring of it.
  constexpr std::string_view kPunctuation = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";
  std::vector<Word> words;
  for (Word& part : groups) {
    std::string_view stripped = part.text;
    while (!stripped.empty() && std::isspace(static_cast<unsigned char>(stripped.front())))
      stripped.remove_prefix(1);
    while (!stripped.empty() && std::isspace(static_cast<unsigned char>(stripped.back())))
      stripped.remove_suffix(1);
    const bool punctuation = kPunctuation.find(stripped) != std::string_view::npos;
    if (words.empty() || part.text.compare(0, 1, " ") == 0 || punctuation) {
      words.push_back(std::move(part));
    } else {
      words.back().text += part.text;
      words.back().tokens.insert(words.back().tokens.end(), part.tokens.begin(), part.tokens.end());
    }
  }
  return words;
}

}  // namespace whisperxdna2
