#include "whisper/checkpoint.h"

#include <sys/mman.h>
#include <xxhash.h>

#include <algorithm>
#include <cstdio>
#include <numeric>

#include "whisper/tokenizer.h"

namespace whisperxdna2 {
namespace {

constexpr uint64_t kAlignment = 64;    // cache line, and widest vector
constexpr int64_t kChunk = 1 << 18;    // elements converted at once
constexpr uint64_t kSlack = 64 << 20;  // memory allowed beyond a multiple of the files' size

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

// The file a tensor is in, or should be in: for messages.
std::string place_of(const StoredTensor& tensor, const std::string& name) {
  return tensor.source->path() + ": tensor " + name + " at byte " + std::to_string(tensor.offset);
}

// Zeroed memory of whole pages, which can be given back to the system piece by piece.
std::shared_ptr<void> allocate_pages(uint64_t bytes) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED)
    throw Error(ErrorCode::kNoResource,
                "no memory for the model: " + std::to_string(bytes >> 20) + " MiB are needed");
  madvise(at, bytes, MADV_HUGEPAGE);  // a hint: fewer page faults while loading
  return std::shared_ptr<void>(at, [bytes](void* memory) { munmap(memory, bytes); });
}

// Reads a tensor into `to` as `dtype`.
void load(const StoredTensor& tensor, DType dtype, int64_t elements, void* to) {
  const Storage storage = tensor.storage;
  if (storage != Storage::kInt8 && dtype_of(storage) == dtype && block_elements(storage) == 1) {
    tensor.source->read(tensor.offset, to, tensor.bytes);
    return;
  }
  const int64_t row = elements / static_cast<int64_t>(tensor.shape[0]);
  std::vector<float> scales;
  if (storage == Storage::kInt8) {
    scales.resize(tensor.shape[0]);
    tensor.source->read(tensor.scale_offset, scales.data(), scales.size() * sizeof(float));
  }
  // Chunks of whole rows, or where a row is a long one, of whole blocks.
  const int64_t chunk = row > kChunk ? kChunk : kChunk / row * row;
  std::vector<char> raw(
      static_cast<size_t>(chunk / block_elements(storage) * block_bytes(storage)));
  std::vector<float> values(static_cast<size_t>(chunk));
  uint64_t offset = tensor.offset;
  for (int64_t first = 0; first < elements; first += chunk) {
    const int64_t count = std::min(chunk, elements - first);
    const uint64_t bytes =
        static_cast<uint64_t>(count / block_elements(storage) * block_bytes(storage));
    tensor.source->read(offset, raw.data(), bytes);
    offset += bytes;
    to_f32(storage, raw.data(), count, values.data());
    for (int64_t i = 0; i < count && !scales.empty(); ++i)
      values[static_cast<size_t>(i)] /= scales[static_cast<size_t>((first + i) / row)];
    if (dtype == DType::kF32) {
      std::copy_n(values.data(), count, static_cast<float*>(to) + first);
    } else {
      f32_to_f16(values.data(), count, static_cast<uint16_t*>(to) + first);
    }
  }
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
                      std::to_string(id) + " is \"" + control[index] + "\", not \"" + name + "\"");
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
  static const Known known[] = {
      {4, 6, 51864, {{1, 0}, {2, 0}, {2, 5}, {3, 0}, {3, 1}, {3, 2}, {3, 3}, {3, 4}}},
      {4, 6, 51865, {{2, 2}, {3, 0}, {3, 2}, {3, 3}, {3, 4}, {3, 5}}},
      {6, 8, 51864, {{3, 3}, {4, 7}, {5, 1}, {5, 5}, {5, 7}}},
      {6, 8, 51865, {{3, 1}, {4, 2}, {4, 3}, {4, 7}, {5, 1}, {5, 2}, {5, 4}, {5, 6}}},
      {12,
       12,
       51865,
       {{5, 3}, {5, 9}, {8, 0}, {8, 4}, {8, 7}, {8, 8}, {9, 0}, {9, 7}, {9, 9}, {10, 5}}},
      {32,
       20,
       51866,
       {{7, 0},
        {10, 17},
        {12, 18},
        {13, 12},
        {16, 1},
        {17, 14},
        {19, 11},
        {21, 4},
        {24, 1},
        {25, 6}}},
      {4, 20, 51866, {{2, 4}, {2, 11}, {3, 3}, {3, 6}, {3, 11}, {3, 14}}},
  };
  for (const Known& model : known)
    if (model.layers == dims.n_decoder_layers && model.heads == dims.n_heads &&
        model.n_vocab == dims.n_vocab)
      return model.pairs;
  std::vector<std::pair<int, int>> pairs;
  for (int layer = dims.n_decoder_layers / 2; layer < dims.n_decoder_layers; ++layer)
    for (int head = 0; head < dims.n_heads; ++head) pairs.emplace_back(layer, head);
  return pairs;
}

std::string describe(const Checkpoint& checkpoint, uint64_t parameters) {
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

class Digest {
 public:
  Digest() : state_(XXH3_createState()) { XXH3_128bits_reset(state_.get()); }
  void add(const void* data, size_t bytes) { XXH3_128bits_update(state_.get(), data, bytes); }
  std::string hex() const {
    const XXH128_hash_t hash = XXH3_128bits_digest(state_.get());
    char text[33];
    std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(hash.high64),
                  static_cast<unsigned long long>(hash.low64));
    return text;
  }

 private:
  struct Free {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };
  std::unique_ptr<XXH3_state_t, Free> state_;
};

}  // namespace

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

std::shared_ptr<const Model> build_model(Checkpoint checkpoint, const std::string& path) {
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
      throw Error(ErrorCode::kInvalidFile, place_of(stored, tensor.name) + " has shape " +
                                               to_text(stored.shape) + ", not " +
                                               to_text(tensor.shape));
    const uint64_t elements = std::accumulate(tensor.shape.begin(), tensor.shape.end(), uint64_t{1},
                                              std::multiplies<uint64_t>());
    const DType dtype = tensor.vector ? DType::kF32 : dtype_of(stored.storage);
    tensor.slot->dtype = dtype;
    tensor.slot->shape.assign(tensor.shape.begin(), tensor.shape.end());
    parameters += elements;
    memory += (elements * static_cast<uint64_t>(dtype_bytes(dtype)) + kAlignment - 1) / kAlignment *
              kAlignment;
    packed = packed || block_bytes(stored.storage) < 2 * block_elements(stored.storage);
    sources[stored.source.get()] = stored.source->size();
  }
  if (checkpoint.tensors.size() > expected.size()) {
    for (const auto& [name, stored] : checkpoint.tensors)
      if (std::none_of(expected.begin(), expected.end(),
                       [&](const Expected& tensor) { return tensor.name == name; }))
        throw Error(ErrorCode::kInvalidFile,
                    place_of(stored, name) + " does not belong to a Whisper model of this size");
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
  model->alignment_heads = checkpoint.alignment_heads.empty()
                               ? default_alignment_heads(checkpoint.dims)
                               : std::move(checkpoint.alignment_heads);
  for (const auto& [layer, head] : model->alignment_heads)
    if (layer >= checkpoint.dims.n_decoder_layers || head >= checkpoint.dims.n_heads)
      throw Error(ErrorCode::kInvalidFile, path + ": alignment head (" + std::to_string(layer) +
                                               ", " + std::to_string(head) +
                                               ") is not in the model");
  model->description = describe(checkpoint, parameters);

  const std::shared_ptr<void> pages = allocate_pages(memory);
  char* at = static_cast<char*>(pages.get());
  Digest digest;
  for (const Expected& tensor : expected) {
    const StoredTensor& stored = checkpoint.tensors.at(tensor.name);
    const int64_t elements = tensor.slot->elements();
    const uint64_t bytes =
        static_cast<uint64_t>(elements) * static_cast<uint64_t>(dtype_bytes(tensor.slot->dtype));
    load(stored, tensor.slot->dtype, elements, at);
    const int64_t bad = first_not_finite(tensor.slot->dtype, at, elements);
    if (bad >= 0)
      throw Error(ErrorCode::kInvalidFile, place_of(stored, tensor.name) +
                                               " holds NaN or infinity in element " +
                                               std::to_string(bad));
    const int dtype = static_cast<int>(tensor.slot->dtype);
    digest.add(tensor.name.data(), tensor.name.size());
    digest.add(&dtype, sizeof dtype);
    digest.add(tensor.shape.data(), tensor.shape.size() * sizeof(uint64_t));
    digest.add(at, bytes);
    tensor.slot->data = at;
    at += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }
  model->content_key = digest.hex();
  model->storage.push_back(pages);
  return model;
}

}  // namespace whisperxdna2
