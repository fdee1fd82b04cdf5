// Word times by dynamic time warping over the cross attention of the alignment heads (openai/whisper
// whisper/timing.py).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "whisper/decoder.h"
#include "whisper/tokenizer.h"

namespace whisperxdna2 {

// A word with its punctuation, without surrounding blanks.
struct Word {
  std::string text;
  double start = 0, end = 0;   // seconds; end >= start
  float probability = 0;       // geometric mean of its sampled tokens' probabilities; 1 for forced ones
  bool space_before = true;    // false inside text written without spaces
  std::vector<int> tokens;     // its text tokens, as they can be forced again as a prefix
};

// Lowest-cost monotone path from (0,0) to (rows-1, columns-1) through `cost` [rows][columns]: pairs (row, column) in
// order. Of equally cheap steps the diagonal comes first, then the row step. (openai/whisper takes the column step at a
// tie, even where that is not the cheapest.)
std::vector<std::pair<int, int>> dynamic_time_warping(const float* cost, int rows, int columns);

// Words of `prefix` + `result.tokens` (timestamps are ignored) with times relative to the window's first sample; the
// words of the prefix come first, `prefix_words` says how many they are (may be null). `result` must hold an alignment
// of `content` positions for `heads` alignment heads.
std::vector<Word> word_times(const Tokenizer& tokenizer, std::string_view language, const std::vector<int>& prefix,
                             const DecodeResult& result, int heads, int content, int* prefix_words);

}  // namespace whisperxdna2
