// Makes a model's int8 encoder and says how good it is.
//
// The element does this by itself when it meets a model for the first time. By hand: to calibrate on speech like that
// which will be recognized, to put the result beside a model whose users share no cache, or to see the numbers.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "kernels/cpu/thread_pool.h"
#include "tools/speech.h"
#include "whisper/bundled_speech.h"
#include "whisper/measurements.h"
#include "whisper/quantize.h"
#include "whisper/silent_tail.h"

using namespace whisperxdna2;

namespace {

constexpr char kUsage[] =
    "Usage: whisperxdna2-quantize [OPTION...] [MODEL [WAV...]]\n"
    "  MODEL           a CTranslate2 or Hugging Face directory or a ggml file; default: the fetched base model\n"
    "  WAV             speech to calibrate on: 16 bits, mono, 16 kHz; default: the ranges that the library brings\n"
    "                  for the model, or the speech that it brings\n"
    "  --beside        write the result beside the model, where it is found first, not into the cache\n"
    "  --dry-run       write nothing\n"
    "  --check WAV     a window that is compared with f32 (may be repeated); default: the bundled speech\n"
    "  --measure FILE  measure what the library is to bring for a model (whisper/data/README.md), on the bundled\n"
    "                  speech and the WAVs, and write that\n"
    "  --threads N     default: as many as there are processors\n";

[[noreturn]] void usage(FILE* to, int status) {
  std::fputs(kUsage, to);
  std::exit(status);
}

struct Options {
  std::string model, measure;
  std::vector<std::string> speech, checks;
  bool beside = false, dry_run = false;
  int threads = ThreadPool::available_processors();
};

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const auto value = [&]() -> std::string {
      if (i + 1 >= argc) usage(stderr, 2);
      return argv[++i];
    };
    if (argument == "--help") usage(stdout, 0);
    if (argument == "--beside") {
      o.beside = true;
    } else if (argument == "--dry-run") {
      o.dry_run = true;
    } else if (argument == "--check") {
      o.checks.push_back(value());
    } else if (argument == "--measure") {
      o.measure = value();
    } else if (argument == "--threads") {
      o.threads = std::max(1, std::atoi(value().c_str()));
    } else if (argument[0] == '-') {
      usage(stderr, 2);
    } else if (o.model.empty()) {
      o.model = argument;
    } else {
      o.speech.push_back(argument);
    }
  }
  if (o.model.empty()) o.model = default_model_path();
  return o;
}

Calibration calibrate(const std::shared_ptr<const Model>& model, const Options& o) {
  const auto progress = [](double fraction) { std::fprintf(stderr, "\rcalibrating %3.0f %%", 100 * fraction); };
  Calibrator calibrator(model, o.threads);
  for (int clip = 0; clip < kBundledClips && !o.measure.empty(); ++clip) calibrator.add_speech(bundled_speech(clip));
  for (size_t i = 0; i < o.speech.size(); ++i) {
    progress(static_cast<double>(i) / static_cast<double>(o.speech.size()));
    calibrator.add_speech(read_wav(o.speech[i]));
  }
  Calibration c = o.speech.empty() ? calibrate_on_bundled_speech(model, o.threads, progress) : calibrator.calibration();
  std::fprintf(stderr, "\rcalibrated      \n");
  return c;
}

float largest(const Ranges& r) {
  float most = 0;
  for (size_t c = 0; c < r.high.size(); ++c) {
    most = std::max(most, std::fabs(r.high[c]));
    if (c < r.low.size()) most = std::max(most, std::fabs(r.low[c]));
  }
  return most;
}

void print(const Calibration& calibration, const QuantizedEncoder& encoder) {
  std::printf("\n%-6s %36s   %27s   %s\n", "", "largest input", "largest result", "shifts s1, s2");
  std::printf("%-6s %9s%9s%9s%9s %11s%9s%9s %12s%8s%8s%8s\n", "layer", "qkv", "out", "fc1", "fc2", "qkv", "fc1", "fc2",
              "qkv", "out", "fc1", "fc2");
  for (size_t i = 0; i < encoder.layers.size(); ++i) {
    const LayerRanges& r = calibration.layers[i];
    const QuantizedLayer& l = encoder.layers[i];
    std::printf("%-6zu %9.3g%9.3g%9.3g%9.3g   %9.3g%9.3g%9.3g    ", i, largest(r.qkv_input), largest(r.out_input),
                largest(r.fc1_input), largest(r.fc2_input), largest(r.qkv_output), largest(r.fc1_output),
                largest(r.fc2_output));
    for (const QuantizedLinear* q : {&l.qkv, &l.out, &l.fc1, &l.fc2}) std::printf("%5d,%2d", q->stage.s1, q->stage.s2);
    std::printf("\n");
  }
}

void check(const std::shared_ptr<const Model>& model, const QuantizedEncoder& quantized, const Options& o) {
  EncoderSchedule f32(packed_encoder(model), o.threads);
  EncoderSchedule int8(packed_int8_encoder(model, [&] { return quantized; }), o.threads);
  const ModelDims& dims = model->dims;
  std::printf("\nsignal-to-noise ratio of the features against f32, windows of 10.24 s\n");
  const auto compare = [&](const std::string& name, const std::vector<float>& samples) {
    const std::vector<float> mel = window_mel(samples, 0, dims.n_mels);
    std::printf("  %5.2f dB  %s\n", snr(encode(&f32, mel, dims.d_model), encode(&int8, mel, dims.d_model)),
                name.c_str());
  };
  for (const std::string& path : o.checks) compare(path, read_wav(path));
  if (!o.checks.empty()) return;
  for (int clip = 0; clip < kBundledClips; ++clip) {
    compare("bundled clip " + std::to_string(clip), bundled_speech(clip));
  }
}

void write_measurements(const std::shared_ptr<const Model>& model, const Calibration& calibration, const Options& o) {
  const std::string bytes =
      serialize(Measurements{calibration, measure_silent_tail(model, o.threads, {}, nullptr)}, *model);
  std::ofstream out(o.measure, std::ios::binary);
  if (!(out << bytes) || !out.flush()) throw Error(ErrorCode::kNoResource, o.measure + " cannot be written");
  std::printf("measured  %zu bytes in %s\n", bytes.size(), o.measure.c_str());
}

int run(const Options& o) {
  const std::shared_ptr<const Model> model = load_model(o.model);
  std::printf("model     %s\n          %s\n", model->source.c_str(), model->description.c_str());
  std::optional<Measurements> known;
  if (o.speech.empty() && o.measure.empty()) known = stored_measurements(*model);
  const Calibration calibration = known ? known->calibration : calibrate(model, o);
  if (!o.measure.empty()) {
    write_measurements(model, calibration, o);
    return 0;
  }
  const auto begin = std::chrono::steady_clock::now();
  const QuantizedEncoder encoder = quantize(*model, calibration);
  std::printf("ranges    %s\nquantized in %.2f s\n",
              known              ? "those that the library brings"
              : o.speech.empty() ? "of the bundled speech"
                                 : "of the files given",
              std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  print(calibration, encoder);
  check(model, encoder, o);
  if (o.dry_run) return 0;
  const Place place = o.beside ? Place::kBesideModel : Place::kCache;
  const std::string failure = store_quantized_encoder(encoder, *model, place);
  if (!failure.empty()) throw Error(ErrorCode::kNoResource, failure);
  std::printf("\nwritten   %s\n", quantized_encoder_path(*model, place).c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = parse(argc, argv);
  try {
    return run(options);
  } catch (const Error& error) {
    std::fprintf(stderr, "quantize: %s\n", error.what());
    return 1;
  }
}
