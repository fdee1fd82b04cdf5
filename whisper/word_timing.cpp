#include "whisper/word_timing.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/f32_kernels.h"
#include "whisper/error.h"

namespace whisperxdna2 {
namespace {

constexpr double kSecondsPerPosition = 0.02;
constexpr double kLongWord = 0.7;        // seconds; cap of the median duration that "too long" is measured by
constexpr char kPrepended[] = "\"'\u201c\u00bf([{-";
constexpr char kAppended[] = "\"'.\u3002,\uff0c!\uff01?\uff1f:\uff1a\u201d)]}\u3001";
constexpr char kSentenceEnds[] = ".\u3002!\uff01?\uff1f";

// Whether `mark` is one of the code points of `set`.
bool one_of(std::string_view mark, std::string_view set) {
  if (mark.empty()) return false;
  const size_t at = set.find(mark);
  const auto boundary = [&](size_t i) { return i == set.size() || (set[i] & 0xC0) != 0x80; };
  return at != std::string_view::npos && boundary(at) && boundary(at + mark.size());
}

std::string_view trimmed(std::string_view s) {
  while (!s.empty() && s.front() == ' ') s.remove_prefix(1);
  while (!s.empty() && s.back() == ' ') s.remove_suffix(1);
  return s;
}

// softmax over the columns of each row, then mean 0 and deviation 1 over the rows of each column, in place.
void normalize(float* x, int rows, int columns) {
  std::vector<float> inverse(rows);
  f32_kernels().softmax(x, columns, rows, columns, inverse.data());
  std::vector<double> mean(columns), square(columns);
  for (int r = 0; r < rows; ++r) {
    float* row = x + static_cast<ptrdiff_t>(r) * columns;
    for (int c = 0; c < columns; ++c) mean[c] += row[c] *= inverse[r];
  }
  for (double& m : mean) m /= rows;
  for (int r = 0; r < rows; ++r) {
    const float* row = x + static_cast<ptrdiff_t>(r) * columns;
    for (int c = 0; c < columns; ++c) square[c] += (row[c] - mean[c]) * (row[c] - mean[c]);
  }
  for (double& s : square) s = s > 0 ? 1 / std::sqrt(s / rows) : 0;
  for (int r = 0; r < rows; ++r) {
    float* row = x + static_cast<ptrdiff_t>(r) * columns;
    for (int c = 0; c < columns; ++c) row[c] = static_cast<float>((row[c] - mean[c]) * square[c]);
  }
}

// Median over 7 neighbors in the row, mirrored at the ends; rows too short for that stay as they are. `padded` is
// scratch. (The network of 13 exchanges: N. Devillard, "Fast median search", 1998.)
void median_filter(float* row, int columns, std::vector<float>* padded) {
  constexpr int kHalf = 3;
  if (columns <= kHalf) return;
  padded->resize(columns + 2 * kHalf);
  float* p = padded->data();
  std::copy_n(row, columns, p + kHalf);
  for (int i = 1; i <= kHalf; ++i) {
    p[kHalf - i] = row[i];
    p[kHalf + columns - 1 + i] = row[columns - 1 - i];
  }
  const auto order = [](float& low, float& high) {
    const float a = low, b = high;
    low = a < b ? a : b;
    high = a < b ? b : a;
  };
  for (int c = 0; c < columns; ++c) {
    float a = p[c], b = p[c + 1], d = p[c + 2], e = p[c + 3], f = p[c + 4], g = p[c + 5], h = p[c + 6];
    order(a, g), order(a, e), order(b, h), order(d, f), order(a, b), order(e, g), order(d, h), order(d, e), order(e, h);
    order(f, g), order(b, f), order(b, e), order(e, f);
    row[c] = e;
  }
}

// Seconds at which each of the rows begins: the first column that the path visits in it.
std::vector<double> row_starts(const std::vector<std::pair<int, int>>& path, int rows) {
  std::vector<double> starts(rows, 0.0);
  int last = -1;
  for (const auto& [row, column] : path) {
    if (row != last) starts[row] = column * kSecondsPerPosition;
    last = row;
  }
  return starts;
}

// openai/whisper add_word_timestamps: a word much longer than usual has swallowed the pause at a sentence's end.
void cut_long_words(std::vector<Word>* words) {
  std::vector<double> durations;
  for (const Word& w : *words) {
    if (w.end > w.start) durations.push_back(w.end - w.start);
  }
  if (durations.empty()) return;
  std::sort(durations.begin(), durations.end());
  const double median = (durations[(durations.size() - 1) / 2] + durations[durations.size() / 2]) / 2;
  const double longest = 2 * std::min(kLongWord, median);
  for (size_t i = 1; i < words->size(); ++i) {
    Word& w = (*words)[i];
    if (w.end - w.start <= longest) continue;
    if (one_of(w.text, kSentenceEnds)) {
      w.end = w.start + longest;
    } else if (one_of((*words)[i - 1].text, kSentenceEnds)) {
      w.start = w.end - longest;
    }
  }
}

// Appends `next` to `word`.
void join(Word* word, const Word& next) {
  if (next.space_before) word->text += ' ';
  word->text += next.text;
  word->tokens.insert(word->tokens.end(), next.tokens.begin(), next.tokens.end());
  word->end = std::max(word->end, next.end);
}

}  // namespace

std::vector<std::pair<int, int>> dynamic_time_warping(const float* cost, int rows, int columns) {
  enum Step : uint8_t { kDiagonal, kRow, kColumn };
  const size_t width = static_cast<size_t>(columns) + 1;
  std::vector<float> previous(width, std::numeric_limits<float>::infinity()), current(width);
  std::vector<uint8_t> steps(static_cast<size_t>(rows) * columns);
  previous[0] = 0;
  for (int r = 0; r < rows; ++r) {
    current[0] = std::numeric_limits<float>::infinity();
    for (int c = 0; c < columns; ++c) {
      const float diagonal = previous[c], row = previous[c + 1], column = current[c];
      float least;
      Step step;
      if (diagonal <= row && diagonal <= column) {
        least = diagonal;
        step = kDiagonal;
      } else if (row <= column) {
        least = row;
        step = kRow;
      } else {
        least = column;
        step = kColumn;
      }
      current[c + 1] = cost[static_cast<size_t>(r) * columns + c] + least;
      steps[static_cast<size_t>(r) * columns + c] = step;
    }
    previous.swap(current);
  }
  std::vector<std::pair<int, int>> path;
  int r = rows - 1, c = columns - 1;
  while (r >= 0 && c >= 0) {
    path.emplace_back(r, c);
    // Along the edges there is one way only.
    const uint8_t step = r == 0   ? uint8_t{kColumn}
                         : c == 0 ? uint8_t{kRow}
                                  : steps[static_cast<size_t>(r) * columns + c];
    if (step != kColumn) --r;
    if (step != kRow) --c;
  }
  std::reverse(path.begin(), path.end());
  return path;
}

std::vector<Word> word_times(const Tokenizer& tokenizer, std::string_view language, const std::vector<int>& prefix,
                             const DecodeResult& result, int heads, int content, int* prefix_words) {
  if (prefix_words) *prefix_words = 0;
  // Rows of the alignment that belong to text, and the one that predicts the end.
  std::vector<int> text, rows;
  std::vector<float> log_probs;
  for (size_t i = 0; i < prefix.size() + result.tokens.size(); ++i) {
    const bool forced = i < prefix.size();
    const int id = forced ? prefix[i] : result.tokens[i - prefix.size()];
    if (!tokenizer.is_text(id)) continue;
    text.push_back(id);
    rows.push_back(static_cast<int>(i));
    log_probs.push_back(forced ? 0.0f : result.log_probs[i - prefix.size()]);
  }
  if (text.empty() || content <= 0) return {};
  const size_t forced = static_cast<size_t>(
      std::count_if(rows.begin(), rows.end(), [&](int r) { return r < static_cast<int>(prefix.size()); }));
  rows.push_back(static_cast<int>(prefix.size() + result.tokens.size()));
  const int n = static_cast<int>(rows.size());
  if (result.alignment_rows <= rows.back() ||
      result.alignment.size() != static_cast<size_t>(heads) * result.alignment_rows * content) {
    throw Error(ErrorCode::kInvalidUse, "word times need a decode with its alignment");
  }

  std::vector<float> cost(static_cast<size_t>(n) * content, 0.0f), head(cost.size()), scratch;
  for (int h = 0; h < heads; ++h) {
    for (int r = 0; r < n; ++r) {
      std::copy_n(&result.alignment[(static_cast<size_t>(h) * result.alignment_rows + rows[r]) * content], content,
                  &head[static_cast<size_t>(r) * content]);
    }
    normalize(head.data(), n, content);
    for (int r = 0; r < n; ++r) median_filter(&head[static_cast<size_t>(r) * content], content, &scratch);
    for (size_t i = 0; i < cost.size(); ++i) cost[i] -= head[i] / static_cast<float>(heads);
  }
  const std::vector<double> starts = row_starts(dynamic_time_warping(cost.data(), n, content), n);

  std::vector<Word> parts;
  std::vector<size_t> first_token;
  size_t at = 0;
  // What was forced consists of whole words: what follows without a space continues the text but is a word of its own.
  std::vector<Tokenizer::Word> split = tokenizer.split_words({text.begin(), text.begin() + forced}, language);
  std::vector<Tokenizer::Word> sampled = tokenizer.split_words({text.begin() + forced, text.end()}, language);
  split.insert(split.end(), std::make_move_iterator(sampled.begin()), std::make_move_iterator(sampled.end()));
  for (Tokenizer::Word& w : split) {
    Word part;
    part.space_before = !w.text.empty() && w.text.front() == ' ';
    part.text = trimmed(w.text);
    part.start = starts[at];
    first_token.push_back(at);
    float sum = 0;
    for (size_t i = 0; i < w.tokens.size(); ++i) sum += log_probs[at + i];
    part.probability = std::exp(sum / static_cast<float>(w.tokens.size()));
    at += w.tokens.size();
    part.end = std::max(part.start, starts[at]);
    part.tokens = std::move(w.tokens);
    parts.push_back(std::move(part));
  }
  cut_long_words(&parts);

  // Opening punctuation goes to the word after it, closing punctuation to the word before it.
  std::vector<Word> words;
  for (size_t i = 0; i < parts.size(); ++i) {
    Word w = parts[i];
    const bool was_forced = first_token[i] < forced;
    while (one_of(w.text, kPrepended) && w.space_before && i + 1 < parts.size()) {
      Word next = parts[++i];
      next.space_before = false;
      w.probability = next.probability;
      w.start = next.start;
      join(&w, next);
    }
    while (i + 1 < parts.size() && !parts[i + 1].space_before && one_of(parts[i + 1].text, kAppended) &&
           (first_token[i + 1] < forced) == was_forced) {
      const double end = w.end;
      join(&w, parts[++i]);
      w.end = end;
    }
    if (w.text.empty()) continue;
    if (was_forced && prefix_words) ++*prefix_words;
    words.push_back(std::move(w));
  }
  return words;
}

}  // namespace whisperxdna2
