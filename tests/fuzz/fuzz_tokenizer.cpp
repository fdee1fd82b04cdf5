// Arbitrary text is encoded without loss; arbitrary ids are decoded and split without loss.
#include <cstdlib>
#include <set>

#include "whisper/tokenizer.h"

using namespace whisperxdna2;

namespace {

// Single bytes, and longer tokens made of seldom and frequent pairs, so that merges happen at every length.
std::vector<std::string> synthetic_vocabulary() {
  std::vector<std::string> tokens;
  std::set<std::string> known;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  known.insert(tokens.begin(), tokens.end());
  unsigned state = 1;
  const auto random = [&] { return state = state * 1664525 + 1013904223, state >> 8; };
  while (tokens.size() < 50256) {
    const std::string token = tokens[random() % tokens.size()] + tokens[random() % tokens.size()];
    if (token.size() <= 16 && known.insert(token).second) tokens.push_back(token);
  }
  tokens.emplace_back();
  return tokens;
}

void check(bool good) {
  if (!good) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Tokenizer tokenizer(synthetic_vocabulary(), 51865);
  const std::string text(reinterpret_cast<const char*>(data), size);
  const std::vector<int> ids = tokenizer.encode(text);
  std::string bytes;
  for (const int id : ids) bytes += tokenizer.bytes(id);
  check(bytes == text);

  std::vector<int> any, texts;
  for (size_t i = 0; i + 1 < size; i += 2) {
    any.push_back(data[i] << 8 | data[i + 1]);
    if (tokenizer.is_text(any.back())) texts.push_back(any.back());
  }
  tokenizer.decode(any);
  for (const char* language : {"en", "ja"}) {
    std::vector<int> again;
    for (const auto& word : tokenizer.split_words(any, language))
      again.insert(again.end(), word.tokens.begin(), word.tokens.end());
    check(again == texts);
  }
  return 0;
}
