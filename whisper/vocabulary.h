// Vocabulary files beside the weights: text tokens as raw bytes.
#pragma once

#include <string>
#include <vector>

namespace whisperxdna2 {

// GPT-2 writes bytes as printable characters ("Ġ" is a space; openai/gpt-2 src/encoder.py bytes_to_unicode). Undoes it;
// false where `text` has another character.
bool unmap_bytes(const std::string& text, std::string* bytes);

// The vocabulary in `directory`, from the first of vocabulary.txt, vocabulary.json (CTranslate2), tokenizer.json,
// vocab.json (Hugging Face) that is there: raw bytes of text tokens, names of control tokens, by id. At most `n_vocab`
// entries, each of at most 1 KiB. Throws Error: kNotFound naming what is looked for, kInvalidFile.
std::vector<std::string> read_vocabulary(const std::string& directory, int n_vocab);

}  // namespace whisperxdna2
