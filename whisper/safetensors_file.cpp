// Hugging Face's directory: config.json, generation_config.json, a vocabulary, and the weights in model.safetensors or
// in several such files that model.safetensors.index.json lists.
//
// A safetensors file is u64 header length (little-endian), that many bytes of JSON
//   {"NAME": {"dtype": "F16", "shape": [..], "data_offsets": [begin, end]}, .., "__metadata__": {..}}
// and the data, which the tensors cover without gap or overlap (huggingface/safetensors README,
// safetensors/src/tensor.rs).

#include <unistd.h>

#include <algorithm>

#include "whisper/checkpoint.h"
#include "whisper/json.h"
#include "whisper/vocabulary.h"

namespace whisperxdna2 {
namespace {

// The header of large-v3, the largest Whisper model, has 150 kB.
constexpr uint64_t kMaxHeader = 4 << 20;
constexpr uint64_t kMaxConfig = 1 << 20;
constexpr size_t kMaxShards = 64;
constexpr size_t kMaxName = 256;
constexpr size_t kMaxRank = 4;

using Tensors = std::map<std::string, StoredTensor>;

[[noreturn]] void fail(const std::string& path, const std::string& message) {
  throw Error(ErrorCode::kInvalidFile, path + ": " + message);
}

bool exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

Json read_config(const std::string& path) {
  return parse_json(read_text_file(path, kMaxConfig), path);
}

StoredTensor read_entry(const std::string& name, const Json& entry,
                        const std::shared_ptr<const ByteSource>& source, uint64_t data_begin) {
  const std::string& path = source->path();
  const auto bad = [&](const char* what) {
    fail(path, "tensor " + name + " has no valid " + what);
  };
  if (!entry.is_object()) bad("description");
  const auto member = [&](const char* key) -> const Json& {
    const auto found = entry.find(key);
    if (found == entry.end()) bad(key);
    return *found;
  };
  StoredTensor tensor;
  tensor.source = source;
  const Json& dtype = member("dtype");
  if (dtype == "F32") {
    tensor.storage = Storage::kF32;
  } else if (dtype == "F16") {
    tensor.storage = Storage::kF16;
  } else if (dtype == "BF16") {
    tensor.storage = Storage::kBF16;
  } else {
    throw Error(ErrorCode::kUnsupported, path + ": tensor " + name + " is of type " + dtype.dump() +
                                             "; F32, F16 and BF16 are read");
  }
  const Json& shape = member("shape");
  if (!shape.is_array() || shape.size() > kMaxRank) bad("shape");
  const uint64_t data_bytes = source->size() - data_begin;
  uint64_t elements = 1;
  for (const Json& size : shape) {
    if (!size.is_number_unsigned() || size.get<uint64_t>() == 0 ||
        size.get<uint64_t>() > data_bytes / elements)
      bad("shape");
    elements *= size.get<uint64_t>();
    tensor.shape.push_back(size.get<uint64_t>());
  }
  const Json& offsets = member("data_offsets");
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
      !offsets[1].is_number_unsigned())
    bad("data_offsets");
  const uint64_t begin = offsets[0].get<uint64_t>(), end = offsets[1].get<uint64_t>();
  tensor.bytes = elements * static_cast<uint64_t>(block_bytes(tensor.storage));
  if (begin > end || end > data_bytes || end - begin != tensor.bytes) bad("data_offsets");
  tensor.offset = data_begin + begin;
  return tensor;
}

// Adds the tensors of one file, under their names there.
void read_safetensors(const std::string& path, Tensors& tensors) {
  const auto source = std::make_shared<const ByteSource>(path);
  Reader reader(*source);
  const uint64_t length = reader.get<uint64_t>("length of the header");
  if (length > kMaxHeader || length > reader.left())
    reader.fail("the header claims " + std::to_string(length) + " bytes");
  std::string text(length, '\0');
  source->read(sizeof length, text.data(), length);
  const Json header = parse_json(text, path);
  if (!header.is_object()) fail(path, "the header is no object");
  const uint64_t data_begin = sizeof length + length;
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    if (name.size() > kMaxName || name != printable(name))
      fail(path, "a tensor's name is \"" + printable(name.substr(0, kMaxName)) + "\"");
    StoredTensor tensor = read_entry(name, entry, source, data_begin);
    ranges.emplace_back(tensor.offset, tensor.offset + tensor.bytes);
    if (!tensors.emplace(name, std::move(tensor)).second)
      fail(path, "tensor " + name + " is also in another file");
  }
  std::sort(ranges.begin(), ranges.end());
  uint64_t at = data_begin;
  for (const auto& [begin, end] : ranges) {
    if (begin != at)
      fail(path, std::string("tensors ") + (begin < at ? "overlap" : "leave a gap") + " at byte " +
                     std::to_string(begin));
    at = end;
  }
  if (at != source->size())
    fail(path, "the tensors end at byte " + std::to_string(at) + ", the file does not");
}

void read_shards(const std::string& directory, Tensors& tensors) {
  const std::string index_path = directory + "/model.safetensors.index.json";
  const Json index = read_json_file(index_path);
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (map == index.end() || !map->is_object()) fail(index_path, "no \"weight_map\"");
  std::map<std::string, std::vector<std::string>> names;  // by file
  for (const auto& [name, file] : map->items()) {
    if (!file.is_string()) fail(index_path, "tensor " + name + " has no file");
    names[file.get_ref<const std::string&>()].push_back(name);
  }
  if (names.size() > kMaxShards) fail(index_path, "more than 64 files");
  for (const auto& [file, expected] : names) {
    if (file.empty() || file[0] == '.' || file.find('/') != std::string::npos)
      fail(index_path, "\"" + file + "\" is no name of a file in the same directory");
    Tensors shard;
    read_safetensors(directory + "/" + file, shard);
    for (const std::string& name : expected)
      if (!shard.count(name)) fail(directory + "/" + file, "tensor " + name + " is missing");
    for (auto& [name, tensor] : shard)
      if (!tensors.emplace(name, std::move(tensor)).second)
        fail(index_path, "tensor " + name + " is in two files");
  }
}

// transformers' name to OpenAI's; empty where it is none of Whisper's. Without the leading "model.".
std::string openai_name(const std::string& name) {
  const auto starts = [&](const std::string& prefix) {
    return name.compare(0, prefix.size(), prefix) == 0;
  };
  const std::string side = starts("encoder.") ? "encoder." : starts("decoder.") ? "decoder." : "";
  if (side.empty()) return "";
  std::string rest = name.substr(8);
  const bool decoder = side == "decoder.";
  const auto replaced = [&](const std::string& from, const std::string& to) {
    return rest.compare(0, from.size(), from) == 0 ? to + rest.substr(from.size()) : std::string();
  };
  if (rest == "embed_positions.weight") return side + "positional_embedding";
  if (decoder && rest == "embed_tokens.weight") return side + "token_embedding.weight";
  if (const std::string norm = replaced("layer_norm.", decoder ? "ln." : "ln_post."); !norm.empty())
    return side + norm;
  if (!decoder && rest.compare(0, 4, "conv") == 0) return side + rest;
  if (rest.compare(0, 7, "layers.") != 0) return "";
  const size_t dot = rest.find('.', 7);
  if (dot == std::string::npos) return "";
  const std::string block = side + "blocks." + rest.substr(7, dot - 7) + ".";
  rest = rest.substr(dot + 1);
  static const std::pair<const char*, const char*> parts[] = {
      {"self_attn.q_proj.", "attn.query."},
      {"self_attn.k_proj.", "attn.key."},
      {"self_attn.v_proj.", "attn.value."},
      {"self_attn.out_proj.", "attn.out."},
      {"self_attn_layer_norm.", "attn_ln."},
      {"encoder_attn.q_proj.", "cross_attn.query."},
      {"encoder_attn.k_proj.", "cross_attn.key."},
      {"encoder_attn.v_proj.", "cross_attn.value."},
      {"encoder_attn.out_proj.", "cross_attn.out."},
      {"encoder_attn_layer_norm.", "cross_attn_ln."},
      {"fc1.", "mlp.0."},
      {"fc2.", "mlp.2."},
      {"final_layer_norm.", "mlp_ln."},
  };
  for (const auto& [from, to] : parts)
    if (const std::string name_there = replaced(from, to); !name_there.empty())
      return block + name_there;
  return "";
}

bool same_data(const StoredTensor& a, const StoredTensor& b) {
  if (a.storage != b.storage || a.shape != b.shape) return false;
  std::vector<char> left(1 << 16), right(left.size());
  for (uint64_t done = 0; done < a.bytes; done += left.size()) {
    const uint64_t count = std::min<uint64_t>(left.size(), a.bytes - done);
    a.source->read(a.offset + done, left.data(), count);
    b.source->read(b.offset + done, right.data(), count);
    if (!std::equal(left.begin(), left.begin() + static_cast<long>(count), right.begin()))
      return false;
  }
  return true;
}

// The network that transformers builds from `config` must be Whisper's.
ModelDims read_dims(const Json& config, const std::string& path) {
  if (!config.is_object() || config.value("model_type", Json()) != "whisper")
    throw Error(ErrorCode::kUnsupported, path + ": \"model_type\" is not \"whisper\"");
  const auto get = [&](const char* key) { return json_int(config, key, 0, 1 << 20, path); };
  ModelDims dims;
  dims.n_mels = get("num_mel_bins");
  dims.n_audio_ctx = get("max_source_positions");
  dims.d_model = get("d_model");
  dims.n_heads = get("encoder_attention_heads");
  dims.n_encoder_layers = get("encoder_layers");
  dims.n_decoder_layers = get("decoder_layers");
  dims.n_text_ctx = get("max_target_positions");
  dims.n_vocab = get("vocab_size");
  if (get("decoder_attention_heads") != dims.n_heads)
    fail(path, "encoder and decoder have different numbers of attention heads");
  if (config.value("activation_function", Json("gelu")) != "gelu")
    throw Error(ErrorCode::kUnsupported, path + ": \"activation_function\" is not \"gelu\"");
  if (config.value("scale_embedding", Json(false)) != false)
    throw Error(ErrorCode::kUnsupported, path + ": \"scale_embedding\" is not false");
  check_dims(path, dims);
  return dims;
}

}  // namespace

Checkpoint read_hugging_face(const std::string& directory) {
  const std::string config_path = directory + "/config.json";
  Checkpoint checkpoint;
  checkpoint.format = "Hugging Face";
  checkpoint.dims = read_dims(read_config(config_path), config_path);

  Tensors tensors;
  if (exists(directory + "/model.safetensors")) {
    read_safetensors(directory + "/model.safetensors", tensors);
  } else {
    read_shards(directory, tensors);
  }
  StoredTensor projection;
  for (auto& [name, tensor] : tensors) {
    if (name == "proj_out.weight") {
      projection = std::move(tensor);
      continue;
    }
    const std::string to = openai_name(name.compare(0, 6, "model.") == 0 ? name.substr(6) : name);
    if (to.empty()) fail(directory, "tensor " + name + " does not belong to a Whisper model");
    if (!checkpoint.tensors.emplace(to, std::move(tensor)).second)
      fail(directory, "tensor " + name + " is there twice");
  }
  if (projection.source) {
    const auto embedding = checkpoint.tensors.find("decoder.token_embedding.weight");
    if (embedding != checkpoint.tensors.end() && !same_data(projection, embedding->second))
      throw Error(
          ErrorCode::kUnsupported,
          directory + " has an output projection (proj_out.weight) that is not its embedding");
  }

  const std::string generation_path = directory + "/generation_config.json";
  if (exists(generation_path)) {
    const Json generation = read_config(generation_path);
    checkpoint.alignment_heads = json_pairs(generation, "alignment_heads", generation_path);
    if (generation.is_object() && generation.contains("no_timestamps_token_id"))
      checkpoint.no_timestamps =
          json_int(generation, "no_timestamps_token_id", 0, 1 << 20, generation_path);
  }
  checkpoint.vocabulary = read_vocabulary(directory, checkpoint.dims.n_vocab);
  return checkpoint;
}

}  // namespace whisperxdna2
