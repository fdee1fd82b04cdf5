// Says what a model file holds: format, dimensions, tokens, memory, and with --tensors the values of every tensor.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "whisper/checkpoint.h"
#include "whisper/error.h"
#include "whisper/model.h"
#include "whisper/tokenizer.h"
#include "whisper/weight_pages.h"

using namespace whisperxdna2;

namespace {

constexpr char kUsage[] =
    "Usage: whisperxdna2-inspect-model [--tensors] [MODEL]\n"
    "  MODEL      a CTranslate2 or Hugging Face directory or a ggml file; default: the fetched "
    "base model\n"
    "  --tensors  statistics of every tensor\n";

const char* name_of(DType dtype) {
  return dtype == DType::kF32 ? "f32" : dtype == DType::kF16 ? "f16" : "bf16";
}

// Largest resident size so far. Unlike getrusage's it knows nothing of the process that started this one.
long peak_kilobytes() {
  std::ifstream status("/proc/self/status");
  std::string word;
  while (status >> word && word != "VmHWM:") {
  }
  long kilobytes = 0;
  status >> kilobytes;
  return kilobytes;
}

void print_tensors(const Model& model) {
  std::printf("\n%-44s %-4s %-16s %10s %10s %10s %10s\n", "tensor", "type", "shape", "min", "max",
              "mean", "rms");
  for (const auto& [name, tensor] : list_tensors(model)) {
    const std::vector<float> values = tensor->to_f32();
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    double sum = 0, squares = 0;
    for (const double value : values) sum += value, squares += value * value;
    const double count = static_cast<double>(values.size());
    std::string shape;
    for (const int size : tensor->shape)
      shape += (shape.empty() ? "" : " x ") + std::to_string(size);
    std::printf("%-44s %-4s %-16s %10.4g %10.4g %10.4g %10.4g\n", name.c_str(),
                name_of(tensor->dtype), shape.c_str(), *low, *high, sum / count,
                std::sqrt(squares / count));
  }
}

void print(const Model& model, double seconds) {
  const ModelDims& dims = model.dims;
  const SpecialTokens& special = model.tokenizer->special();
  std::printf("model       %s\n", model.source.c_str());
  std::printf("found       %s\n", model.description.c_str());
  std::printf("content     %s\n", model.content_key.c_str());
  std::printf("dimensions  %d mel bands, %d positions of audio, %d of text, width %d, %d heads\n",
              dims.n_mels, dims.n_audio_ctx, dims.n_text_ctx, dims.d_model, dims.n_heads);
  std::printf("layers      %d of the encoder, %d of the decoder\n", dims.n_encoder_layers,
              dims.n_decoder_layers);
  std::printf("tokens      %d: text below %d, end %d, start %d, no timestamps %d, 0.00 s %d\n",
              dims.n_vocab, special.eot, special.eot, special.sot, special.no_timestamps,
              special.timestamp_begin);
  std::string languages;
  for (int i = 0; i < special.n_languages; ++i)
    languages += " " + model.tokenizer->language_code(special.language_begin + i);
  std::printf("languages   %s\n", languages.empty() ? "English only" : languages.c_str() + 1);
  std::printf("alignment   layer,head:");
  for (const auto& [layer, head] : model.alignment_heads) std::printf(" %d,%d", layer, head);
  std::printf("\nmemory      %.1f MiB encoder, %.1f MiB decoder; peak of this process %.1f MiB\n",
              static_cast<double>(model.encoder_pages->bytes()) / (1 << 20),
              static_cast<double>(model.decoder_pages->bytes()) / (1 << 20),
              static_cast<double>(peak_kilobytes()) / 1024);
  std::printf("loaded in   %.3f s\n", seconds);
}

}  // namespace

int main(int argc, char** argv) {
  bool tensors = false;
  std::string path;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--help") == 0) {
      std::fputs(kUsage, stdout);
      return 0;
    }
    if (std::strcmp(argv[i], "--tensors") == 0) {
      tensors = true;
    } else if (argv[i][0] == '-' || !path.empty()) {
      std::fputs(kUsage, stderr);
      return 2;
    } else {
      path = argv[i];
    }
  }
  if (path.empty()) path = default_model_path();
  try {
    const auto begin = std::chrono::steady_clock::now();
    const auto model = load_model(path);
    print(*model, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    if (tensors) print_tensors(*model);
  } catch (const Error& error) {
    std::fprintf(stderr, "whisperxdna2-inspect-model: %s\n", error.what());
    return 1;
  }
  return 0;
}
