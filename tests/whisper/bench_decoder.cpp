// Times the decoder over recorded encoder rows: setting features, a prefix, and each sampled token.
// usage: bench_decoder [THREADS [int8|f32 [MODEL]]]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>

#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/profile.h"
#include "tests/whisper/decoder_case.h"
#include "whisper/tokenizer.h"
#include "whisper/word_timing.h"

using namespace whisperxdna2;

namespace {

template <class Work>
double milliseconds(const Work& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

void print(const char* what, std::vector<double> times, double per) {
  std::sort(times.begin(), times.end());
  std::printf("%-34s %8.3f %8.3f\n", what, times.front() / per, times[times.size() / 2] / per);
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2;
  const auto model = load_model(argc > 3 ? argv[3] : default_model_path());
  const bool int8 = argc < 3 || std::string(argv[2]) != "f32";
  std::optional<Decoder> made;
  const double making = milliseconds([&] { made.emplace(model, int8 ? Precision::kInt8 : Precision::kF32, threads); });
  Decoder& decoder = *made;
  std::printf("%s, %s, %d threads\n%-34s %8s %8s\n", cpu_name().c_str(), isa_name(isa()), threads, "ms", "min",
              "median");

  print("weights", {making}, 1);
  constexpr int kRuns = 15;
  std::vector<double> features, one, many, prefix, words, beams;
  set_features(decoder, kJfkTail);
  for (int i = 0; i < kRuns; ++i) {
    features.push_back(milliseconds([&] { set_features(decoder, kJfkTail); }));
    DecodeOptions o = options_of(kJfkTail);
    o.alignment = true;
    o.max_new_tokens = 1;
    one.push_back(milliseconds([&] { decoder.decode(o); }));
    o.prefix.assign(20, 400);
    prefix.push_back(milliseconds([&] { decoder.decode(o); }));
    o.prefix.clear();
    o.max_new_tokens = 21;
    DecodeResult r;
    many.push_back(milliseconds([&] { r = decoder.decode(o); }) - one.back());
    o.beam_size = 5;
    const double several = milliseconds([&] { decoder.decode(o); });
    o.max_new_tokens = 1;
    beams.push_back(several - milliseconds([&] { decoder.decode(o); }));
    words.push_back(milliseconds([&] {
      word_times(*model->tokenizer, "en", {}, r, static_cast<int>(model->alignment_heads.size()), 512, nullptr);
    }));
  }
  print("features, 576 rows", features, 1);
  print("prompt and first token", one, 1);
  print("the same with a prefix of 20", prefix, 1);
  print("each further token", many, 20);
  print("the same with 5 beams", beams, 20);
  print("word times, 22 rows", words, 1);

  DecodeOptions o = options_of(kJfkTail);
  o.max_new_tokens = 1;
  enable_profile(true);
  decoder.decode(o);
  std::vector<ProfileEntry> begin = take_profile();
  o.max_new_tokens = 21;
  decoder.decode(o);
  std::printf("\n%-34s %8s %8s\n", "a further token, last run", "ms", "GOP/s");
  const std::vector<ProfileEntry> all = take_profile();
  for (size_t i = 0; i < all.size(); ++i) {
    const double ms = static_cast<double>(all[i].nanoseconds - begin[i].nanoseconds) * 1e-6;
    std::printf("%-34s %8.3f %8.1f\n", all[i].name.c_str(), ms / 20,
                static_cast<double>(all[i].operations - begin[i].operations) / ms * 1e-6);
  }
}
