// What tools/bench measures of this library: reads one command a line from standard input and answers with one line.
//
//   encode PRECISION          ms for a window                  features PRECISION FILE  writes its features, f32
//   mel                       ms for the log-mel of a window   mel-file FILE            writes it, f32
//   token                     ms for each further token of a greedy decode
//   transcribe PRECISION BEAMS LANGUAGE FILE  "SECONDS TEXT" of a WAV file, from samples to text
//   profile PRECISION RUNS    a line for each layer and operation: LAYER \t NAME \t CALLS \t MS \t OPERATIONS, then "."
//   windows FILE              for each window of a WAV file that is at least half full: FIRST \t DB of int8 against f32
//                             \t TEXT from f32 \t TEXT from int8; then "."
//   tensors FOLDER            writes every tensor of the encoder as f32, and shapes.json
//   memory                    MB resident at most so far
//
// Usage: bench-worker WAV THREADS [MODEL]. The window is the first 10.24 s of WAV.

#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <iostream>
#include <map>
#include <sstream>
#include <thread>

#include "kernels/cpu/bf16_kernels.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/profile.h"
#include "tools/speech.h"
#include "whisper/checkpoint.h"
#include "whisper/decoder.h"
#include "whisper/engine.h"
#include "whisper/quantize.h"
#include "whisper/silent_tail.h"
#include "whisper/tokenizer.h"

using namespace whisperxdna2;

namespace {

template <class Work>
double milliseconds(const Work& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
}

void write(const std::string& path, const std::vector<float>& values) {
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(float)));
  if (!out.flush()) throw Error(ErrorCode::kNoResource, path + " cannot be written");
}

class Worker {
 public:
  Worker(const std::string& wav, int threads, const std::string& path)
      : threads_(threads), path_(path), model_(load_model(path)), samples_(read_wav(wav)) {
    samples_.resize(kWindowSamples);
    mel_ = window_mel(samples_, 0, model_->dims.n_mels);
  }

  void answer(const std::string& line) {
    std::istringstream words(line);
    std::string command, argument;
    words >> command;
    if (command == "encode") {
      words >> argument;
      EncoderSchedule* e = encoder(argument);
      std::printf("%.3f\n", milliseconds([&] { encode(e, mel_, model_->dims.d_model); }));
    } else if (command == "features") {
      std::string file;
      words >> argument >> file;
      write(file, encode(encoder(argument), mel_, model_->dims.d_model));
      std::puts("written");
    } else if (command == "mel") {
      std::printf("%.3f\n", milliseconds([&] { window_mel(samples_, 0, model_->dims.n_mels); }));
    } else if (command == "mel-file") {
      words >> argument;
      write(argument, mel_);
      std::puts("written");
    } else if (command == "token") {
      std::printf("%.4f\n", token());
    } else if (command == "transcribe") {
      int beams;
      std::string language, file;
      words >> argument >> beams >> language >> file;
      transcribe(argument, beams, language, file);
    } else if (command == "profile") {
      int runs;
      words >> argument >> runs;
      profile(encoder(argument), runs);
    } else if (command == "windows") {
      words >> argument;
      compare(read_wav(argument));
      std::puts(".");
    } else if (command == "tensors") {
      words >> argument;
      write_tensors(argument);
      std::puts("written");
    } else if (command == "memory") {
      rusage usage;
      getrusage(RUSAGE_SELF, &usage);
      std::printf("%.1f\n", static_cast<double>(usage.ru_maxrss) / 1024);
    } else {
      throw Error(ErrorCode::kInvalidUse, "unknown command " + command);
    }
    std::fflush(stdout);
  }

 private:
  EncoderSchedule* encoder(const std::string& precision) {
    auto& e = encoders_[precision];
    if (!e) {
      const auto quantized = [&](const TakeLayer& take) { quantized_layers(model_, threads_, take); };
      e = std::make_unique<EncoderSchedule>(precision == "f32"    ? packed_encoder(model_)
                                            : precision == "bf16" ? packed_bf16_encoder(model_)
                                                                  : packed_int8_encoder(model_, quantized),
                                            threads_);
      encode(e.get(), mel_, model_->dims.d_model);  // memory is touched for the first time
    }
    return e.get();
  }

  Decoder* decoder() {
    if (!decoder_) {
      decoder_ = std::make_unique<Decoder>(model_, Precision::kAuto, threads_);
      tail_ = silent_tail(model_, threads_, {}, nullptr, nullptr);
    }
    return decoder_.get();
  }

  // Both decodes begin alike; their difference is a number of steps.
  double token() {
    constexpr int kFew = 2, kMore = 20;
    if (!features_set_) {
      const std::vector<float> features = encode(encoder("int8"), mel_, model_->dims.d_model);
      decoder()->set_features(features.data(), kWindowPositions, kWindowPositions, tail_.data(), kTailRows);
      features_set_ = true;
    }
    DecodeOptions o;
    o.language = model_->tokenizer->language_id("en");
    size_t tokens[2];
    double times[2];
    for (const int i : {0, 1}) {
      o.max_new_tokens = i == 0 ? kFew : kMore;
      times[i] = milliseconds([&] { tokens[i] = decoder_->decode(o).tokens.size(); });
    }
    if (tokens[1] <= tokens[0]) throw Error(ErrorCode::kInvalidUse, "too little speech in the window to time a decode");
    return (times[1] - times[0]) / static_cast<double>(tokens[1] - tokens[0]);
  }

  void transcribe(const std::string& precision, int beams, const std::string& language, const std::string& file) {
    std::unique_ptr<Engine>& engine = engines_[{precision, beams}];
    if (!engine) {
      EngineOptions o;
      o.model_path = path_;
      o.threads = threads_;
      o.backend = Backend::kCpu;
      o.beam_size = beams;
      o.precision = precision == "f32" ? Precision::kF32 : precision == "bf16" ? Precision::kBF16 : Precision::kInt8;
      engine = std::make_unique<Engine>(o);
    }
    engine->set_language(language);
    const std::vector<float> samples = read_wav(file);
    std::string text;
    const double time = milliseconds([&] {
      std::thread feeder(
          [&] { engine->push(samples.data(), static_cast<int64_t>(samples.size())) && engine->drain(); });
      for (Result r; r.kind != Result::Kind::kDrained;) {
        r = engine->next();
        for (const Segment& s : r.segments) text += " " + s.text;
      }
      feeder.join();
    });
    for (char& c : text) c = c == '\n' ? ' ' : c;
    std::printf("%.4f%s\n", time / 1000, text.c_str());
  }

  void profile(EncoderSchedule* e, int runs) {
    take_profile();
    enable_profile(true);
    for (int i = 0; i < runs; ++i) encode(e, mel_, model_->dims.d_model);
    enable_profile(false);
    for (const ProfileEntry& p : take_profile(true)) {
      std::printf("%d\t%s\t%.0f\t%.4f\t%.0f\n", p.layer, p.name.c_str(), static_cast<double>(p.calls) / runs,
                  static_cast<double>(p.nanoseconds) * 1e-6 / runs, static_cast<double>(p.operations) / runs);
    }
    std::puts(".");
  }

  void write_tensors(const std::string& folder) {
    std::string shapes;
    for (const auto& [name, tensor] : list_tensors(*model_)) {
      if (name.compare(0, 8, "encoder.") != 0) continue;
      write(folder + "/" + name, tensor->to_f32());
      shapes += (shapes.empty() ? "{" : ",\n ") + ("\"" + name + "\": [");
      for (size_t i = 0; i < tensor->shape.size(); ++i) shapes += (i ? ", " : "") + std::to_string(tensor->shape[i]);
      shapes += "]";
    }
    std::ofstream(folder + "/shapes.json") << shapes << "}\n";
  }

  std::string text_of(const std::vector<float>& features, int content, int* language) {
    decoder()->set_features(features.data(), kWindowPositions, content, tail_.data(), kTailRows);
    const SpecialTokens& special = model_->tokenizer->special();
    if (*language < 0 && special.multilingual) {
      const std::vector<float> p = decoder()->detect_language();
      *language = special.language_begin + static_cast<int>(std::max_element(p.begin(), p.end()) - p.begin());
    }
    DecodeOptions o;
    o.language = *language;
    o.max_new_tokens = 100;
    o.stop_at_loop = true;
    std::string text = model_->tokenizer->decode(decoder()->decode(o).tokens);
    for (char& c : text) c = c == '\n' || c == '\t' ? ' ' : c;
    return text;
  }

  void compare(const std::vector<float>& samples) {
    const int64_t count = static_cast<int64_t>(samples.size());
    for (int64_t first = 0; first == 0 || first + kWindowSamples / 2 <= count; first += kWindowSamples) {
      const int64_t positions = (count - first) / (kFramesPerPosition * kFrameHop);
      const int content = static_cast<int>(std::min<int64_t>(kWindowPositions, positions));
      const std::vector<float> mel = window_mel(samples, first, model_->dims.n_mels);
      const std::vector<float> want = encode(encoder("f32"), mel, model_->dims.d_model);
      const std::vector<float> have = encode(encoder("int8"), mel, model_->dims.d_model);
      int language = -1;
      const std::string text = text_of(want, content, &language);
      std::printf("%lld\t%.3f\t%s\t%s\n", static_cast<long long>(first), snr(want, have), text.c_str(),
                  text_of(have, content, &language).c_str());
    }
    features_set_ = false;
  }

  const int threads_;
  const std::string path_;
  const std::shared_ptr<const Model> model_;
  std::vector<float> samples_, mel_, tail_;
  std::map<std::string, std::unique_ptr<EncoderSchedule>> encoders_;
  std::unique_ptr<Decoder> decoder_;
  bool features_set_ = false;  // those of the window
  std::map<std::pair<std::string, int>, std::unique_ptr<Engine>> engines_;  // by precision and beams
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fputs("bench-worker is started by tools/bench\n", stderr);
    return 2;
  }
  try {
    Worker worker(argv[1], std::atoi(argv[2]), argc > 3 ? argv[3] : default_model_path());
    std::printf("%s (%s%s)\n", cpu_name().c_str(), isa_name(isa()), has_bf16_products() ? ", bf16" : "");
    std::fflush(stdout);
    for (std::string line; std::getline(std::cin, line);) worker.answer(line);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench-worker: %s\n", error.what());
    return 1;
  }
  return 0;
}
