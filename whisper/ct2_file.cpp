// CTranslate2's directory: model.bin, config.json, a vocabulary.
//
// model.bin, little-endian, without alignment (CTranslate2 python/ctranslate2/specs/model_spec.py,
// src/models/model.cc):
//   u32 binary version 6, string specification "WhisperSpec", u32 revision 3
//   u32 count, each: string name, u8 rank, u32 dimension[rank], u8 type, u32 bytes, data
//   u32 count, each: string alias, string name         identical tensors are stored once
// where a string is u16 length (with the final NUL), bytes. An int8 matrix "x/weight" has f32 "x/weight_scale", one
// value for each row, by which the integers are to be divided. Query, key and value projections are one matrix, with a
// zero bias for the key.

#include <algorithm>
#include <cmath>

#include "whisper/checkpoint.h"
#include "whisper/json.h"
#include "whisper/vocabulary.h"

namespace whisperxdna2 {
namespace {

constexpr uint32_t kVersion = 6, kRevision = 3;
constexpr uint32_t kMaxTensors = 4096;
constexpr uint64_t kMaxName = 256;
constexpr int kMaxRank = 4;
constexpr uint64_t kMaxConfig = 1 << 20;

struct Entry {
  StoredTensor tensor;
  bool scalar = false;
  double value = 0;  // of a scalar
};

class Ct2File {
 public:
  explicit Ct2File(const std::string& path)
      : path_(path), source_(std::make_shared<ByteSource>(path)), reader_(*source_) {
    const uint32_t version = reader_.get<uint32_t>("version");
    if (version < 1 || version > 1000) reader_.fail("this is no CTranslate2 model");
    const std::string specification = string("specification");
    const uint32_t revision = reader_.get<uint32_t>("revision");
    if (specification != "WhisperSpec")
      throw Error(ErrorCode::kUnsupported, path_ + " is a CTranslate2 model, but not of Whisper");
    if (version != kVersion || revision != kRevision)
      throw Error(ErrorCode::kUnsupported, path_ + " has CTranslate2 format " +
                                               std::to_string(version) + " revision " +
                                               std::to_string(revision) +
                                               "; format 6 revision 3 is read: convert the model "
                                               "again with ct2-transformers-converter 4");
    const uint32_t count = reader_.get<uint32_t>("number of tensors");
    if (count > kMaxTensors) reader_.fail("it claims " + std::to_string(count) + " tensors");
    for (uint32_t i = 0; i < count; ++i) read_entry();
    const uint32_t aliases = reader_.get<uint32_t>("number of aliases");
    if (aliases > kMaxTensors) reader_.fail("it claims " + std::to_string(aliases) + " aliases");
    for (uint32_t i = 0; i < aliases; ++i) read_alias();
    if (reader_.left() != 0)
      reader_.fail(std::to_string(reader_.left()) + " bytes follow the last alias");
  }

  // Integer value of a scalar entry; `fallback` where it is absent.
  int scalar(const std::string& name, int fallback) const {
    const auto found = entries_.find(name);
    if (found == entries_.end()) return fallback;
    if (!found->second.scalar || !(std::abs(found->second.value) < 1e6))
      fail(name, "should be a small number");
    return static_cast<int>(found->second.value);
  }

  bool has(const std::string& name) const { return entries_.count(name) > 0; }

  const std::vector<uint64_t>& shape(const std::string& name) const { return find(name).shape; }

  // The tensor `name`, which is then done with.
  StoredTensor take(const std::string& name) {
    StoredTensor tensor = find(name);
    entries_.erase(name);
    if (tensor.storage == Storage::kInt8) {
      const std::string scale_name = name + "_scale";
      const StoredTensor scale = find(scale_name);
      if (scale.storage != Storage::kF32 || scale.shape != std::vector<uint64_t>{tensor.shape[0]})
        fail(scale_name, "should have one f32 value for each row of " + name);
      tensor.scale_offset = scale.offset;
      entries_.erase(scale_name);
    }
    return tensor;
  }

  // Rows [first, first + rows) of `tensor`.
  static StoredTensor rows(const StoredTensor& tensor, uint64_t first, uint64_t rows) {
    StoredTensor part = tensor;
    const uint64_t row_bytes = tensor.bytes / tensor.shape[0];
    part.shape[0] = rows;
    part.offset += first * row_bytes;
    part.bytes = rows * row_bytes;
    part.scale_offset += first * sizeof(float);
    return part;
  }

  // The projection onto the vocabulary is the embedding itself.
  void drop_projection(const StoredTensor& embedding) {
    const auto found = entries_.find("decoder/projection/weight");
    if (found == entries_.end()) return;
    if (found->second.tensor.offset != embedding.offset)
      throw Error(ErrorCode::kUnsupported,
                  path_ + " has an output projection that is not its embedding");
    entries_.erase(found);
    entries_.erase("decoder/projection/weight_scale");
  }

  void check_all_taken() const {
    for (const auto& [name, entry] : entries_)
      if (!entry.scalar) fail(name, "does not belong to a Whisper model of this size");
  }

  [[noreturn]] void fail(const std::string& name, const std::string& message) const {
    throw Error(ErrorCode::kInvalidFile, path_ + ": tensor " + name + " " + message);
  }

  const ByteSource& source() const { return *source_; }

 private:
  std::string string(const char* what) {
    const uint16_t length = reader_.get<uint16_t>(what);
    std::string text = reader_.text(length, kMaxName, what);
    if (text.empty() || text.back() != '\0')
      reader_.fail(std::string("the ") + what + " is not terminated");
    text.pop_back();
    if (text.empty() || text != printable(text))
      reader_.fail(std::string("the ") + what + " is \"" + printable(text) + "\"");
    return text;
  }

  void read_entry() {
    const std::string name = string("name of a tensor");
    const int rank = reader_.get<uint8_t>("rank of a tensor");
    if (rank > kMaxRank)
      reader_.fail("tensor " + name + " claims " + std::to_string(rank) + " dimensions");
    Entry entry;
    entry.tensor.source = source_;
    uint64_t elements = 1;
    for (int i = 0; i < rank; ++i) {
      const uint32_t size = reader_.get<uint32_t>("dimension of a tensor");
      // Bounds the product: every element takes a byte at least.
      if (size == 0 || size > source_->size() / elements)
        reader_.fail("tensor " + name + " claims more elements than the file has bytes, or none");
      elements *= size;
      entry.tensor.shape.push_back(size);
    }
    const int type = reader_.get<uint8_t>("type of a tensor");
    static constexpr int kBytes[] = {4, 1, 2, 4, 2, 2};  // f32, int8, int16, int32, f16, bf16
    if (type > 5) reader_.fail("tensor " + name + " has the unknown type " + std::to_string(type));
    const uint32_t bytes = reader_.get<uint32_t>("size of a tensor");
    if (bytes != elements * static_cast<uint64_t>(kBytes[type]))
      reader_.fail("tensor " + name + " claims " + std::to_string(bytes) +
                   " bytes, which its shape contradicts");
    entry.tensor.offset = reader_.position();
    entry.tensor.bytes = bytes;
    entry.scalar = rank == 0;
    if (entry.scalar && type == 0) {
      entry.value = reader_.get<float>("value of a scalar");
    } else if (entry.scalar && type == 1) {
      entry.value = reader_.get<int8_t>("value of a scalar");
    } else if (entry.scalar && type == 2) {
      entry.value = reader_.get<int16_t>("value of a scalar");
    } else if (entry.scalar && type == 3) {
      entry.value = reader_.get<int32_t>("value of a scalar");
    } else {
      if (type == 2 || type == 3)
        throw Error(ErrorCode::kUnsupported, path_ + ": tensor " + name +
                                                 " is of 16 or 32-bit integers; " +
                                                 "convert with --quantization float16 or int8");
      entry.tensor.storage = type == 0   ? Storage::kF32
                             : type == 1 ? Storage::kInt8
                             : type == 4 ? Storage::kF16
                                         : Storage::kBF16;
      reader_.skip(bytes, "tensor " + name);
    }
    if (!entries_.emplace(name, std::move(entry)).second)
      reader_.fail("tensor " + name + " is there twice");
  }

  void read_alias() {
    const std::string alias = string("alias");
    const std::string name = string("name of an alias");
    const auto found = entries_.find(name);
    if (found == entries_.end())
      reader_.fail("alias " + alias + " stands for a tensor that is not there");
    if (!entries_.emplace(alias, found->second).second)
      reader_.fail("tensor " + alias + " is there twice");
  }

  const StoredTensor& find(const std::string& name) const {
    const auto found = entries_.find(name);
    if (found == entries_.end()) fail(name, "is missing");
    if (found->second.scalar) fail(name, "should not be a scalar");
    return found->second.tensor;
  }

  std::string path_;
  std::shared_ptr<const ByteSource> source_;
  Reader reader_;
  std::map<std::string, Entry> entries_;
};

int count_layers(const Ct2File& file, const std::string& side) {
  int layers = 0;
  while (layers < 1000 &&
         file.has(side + "/layer_" + std::to_string(layers) + "/ffn/linear_0/weight"))
    ++layers;
  return layers;
}

// A dimension as an int; sizes that do not fit are refused with the others by check_dims.
int to_int(uint64_t size) { return static_cast<int>(std::min<uint64_t>(size, 1 << 30)); }

class Translator {
 public:
  Translator(Ct2File& file, Checkpoint& checkpoint) : file_(file), tensors_(checkpoint.tensors) {}

  void tensor(const std::string& from, const std::string& to) { tensors_[to] = file_.take(from); }

  void linear(const std::string& from, const std::string& to) {
    tensor(from + "/weight", to + ".weight");
    tensor(from + "/bias", to + ".bias");
  }

  void norm(const std::string& from, const std::string& to) {
    tensor(from + "/gamma", to + ".weight");
    tensor(from + "/beta", to + ".bias");
  }

  // A matrix that stands for several, one below the other; each has `width` rows.
  void fused(const std::string& from, const std::vector<std::string>& to, uint64_t width) {
    const StoredTensor weight = file_.take(from + "/weight"), bias = file_.take(from + "/bias");
    if (weight.shape != std::vector<uint64_t>{to.size() * width, width})
      file_.fail(from + "/weight",
                 "has not the shape of " + std::to_string(to.size()) + " projections");
    if (bias.shape != std::vector<uint64_t>{to.size() * width})
      file_.fail(from + "/bias",
                 "has not the shape of " + std::to_string(to.size()) + " projections");
    for (size_t i = 0; i < to.size(); ++i) {
      tensors_[to[i] + ".weight"] = Ct2File::rows(weight, i * width, width);
      const StoredTensor part = Ct2File::rows(bias, i * width, width);
      if (to[i].compare(to[i].size() - 3, 3, "key") == 0) {
        check_zero(part, from + "/bias");
      } else {
        tensors_[to[i] + ".bias"] = part;
      }
    }
  }

 private:
  void check_zero(const StoredTensor& tensor, const std::string& name) {
    std::vector<char> data(tensor.bytes);
    tensor.source->read(tensor.offset, data.data(), data.size());
    std::vector<float> values(tensor.shape[0]);
    to_f32(tensor.storage, data.data(), static_cast<int64_t>(values.size()), values.data());
    for (const float value : values)
      if (value != 0) file_.fail(name, "gives the key projection a bias; Whisper has none");
  }

  Ct2File& file_;
  std::map<std::string, StoredTensor>& tensors_;
};

}  // namespace

Checkpoint read_ct2(const std::string& directory) {
  const std::string path = directory + "/model.bin";
  Ct2File file(path);
  // What the network's arithmetic rests on (CTranslate2 include/ctranslate2/ops/activation.h: 3 is GELU with erf).
  const struct {
    const char* name;
    int value;
  } required[] = {{"decoder/activation", 3},
                  {"encoder/activation", 3},
                  {"decoder/pre_norm", 1},
                  {"encoder/pre_norm", 1},
                  {"decoder/alibi", 0},
                  {"decoder/scale_embeddings", 0},
                  {"decoder/start_from_zero_embedding", 0}};
  for (const auto& option : required)
    if (file.scalar(option.name, option.value) != option.value)
      throw Error(ErrorCode::kUnsupported, path + ": " + option.name + " is " +
                                               std::to_string(file.scalar(option.name, 0)) +
                                               ", not Whisper's");

  Checkpoint checkpoint;
  checkpoint.format = "CTranslate2";
  ModelDims& dims = checkpoint.dims;
  const auto two = [&](const char* name, size_t rank) {
    if (file.shape(name).size() != rank)
      file.fail(name, "has not " + std::to_string(rank) + " dimensions");
    return file.shape(name);
  };
  const auto conv = two("encoder/conv1/weight", 3), embedding = two("decoder/embeddings/weight", 2);
  dims.d_model = to_int(conv[0]);
  dims.n_mels = to_int(conv[1]);
  dims.n_vocab = to_int(embedding[0]);
  dims.n_audio_ctx = to_int(two("encoder/position_encodings/encodings", 2)[0]);
  dims.n_text_ctx = to_int(two("decoder/position_encodings/encodings", 2)[0]);
  dims.n_encoder_layers = count_layers(file, "encoder");
  dims.n_decoder_layers = count_layers(file, "decoder");
  dims.n_heads = file.scalar("encoder/num_heads", 0);
  if (embedding[1] != conv[0] || file.scalar("decoder/num_heads", 0) != dims.n_heads)
    throw Error(ErrorCode::kInvalidFile,
                path + ": encoder (width " + std::to_string(conv[0]) + ") and decoder (width " +
                    std::to_string(embedding[1]) + ") belong to different models");
  check_dims(path, dims);

  const uint64_t width = conv[0];
  Translator translate(file, checkpoint);
  translate.linear("encoder/conv1", "encoder.conv1");
  translate.linear("encoder/conv2", "encoder.conv2");
  translate.norm("encoder/layer_norm", "encoder.ln_post");
  translate.tensor("encoder/position_encodings/encodings", "encoder.positional_embedding");
  translate.norm("decoder/layer_norm", "decoder.ln");
  translate.tensor("decoder/position_encodings/encodings", "decoder.positional_embedding");
  translate.tensor("decoder/embeddings/weight", "decoder.token_embedding.weight");
  file.drop_projection(checkpoint.tensors["decoder.token_embedding.weight"]);
  for (const std::string side : {"encoder", "decoder"}) {
    const bool decoder = side == "decoder";
    const int layers = decoder ? dims.n_decoder_layers : dims.n_encoder_layers;
    for (int i = 0; i < layers; ++i) {
      const std::string from = side + "/layer_" + std::to_string(i);
      const std::string to = side + ".blocks." + std::to_string(i);
      translate.norm(from + "/self_attention/layer_norm", to + ".attn_ln");
      translate.fused(from + "/self_attention/linear_0",
                      {to + ".attn.query", to + ".attn.key", to + ".attn.value"}, width);
      translate.linear(from + "/self_attention/linear_1", to + ".attn.out");
      if (decoder) {
        translate.norm(from + "/attention/layer_norm", to + ".cross_attn_ln");
        translate.linear(from + "/attention/linear_0", to + ".cross_attn.query");
        translate.fused(from + "/attention/linear_1",
                        {to + ".cross_attn.key", to + ".cross_attn.value"}, width);
        translate.linear(from + "/attention/linear_2", to + ".cross_attn.out");
      }
      translate.norm(from + "/ffn/layer_norm", to + ".mlp_ln");
      translate.linear(from + "/ffn/linear_0", to + ".mlp.0");
      translate.linear(from + "/ffn/linear_1", to + ".mlp.2");
    }
  }
  file.check_all_taken();

  const std::string config_path = directory + "/config.json";
  const Json config = parse_json(read_text_file(config_path, kMaxConfig), config_path);
  checkpoint.alignment_heads = json_pairs(config, "alignment_heads", config_path);
  checkpoint.vocabulary = read_vocabulary(directory, dims.n_vocab);
  return checkpoint;
}

}  // namespace whisperxdna2
