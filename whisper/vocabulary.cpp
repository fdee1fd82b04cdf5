#include "whisper/vocabulary.h"

#include <unistd.h>

#include <array>

#include "whisper/byte_source.h"
#include "whisper/json.h"

namespace whisperxdna2 {
namespace {

constexpr uint64_t kMaxToken = 1024;
constexpr uint64_t kMaxFile = 16 << 20;

// Byte of each code point below 324, or -1.
std::array<int, 324> byte_of_code_point() {
  std::array<int, 324> table;
  table.fill(-1);
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable =
        (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    table[printable ? byte : next++] = byte;
  }
  return table;
}

[[noreturn]] void fail(const std::string& path, const std::string& message) {
  throw Error(ErrorCode::kInvalidFile, path + ": " + message);
}

// Control tokens are written as they are, and none of them contains a character that GPT-2 maps.
bool is_control(const std::string& text) {
  return text.size() > 4 && text.compare(0, 2, "<|") == 0 &&
         text.compare(text.size() - 2, 2, "|>") == 0;
}

std::string token_bytes(const std::string& text, size_t id, const std::string& path) {
  if (text.size() > kMaxToken)
    fail(path, "token " + std::to_string(id) + " is longer than 1024 bytes");
  std::string bytes;
  if (is_control(text)) return text;
  if (!unmap_bytes(text, &bytes))
    fail(path, "token " + std::to_string(id) + " is not in GPT-2's byte alphabet");
  return bytes;
}

void check_count(size_t count, int n_vocab, const std::string& path) {
  if (count > static_cast<size_t>(n_vocab))
    fail(path,
         "more than " + std::to_string(n_vocab) + " tokens, the number the weights are made for");
}

std::vector<std::string> from_lines(const std::string& path, int n_vocab) {
  const std::string text = read_text_file(path, kMaxFile);
  std::vector<std::string> tokens;
  for (size_t begin = 0; begin < text.size();) {
    size_t end = text.find('\n', begin);
    if (end == std::string::npos) end = text.size();
    tokens.push_back(token_bytes(text.substr(begin, end - begin), tokens.size(), path));
    check_count(tokens.size(), n_vocab, path);
    begin = end + 1;
  }
  return tokens;
}

std::vector<std::string> from_list(const std::string& path, int n_vocab) {
  const Json list = read_json_file(path);
  if (!list.is_array()) fail(path, "no list of tokens");
  check_count(list.size(), n_vocab, path);
  std::vector<std::string> tokens;
  for (const Json& token : list) {
    if (!token.is_string()) fail(path, "token " + std::to_string(tokens.size()) + " is no string");
    tokens.push_back(token_bytes(token.get_ref<const std::string&>(), tokens.size(), path));
  }
  return tokens;
}

// Puts `text` at `id`; each id may be given twice only with the same text.
void place(std::vector<std::string>& tokens, std::vector<bool>& known, const std::string& text,
           const Json& id, const std::string& path) {
  if (!id.is_number_unsigned() || id.get<uint64_t>() >= tokens.size())
    fail(path, "the id of a token is not below " + std::to_string(tokens.size()));
  const size_t at = id.get<size_t>();
  std::string bytes = token_bytes(text, at, path);
  if (known[at] && tokens[at] != bytes) fail(path, "two tokens have id " + std::to_string(at));
  known[at] = true;
  tokens[at] = std::move(bytes);
}

// `map` is {text: id}; `added` (may be null) the tokenizer.json list of {content, id}. Ids run from 0 without a gap.
std::vector<std::string> from_map(const Json& map, const Json* added, const std::string& path,
                                  int n_vocab) {
  if (!map.is_object()) fail(path, "no map of tokens to ids");
  std::vector<std::string> tokens(static_cast<size_t>(n_vocab));
  std::vector<bool> known(tokens.size());
  for (const auto& [text, id] : map.items()) place(tokens, known, text, id, path);
  if (added) {
    if (!added->is_array()) fail(path, "\"added_tokens\" is no list");
    for (const Json& token : *added) {
      if (!token.is_object() || !token.contains("content") || !token["content"].is_string() ||
          !token.contains("id"))
        fail(path, "an added token has no content or no id");
      place(tokens, known, token["content"].get_ref<const std::string&>(), token["id"], path);
    }
  }
  size_t count = tokens.size();
  while (count > 0 && !known[count - 1]) --count;
  tokens.resize(count);
  for (size_t id = 0; id < count; ++id)
    if (!known[id]) fail(path, "no token has id " + std::to_string(id));
  return tokens;
}

}  // namespace

bool unmap_bytes(const std::string& text, std::string* bytes) {
  static const std::array<int, 324> table = byte_of_code_point();
  bytes->clear();
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned code = static_cast<unsigned char>(text[i]);
    if (code >= 0x80) {  // all mapped characters above ASCII have two bytes
      if ((code & 0xe0) != 0xc0 || i + 1 == text.size()) return false;
      const unsigned low = static_cast<unsigned char>(text[++i]);
      if ((low & 0xc0) != 0x80) return false;
      code = (code & 0x1f) << 6 | (low & 0x3f);
    }
    if (code >= table.size() || table[code] < 0) return false;
    bytes->push_back(static_cast<char>(table[code]));
  }
  return true;
}

std::vector<std::string> read_vocabulary(const std::string& directory, int n_vocab) {
  const auto there = [&](const char* name) {
    return access((directory + "/" + name).c_str(), F_OK) == 0;
  };
  if (there("vocabulary.txt")) return from_lines(directory + "/vocabulary.txt", n_vocab);
  if (there("vocabulary.json")) return from_list(directory + "/vocabulary.json", n_vocab);
  if (there("tokenizer.json")) {
    const std::string path = directory + "/tokenizer.json";
    const Json json = read_json_file(path);
    if (!json.is_object() || !json.contains("model") || !json["model"].is_object() ||
        !json["model"].contains("vocab"))
      fail(path, "no \"vocab\" in \"model\"");
    const auto added = json.find("added_tokens");
    return from_map(json["model"]["vocab"], added == json.end() ? nullptr : &*added, path, n_vocab);
  }
  if (there("vocab.json")) {
    const std::string path = directory + "/vocab.json";
    return from_map(read_json_file(path), nullptr, path, n_vocab);
  }
  throw Error(ErrorCode::kNotFound,
              directory + " has no vocabulary: one of vocabulary.txt, vocabulary.json, " +
                  "tokenizer.json or vocab.json belongs beside the weights");
}

}  // namespace whisperxdna2
