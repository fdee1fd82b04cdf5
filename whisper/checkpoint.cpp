#include "whisper/checkpoint.h"

#include <algorithm>
#include <cstdio>
#include <numeric>

#include "whisper/tokenizer.h"
#include "whisper/weight_pages.h"

namespace whisperxdna2 {
namespace {

constexpr uint64_t kSlack = 32 << 20;  // allowed beyond a multiple of the files' size; the heap has as much

struct Expected {
  std::string name;
  std::vector<uint64_t> shape;
  Tensor* slot;
  bool vector;  // kept as f32
};

// The one list of a Whisper model's tensors, in the order they get in memory: names and shapes of openai/whisper
// whisper/model.py, and where they belong in the Model.
std::vector<Expected> expected_tensors(Model& model) {
  const ModelDims& dims = model.dims;
  const uint64_t d = static_cast<uint64_t>(dims.d_model);
  std::vector<Expected> list;
  const auto matrix = [&](const std::string& name, std::vector<uint64_t> shape, Tensor& slot) {
    list.push_back({name, std::move(shape), &slot, false});
  };
  const auto vector = [&](const std::string& name, std::vector<uint64_t> shape, Tensor& slot) {
    list.push_back({name, std::move(shape), &slot, true});
  };
  const auto linear = [&](const std::string& name, uint64_t out, uint64_t in, Linear& slot) {
    matrix(name + ".weight", {out, in}, slot.weight);
    vector(name + ".bias", {out}, slot.bias);
  };
  const auto norm = [&](const std::string& name, LayerNorm& slot) {
    vector(name + ".weight", {d}, slot.gain);
    vector(name + ".bias", {d}, slot.bias);
  };
  const auto attention = [&](const std::string& name, Attention& slot) {
    linear(name + ".query", d, d, slot.query);
    matrix(name + ".key.weight", {d, d}, slot.key.weight);
    linear(name + ".value", d, d, slot.value);
    linear(name + ".out", d, d, slot.out);
  };

  matrix("encoder.conv1.weight", {d, static_cast<uint64_t>(dims.n_mels), 3}, model.conv1_weight);
  vector("encoder.conv1.bias", {d}, model.conv1_bias);
  matrix("encoder.conv2.weight", {d, d, 3}, model.conv2_weight);
  vector("encoder.conv2.bias", {d}, model.conv2_bias);
  vector("encoder.positional_embedding", {static_cast<uint64_t>(dims.n_audio_ctx), d},
         model.encoder_positions);
  for (size_t i = 0; i < model.encoder_layers.size(); ++i) {
    EncoderLayer& layer = model.encoder_layers[i];
    const std::string name = "encoder.blocks." + std::to_string(i);
    norm(name + ".attn_ln", layer.attention_norm);
    attention(name + ".attn", layer.attention);
    norm(name + ".mlp_ln", layer.mlp_norm);
    linear(name + ".mlp.0", 4 * d, d, layer.fc1);
    linear(name + ".mlp.2", d, 4 * d, layer.fc2);
  }
  norm("encoder.ln_post", model.encoder_norm);

  matrix("decoder.token_embedding.weight", {static_cast<uint64_t>(dims.n_vocab), d},
         model.token_embedding);
  vector("decoder.positional_embedding", {static_cast<uint64_t>(dims.n_text_ctx), d},
         model.decoder_positions);
  for (size_t i = 0; i < model.decoder_layers.size(); ++i) {
    DecoderLayer& layer = model.decoder_layers[i];
    const std::string name = "decoder.blocks." + std::to_string(i);
    norm(name + ".attn_ln", layer.self_norm);
    attention(name + ".attn", layer.self_attention);
    norm(name + ".cross_attn_ln", layer.cross_norm);
    attention(name + ".cross_attn", layer.cross_attention);
    norm(name + ".mlp_ln", layer.mlp_norm);
    linear(name + ".mlp.0", 4 * d, d, layer.fc1);
    linear(name + ".mlp.2", d, 4 * d, layer.fc2);
  }
  norm("decoder.ln", model.decoder_norm);
  return list;
}

std::string to_text(const std::vector<uint64_t>& shape) {
  std::string text = "[";
  for (const uint64_t size : shape) text += (text.size() > 1 ? " " : "") + std::to_string(size);
  return text + "]";
}

// Text tokens of the vocabulary, whose control tokens, where it lists them, must be where Whisper's are.
std::shared_ptr<const Tokenizer> make_tokenizer(std::vector<std::string> vocabulary, int n_vocab,
                                                const std::string& path) {
  const size_t texts = n_vocab >= 51865 ? 50257 : 50256;
  const std::vector<std::string> control(
      vocabulary.begin() + static_cast<long>(std::min(texts, vocabulary.size())), vocabulary.end());
  vocabulary.resize(std::min(texts, vocabulary.size()));
  std::shared_ptr<const Tokenizer> tokenizer;
  try {
    tokenizer = std::make_shared<Tokenizer>(std::move(vocabulary), n_vocab);
  } catch (const Error& error) {
    throw Error(error.code(), path + ": " + error.what());
  }
  const SpecialTokens& special = tokenizer->special();
  std::vector<std::pair<int, std::string>> names = {{special.eot, "<|endoftext|>"},
                                                    {special.sot, "<|startoftranscript|>"},
                                                    {special.transcribe, "<|transcribe|>"},
                                                    {special.no_timestamps, "<|notimestamps|>"}};
  for (int i = 0; i < special.n_languages; ++i)
    names.emplace_back(special.language_begin + i,
                       "<|" + tokenizer->language_code(special.language_begin + i) + "|>");
  for (const auto& [id, name] : names) {
    const size_t index = static_cast<size_t>(id) - texts;
    if (index < control.size() && control[index] != name)
      throw Error(ErrorCode::kInvalidFile,
                  path + ": its vocabulary does not belong to its weights: token " +
                      std::to_string(id) + " is \"" + printable(control[index]) + "\", not \"" + name + "\"");
  }
  return tokenizer;
}

// openai/whisper whisper/__init__.py _ALIGNMENT_HEADS, for files that do not name them. Models with the dimensions of a
// published one get its heads; others all heads of the last half of the layers, as openai/whisper does.
std::vector<std::pair<int, int>> default_alignment_heads(const ModelDims& dims) {
  struct Known {
    int layers, heads, n_vocab;
    std::vector<std::pair<int, int>> pairs;
  };
  // clang-format off
  static const Known known[] = {
      {4, 6, 51864, {{1, 0}, {2, 0}, {2, 5}, {3, 0}, {3, 1}, {3, 2}, {3, 3}, {3, 4}}},
      {4, 6, 51865, {{2, 2}, {3, 0}, {3, 2}, {3, 3}, {3, 4}, {3, 5}}},
      {6, 8, 51864, {{3, 3}, {4, 7}, {5, 1}, {5, 5}, {5, 7}}},
      {6, 8, 51865, {{3, 1}, {4, 2}, {4, 3}, {4, 7}, {5, 1}, {5, 2}, {5, 4}, {5, 6}}},
      {12, 12, 51864, {{6, 6}, {7, 0}, {7, 3}, {7, 8}, {8, 2}, {8, 5}, {8, 7}, {9, 0}, {9, 4}, {9, 8}, {9, 10}, {10, 0},
                       {10, 1}, {10, 2}, {10, 3}, {10, 6}, {10, 11}, {11, 2}, {11, 4}}},
      {12, 12, 51865, {{5, 3}, {5, 9}, {8, 0}, {8, 4}, {8, 7}, {8, 8}, {9, 0}, {9, 7}, {9, 9}, {10, 5}}},
      {24, 16, 51864, {{11, 4}, {14, 1}, {14, 12}, {14, 14}, {15, 4}, {16, 0}, {16, 4}, {16, 9}, {17, 12}, {17, 14},
                       {18, 7}, {18, 10}, {18, 15}, {20, 0}, {20, 3}, {20, 9}, {20, 14}, {21, 12}}},
      {24, 16, 51865, {{13, 15}, {15, 4}, {15, 15}, {16, 1}, {20, 0}, {23, 4}}},
      // large-v2; large-v1 has the same dimensions and cannot be told from it.
      {32, 20, 51865, {{10, 12}, {13, 17}, {16, 11}, {16, 12}, {16, 13}, {17, 15}, {17, 16}, {18, 4}, {18, 11},
                       {18, 19}, {19, 11}, {21, 2}, {21, 3}, {22, 3}, {22, 9}, {22, 12}, {23, 5}, {23, 7}, {23, 13},
                       {25, 5}, {26, 1}, {26, 12}, {27, 15}}},
      {32, 20, 51866, {{7, 0}, {10, 17}, {12, 18}, {13, 12}, {16, 1}, {17, 14}, {19, 11}, {21, 4}, {24, 1}, {25, 6}}},
      {4, 20, 51866, {{2, 4}, {2, 11}, {3, 3}, {3, 6}, {3, 11}, {3, 14}}},
  };
  // clang-format on
  for (const Known& model : known)
    if (model.layers == dims.n_decoder_layers && model.heads == dims.n_heads &&
        model.n_vocab == dims.n_vocab)
      return model.pairs;
  std::vector<std::pair<int, int>> pairs;
  for (int layer = dims.n_decoder_layers / 2; layer < dims.n_decoder_layers; ++layer)
    for (int head = 0; head < dims.n_heads; ++head) pairs.emplace_back(layer, head);
  return pairs;
}

std::string describe_model(const Checkpoint& checkpoint, uint64_t parameters) {
  const ModelDims& dims = checkpoint.dims;
  const Storage storage = checkpoint.tensors.at("decoder.token_embedding.weight").storage;
  char text[160];
  std::snprintf(text, sizeof text, "%s %s, %d million parameters, %d+%d layers of width %d, %s",
                checkpoint.format.c_str(), storage_name(storage),
                static_cast<int>((parameters + 500000) / 1000000), dims.n_encoder_layers,
                dims.n_decoder_layers, dims.d_model,
                dims.n_vocab >= 51865 ? "multilingual" : "English only");
  return text;
}

}  // namespace

std::string describe(const StoredTensor& tensor, const std::string& name) {
  return tensor.source->path() + ": tensor " + name + " at byte " + std::to_string(tensor.offset);
}

void check_dims(const std::string& path, const ModelDims& dims) {
  const struct {
    const char* name;
    int value;
    bool good;
  } checks[] = {
      {"mel bands", dims.n_mels, dims.n_mels == 80 || dims.n_mels == 128},
      {"audio positions", dims.n_audio_ctx, dims.n_audio_ctx == 1500},
      {"text positions", dims.n_text_ctx, dims.n_text_ctx == 448},
      {"tokens", dims.n_vocab, dims.n_vocab >= 51864 && dims.n_vocab <= 51866},
      {"encoder layers", dims.n_encoder_layers,
       dims.n_encoder_layers >= 1 && dims.n_encoder_layers <= 64},
      {"decoder layers", dims.n_decoder_layers,
       dims.n_decoder_layers >= 1 && dims.n_decoder_layers <= 64},
      {"channels", dims.d_model,
       dims.d_model >= 64 && dims.d_model <= 2048 && dims.d_model % 64 == 0},
      {"attention heads", dims.n_heads, dims.n_heads == dims.d_model / 64},
  };
  for (const auto& check : checks)
    if (!check.good)
      throw Error(ErrorCode::kInvalidFile, path + ": " + std::to_string(check.value) + " " +
                                               check.name + " are not a Whisper model's");
}

std::shared_ptr<const Model> build_model(Checkpoint checkpoint, const std::string& path,
                                         const std::function<void(double)>& progress) {
  check_dims(path, checkpoint.dims);
  auto model = std::make_shared<Model>();
  model->dims = checkpoint.dims;
  model->source = path;
  model->encoder_layers.resize(static_cast<size_t>(checkpoint.dims.n_encoder_layers));
  model->decoder_layers.resize(static_cast<size_t>(checkpoint.dims.n_decoder_layers));
  const std::vector<Expected> expected = expected_tensors(*model);

  // Everything is checked before memory is taken.
  uint64_t memory = 0, file_bytes = 0, parameters = 0;
  bool packed = false;
  std::map<const ByteSource*, uint64_t> sources;
  for (const Expected& tensor : expected) {
    const auto found = checkpoint.tensors.find(tensor.name);
    if (found == checkpoint.tensors.end())
      throw Error(ErrorCode::kInvalidFile, path + ": tensor " + tensor.name + " is missing");
    const StoredTensor& stored = found->second;
    if (stored.shape != tensor.shape)
      throw Error(ErrorCode::kInvalidFile, describe(stored, tensor.name) + " has shape " +
                                               to_text(stored.shape) + ", not " +
                                               to_text(tensor.shape));
    const uint64_t elements = std::accumulate(tensor.shape.begin(), tensor.shape.end(), uint64_t{1},
                                              std::multiplies<uint64_t>());
    const DType dtype = tensor.vector ? DType::kF32 : dtype_of(stored.storage);
    tensor.slot->dtype = dtype;
    tensor.slot->shape.assign(tensor.shape.begin(), tensor.shape.end());
    parameters += elements;
    memory += elements * static_cast<uint64_t>(dtype_bytes(dtype));
    packed = packed || block_bytes(stored.storage) < 2 * block_elements(stored.storage);
    sources[stored.source.get()] = stored.source->size();
  }
  if (checkpoint.tensors.size() > expected.size()) {
    for (const auto& stored : checkpoint.tensors)
      if (std::none_of(expected.begin(), expected.end(),
                       [&](const Expected& tensor) { return tensor.name == stored.first; }))
        throw Error(ErrorCode::kInvalidFile,
                    describe(stored.second, stored.first) +
                        " does not belong to a Whisper model of this size");
  }
  // f32 vectors at most double what is in the file; four bits become sixteen.
  for (const auto& [source, size] : sources) file_bytes += size;
  if (memory > (packed ? 4 : 2) * file_bytes + kSlack)
    throw Error(ErrorCode::kInvalidFile,
                path + ": its tensors share their data, so that they would take " +
                    std::to_string(memory >> 20) + " MiB from a file of " +
                    std::to_string(file_bytes >> 20));
  model->tokenizer =
      make_tokenizer(std::move(checkpoint.vocabulary), checkpoint.dims.n_vocab, path);
  if (checkpoint.no_timestamps >= 0 &&
      checkpoint.no_timestamps != model->tokenizer->special().no_timestamps)
    throw Error(ErrorCode::kInvalidFile, path + ": \"no_timestamps_token_id\" is " +
                                             std::to_string(checkpoint.no_timestamps) +
                                             ", which does not fit a vocabulary of " +
                                             std::to_string(checkpoint.dims.n_vocab));
  model->alignment_heads = checkpoint.alignment_heads.empty()
                               ? default_alignment_heads(checkpoint.dims)
                               : std::move(checkpoint.alignment_heads);
  for (const auto& [layer, head] : model->alignment_heads)
    if (layer >= checkpoint.dims.n_decoder_layers || head >= checkpoint.dims.n_heads)
      throw Error(ErrorCode::kInvalidFile, path + ": alignment head (" + std::to_string(layer) +
                                               ", " + std::to_string(head) +
                                               ") is not in the model");
  model->description = describe_model(checkpoint, parameters);

  model->encoder_pages = std::make_shared<WeightPages>();
  model->decoder_pages = std::make_shared<WeightPages>();
  for (const Expected& tensor : expected) {
    const bool encoder = tensor.name.compare(0, 8, "encoder.") == 0;
    WeightPages& pages = encoder ? *model->encoder_pages : *model->decoder_pages;
    pages.add(tensor.name, checkpoint.tensors.at(tensor.name), tensor.slot);
  }
  uint64_t done = 0;
  const double all =
      static_cast<double>(model->encoder_pages->bytes() + model->decoder_pages->bytes());
  const auto count = [&](uint64_t bytes) {
    done += bytes;
    if (progress) progress(static_cast<double>(done) / all);
  };
  model->encoder_pages->examine(count);
  model->decoder_pages->examine(count);
  for (const auto& source : sources) source.first->expect_unchanged();
  model->content_key = model->encoder_pages->digest() + model->decoder_pages->digest();
  return model;
}

std::vector<std::pair<std::string, const Tensor*>> list_tensors(const Model& model) {
  std::vector<std::pair<std::string, const Tensor*>> list;
  // The table only takes addresses.
  for (Expected& tensor : expected_tensors(const_cast<Model&>(model)))
    list.emplace_back(std::move(tensor.name), tensor.slot);
  return list;
}

}  // namespace whisperxdna2
