// whisper.cpp's single file, "ggml-base.bin" (models/convert-pt-to-ggml.py, src/whisper.cpp), little-endian, unaligned:
//   u32 0x67676d6c
//   i32 n_vocab, n_audio_ctx, n_audio_state, n_audio_head, n_audio_layer, n_text_ctx, n_text_state, n_text_head,
//       n_text_layer, n_mels, ftype
//   i32 bands, i32 bins, f32 mel filters[bands][bins]      not used: the formula gives them to 3e-9 (dsp/log_mel.h)
//   i32 count, each: u32 length, raw bytes of a token      text tokens; English-only files add <|endoftext|>
//   to the end: i32 rank, i32 name length, i32 type, i32 size[rank] innermost first, name, data
// Tensors have OpenAI's names.

#include "whisper/checkpoint.h"

namespace whisperxdna2 {
namespace {

constexpr uint32_t kMagic = 0x67676d6c;
constexpr int kBins = 201;  // of a spectrum of 400 samples
constexpr uint64_t kMaxName = 256, kMaxToken = 1024;
constexpr int kMaxRank = 4;
constexpr size_t kMaxTensors = 4096;

// ggml/include/ggml.h ggml_type; false for types that whisper.cpp does not write or that are not read here.
bool storage_of(int32_t type, Storage* storage) {
  switch (type) {
    case 0:
      *storage = Storage::kF32;
      return true;
    case 1:
      *storage = Storage::kF16;
      return true;
    case 2:
      *storage = Storage::kQ4_0;
      return true;
    case 3:
      *storage = Storage::kQ4_1;
      return true;
    case 6:
      *storage = Storage::kQ5_0;
      return true;
    case 7:
      *storage = Storage::kQ5_1;
      return true;
    case 8:
      *storage = Storage::kQ8_0;
      return true;
    case 30:
      *storage = Storage::kBF16;
      return true;
    default:
      return false;
  }
}

ModelDims read_header(Reader& reader, const std::string& path) {
  if (reader.get<uint32_t>("magic number") != kMagic) reader.fail("this is no ggml model");
  const auto field = [&](const char* name) { return reader.get<int32_t>(name); };
  ModelDims dims;
  dims.n_vocab = field("n_vocab");
  dims.n_audio_ctx = field("n_audio_ctx");
  dims.d_model = field("n_audio_state");
  dims.n_heads = field("n_audio_head");
  dims.n_encoder_layers = field("n_audio_layer");
  dims.n_text_ctx = field("n_text_ctx");
  const int text_state = field("n_text_state"), text_heads = field("n_text_head");
  dims.n_decoder_layers = field("n_text_layer");
  dims.n_mels = field("n_mels");
  field("ftype");  // every tensor says its type
  check_dims(path, dims);
  if (text_state != dims.d_model || text_heads != dims.n_heads)
    reader.fail("encoder (width " + std::to_string(dims.d_model) + ") and decoder (width " +
                std::to_string(text_state) + ") belong to different models");
  return dims;
}

void skip_mel_filters(Reader& reader, const ModelDims& dims) {
  const int32_t bands = reader.get<int32_t>("number of mel bands");
  const int32_t bins = reader.get<int32_t>("number of frequency bins");
  if (bands != dims.n_mels || bins != kBins)
    reader.fail("the mel filters have shape [" + std::to_string(bands) + " " +
                std::to_string(bins) + "], not [" + std::to_string(dims.n_mels) + " " +
                std::to_string(kBins) + "]");
  reader.skip(static_cast<uint64_t>(bands) * kBins * sizeof(float), "the mel filters");
}

std::vector<std::string> read_tokens(Reader& reader, const ModelDims& dims) {
  const int32_t count = reader.get<int32_t>("number of tokens");
  if (count < 0 || count > dims.n_vocab)
    reader.fail("it claims " + std::to_string(count) + " tokens");
  std::vector<std::string> tokens;
  tokens.reserve(static_cast<size_t>(count));
  for (int32_t i = 0; i < count; ++i) {
    const uint32_t length = reader.get<uint32_t>("length of a token");
    tokens.push_back(reader.text(length, kMaxToken, "token"));
  }
  return tokens;
}

}  // namespace

Checkpoint read_ggml(const std::string& path) {
  const auto source = std::make_shared<const ByteSource>(path);
  Reader reader(*source);
  Checkpoint checkpoint;
  checkpoint.format = "ggml";
  checkpoint.dims = read_header(reader, path);
  skip_mel_filters(reader, checkpoint.dims);
  checkpoint.vocabulary = read_tokens(reader, checkpoint.dims);
  while (reader.left() > 0) {
    const int32_t rank = reader.get<int32_t>("rank of a tensor");
    const int32_t name_length = reader.get<int32_t>("length of a tensor's name");
    const int32_t type = reader.get<int32_t>("type of a tensor");
    if (rank < 1 || rank > kMaxRank)
      reader.fail("a tensor claims " + std::to_string(rank) + " dimensions");
    if (name_length < 1) reader.fail("a tensor has no name");
    StoredTensor tensor;
    tensor.source = source;
    tensor.shape.resize(static_cast<size_t>(rank));
    uint64_t elements = 1;
    for (size_t i = tensor.shape.size(); i-- > 0;) {
      const int32_t size = reader.get<int32_t>("dimension of a tensor");
      // Bounds the product: the smallest types have more than half a byte an element.
      if (size < 1 || static_cast<uint64_t>(size) > 2 * source->size() / elements)
        reader.fail("a tensor claims more elements than the file can hold, or none");
      elements *= static_cast<uint64_t>(size);
      tensor.shape[i] = static_cast<uint64_t>(size);
    }
    const std::string name =
        reader.name(static_cast<uint64_t>(name_length), kMaxName, "name of a tensor");
    if (!storage_of(type, &tensor.storage))
      throw Error(ErrorCode::kUnsupported, path + ": tensor " + name + " has ggml type " +
                                               std::to_string(type) +
                                               "; f32, f16, q8_0, q5_0, q5_1, q4_0 and q4_1 are "
                                               "read. whisper.cpp's quantize makes them");
    const uint64_t block = static_cast<uint64_t>(block_elements(tensor.storage));
    if (tensor.shape.back() % block != 0)
      reader.fail("the rows of tensor " + name + " are not made of whole blocks");
    tensor.offset = reader.position();
    tensor.bytes = elements / block * static_cast<uint64_t>(block_bytes(tensor.storage));
    reader.skip(tensor.bytes, "tensor " + name);
    // The biases of the convolutions are stored as columns.
    if (tensor.shape.size() == 2 && tensor.shape[1] == 1) tensor.shape.pop_back();
    if (!checkpoint.tensors.emplace(name, std::move(tensor)).second)
      reader.fail("tensor " + name + " is there twice");
    if (checkpoint.tensors.size() > kMaxTensors) reader.fail("too many tensors");
  }
  return checkpoint;
}

}  // namespace whisperxdna2
