// The file formats: the same weights from all of them, and every kind of damage. The models are
// written by make_models.py at build time; WHISPERXDNA2_TEST_MODELS is where they are.
#include <sys/stat.h>

#include <cmath>

#include "tests/whisper/model_copy.h"

using namespace whisperxdna2;

namespace {

const Tensor& watched(const Model& model) { return model.encoder_layers[0].fc1.weight; }

// `model`'s watched matrix against the values that the writer worked out.
void expect_values(const std::string& model, const std::string& type, DType dtype) {
  const std::string raw = read_file(models() / ("expected-" + type + ".f32"));
  std::vector<float> expected(raw.size() / sizeof(float));
  std::memcpy(expected.data(), raw.data(), raw.size());
  const auto loaded = load_model(models() / model);
  ck_assert(watched(*loaded).dtype == dtype);
  const std::vector<float> values = watched(*loaded).to_f32();
  ck_assert_uint_eq(values.size(), expected.size());
  for (size_t i = 0; i < values.size(); ++i)
    ck_assert_msg(values[i] == expected[i], "%s element %zu: %g, not %g", model.c_str(), i,
                  values[i], expected[i]);
}

int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  int64_t total = 0, resident = 0;
  file >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

}  // namespace

START_TEST(the_same_weights_are_the_same_bytes_from_every_format) {
  const auto first = load_model(models() / "ct2-f16");
  const auto encoder = first->hold_encoder_weights(), decoder = first->hold_decoder_weights();
  for (const char* name : {"ggml-f16.bin", "hf-f16", "hf-sharded"}) {
    const auto other = load_model(models() / name);
    ck_assert_msg(first->content_key == other->content_key, "%s", name);
    const auto other_encoder = other->hold_encoder_weights(), other_decoder = other->hold_decoder_weights();
    ck_assert(
        std::memcmp(first->token_embedding.data, other->token_embedding.data, 2 * 51865 * 64) == 0);
    ck_assert(std::memcmp(first->encoder_positions.data, other->encoder_positions.data,
                          4 * 1500 * 64) == 0);
    ck_assert(std::memcmp(watched(*first).data, watched(*other).data, 2 * 256 * 64) == 0);
    for (int id = 0; id < 50257; ++id)
      ck_assert(first->tokenizer->bytes(id) == other->tokenizer->bytes(id));
    ck_assert(first->alignment_heads == other->alignment_heads);
  }
  ck_assert(first->content_key == load_model(models() / "ct2-f16")->content_key);
  ck_assert(first->content_key != load_model(models() / "ct2-f32")->content_key);
  ck_assert(load_model(models() / "ct2-f32")->content_key ==
            load_model(models() / "hf-f32")->content_key);
  ck_assert(load_model(models() / "ct2-f32")->content_key ==
            load_model(models() / "ggml-f32.bin")->content_key);
}
END_TEST

START_TEST(english_only_and_large_v3_vocabularies_are_known) {
  const struct {
    const char* name;
    int n_vocab, n_mels, n_languages, eot;
    const char* last_language;
  } cases[] = {{"english", 51864, 80, 0, 50256, ""}, {"v3", 51866, 128, 100, 50257, "yue"}};
  for (const auto& expected : cases) {
    const std::string name = expected.name;
    const auto model = load_model(models() / ("ct2-" + name));
    ck_assert_int_eq(model->dims.n_vocab, expected.n_vocab);
    ck_assert_int_eq(model->dims.n_mels, expected.n_mels);
    const SpecialTokens& special = model->tokenizer->special();
    ck_assert_int_eq(special.n_languages, expected.n_languages);
    ck_assert_int_eq(special.eot, expected.eot);
    ck_assert(model->tokenizer->language_code(special.language_begin + 99) ==
              expected.last_language);
    for (const std::string& other : {"ggml-" + name + ".bin", "hf-" + name})
      ck_assert_msg(load_model(models() / other)->content_key == model->content_key, "%s",
                    other.c_str());
  }
}
END_TEST

// What random weights say is of no interest, but all of the engine works with these dimensions.
START_TEST(models_of_other_shapes_run_to_the_end) {
  const Scratch cache;
  setenv("XDG_CACHE_HOME", cache.path().c_str(), 1);
  for (const char* name : {"hf-distil", "ct2-v3", "ggml-english.bin"}) {
    EngineOptions options;
    options.model_path = models() / name;
    options.precision = Precision::kF32;
    options.threads = 1;
    std::string told;
    Engine engine(options, [&](const std::string& what, double) { told += what + "\n"; });
    ck_assert_msg(told.find("the model is " + engine.model().description + "\n") != std::string::npos,
                  "%s", told.c_str());
    ck_assert_int_eq(engine.model().dims.d_model, 64);
    std::vector<float> samples(3 * 16000);
    unsigned state = 1;
    for (float& sample : samples) {
      state = state * 1664525 + 1013904223;
      sample = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-33f;
    }
    ck_assert(engine.push(samples.data(), static_cast<int64_t>(samples.size())));
    ck_assert(engine.drain());
    Result result;
    do result = engine.next();
    while (result.kind == Result::Kind::kSegments);
    ck_assert(result.kind == Result::Kind::kDrained);
  }
  const auto distil = load_model(models() / "hf-distil");
  ck_assert_int_eq(distil->dims.n_encoder_layers, 3);
  ck_assert_int_eq(distil->dims.n_decoder_layers, 2);
}
END_TEST

START_TEST(every_type_has_the_values_its_format_means) {
  for (const char* model : {"ct2-f32", "hf-f32", "ggml-f32.bin"})
    expect_values(model, "f16", DType::kF32);
  for (const char* model : {"ct2-f16", "hf-f16", "ggml-f16.bin"})
    expect_values(model, "f16", DType::kF16);
  expect_values("hf-bf16", "bf16", DType::kBF16);
  expect_values("ct2-int8", "int8", DType::kF16);
  for (const char* type : {"q8_0", "q5_0", "q5_1", "q4_0", "q4_1"})
    expect_values(std::string("ggml-") + type + ".bin", type, DType::kF16);
}
END_TEST

START_TEST(tensors_stored_once_under_two_names_are_both_there) {
  const auto model = load_model(models() / "ct2-aliased");
  const DecoderLayer& layer = model->decoder_layers[0];
  ck_assert(layer.mlp_norm.gain.to_f32() == layer.cross_norm.gain.to_f32());
  ck_assert(layer.mlp_norm.gain.to_f32() != layer.self_norm.gain.to_f32());
}
END_TEST

START_TEST(the_description_says_what_was_found) {
  const char* expected[][2] = {{"ct2-int8", "CTranslate2 int8"},
                               {"ggml-q5_0.bin", "ggml q5_0"},
                               {"hf-bf16", "Hugging Face bf16"}};
  for (const auto& [model, start] : expected) {
    const std::string description = load_model(models() / model)->description;
    ck_assert_msg(description.rfind(start, 0) == 0, "%s", description.c_str());
    ck_assert_msg(description.find("1+1 layers of width 64, multilingual") != std::string::npos,
                  "%s", description.c_str());
  }
}
END_TEST

// The values in memory, which somebody holds, as f32.
static std::vector<float> in_memory(const Tensor& tensor) {
  Tensor plain;
  plain.dtype = tensor.dtype;
  plain.shape = tensor.shape;
  plain.data = tensor.data;
  return plain.to_f32();
}

START_TEST(weights_are_in_memory_only_while_somebody_holds_them) {
  const auto model = load_model(default_model_path());
  const int64_t none = resident_bytes();
#ifndef __SANITIZE_ADDRESS__  // which keeps what was freed
  ck_assert_int_lt(none, 40 << 20);
#endif
  auto held = model->hold_encoder_weights();
  ck_assert_int_gt(resident_bytes(), none + (30 << 20));  // base's encoder has 41 MB
  const auto again = model->hold_encoder_weights();
  held.reset();
  ck_assert(in_memory(watched(*model)) == watched(*model).to_f32());
}
END_TEST

START_TEST(released_weights_leave_memory) {
  const auto model = load_model(default_model_path());
  const int64_t none = resident_bytes();
  model->hold_encoder_weights().reset();
  model->hold_decoder_weights().reset();
  ck_assert_int_lt(resident_bytes(), none + (8 << 20));
}
END_TEST

START_TEST(a_tensor_comes_in_chunks_of_whole_rows) {
  const auto model = load_model(default_model_path());
  const Tensor& tensor = model->token_embedding;
  const std::vector<float> all = tensor.to_f32();
  int64_t next = 0;
  tensor.each_chunk([&](int64_t first, int64_t count, const float* values) {
    ck_assert_int_eq(first, next);
    ck_assert_int_eq(count % 512, 0);
    ck_assert(first + count == tensor.elements() || count / 512 % 64 == 0);
    ck_assert(std::equal(values, values + count, &all[first]));
    next += count;
  });
  ck_assert_int_eq(next, tensor.elements());
}
END_TEST

START_TEST(weights_are_read_from_a_file_that_was_removed) {
  const Copy copy("ggml-f16.bin");
  const auto model = load_model(copy.path());
  const std::vector<float> before = watched(*model).to_f32();
  fs::remove(copy.weights());
  const auto held = model->hold_encoder_weights();
  ck_assert(watched(*model).to_f32() == before);
  ck_assert(in_memory(watched(*model)) == before);
}
END_TEST

START_TEST(a_model_that_was_replaced_is_loaded_anew) {
  const Copy copy("ggml-f16.bin");
  const auto first = load_model(copy.path());
  fs::remove(copy.path());
  fs::copy(models() / "ggml-f32.bin", copy.path());
  ck_assert(load_model(copy.path())->content_key != first->content_key);
}
END_TEST

START_TEST(ct2_damage_is_named) {
  const std::string fc1 = "encoder/layer_0/ffn/linear_0/weight";
  const struct {
    const char* part;
    std::function<void(std::string&)> change;
  } cases[] = {
      {"this is no CTranslate2 model", [](std::string& d) { put32(d, 0, 0xffffffff); }},
      {"claims 100000 tensors", [](std::string& d) { put32(d, 22, 100000); }},
      {"(at byte ", [](std::string& d) { put32(d, 22, 4000); }},
      {"is not terminated", [](std::string& d) { d[26] = 0, d[27] = 0; }},
      {"claims 65535 bytes", [](std::string& d) { d[26] = d[27] = '\xff'; }},
      {"claims 255 dimensions", [&](std::string& d) { d[after_ct2_name(d, fc1)] = '\xff'; }},
      {"claims more elements than the file has bytes, or none",
       [&](std::string& d) { put32(d, after_ct2_name(d, fc1) + 1, 0); }},
      {"claims more elements",
       [&](std::string& d) { put32(d, after_ct2_name(d, fc1) + 1, 0xffffffff); }},
      {"has the unknown type 9", [&](std::string& d) { d[after_ct2_name(d, fc1) + 9] = 9; }},
      {"claims 32767 bytes, which its shape contradicts",
       [&](std::string& d) { put32(d, after_ct2_name(d, fc1) + 10, 32767); }},
      {"tensor encoder/conv1/bias is there twice",
       [](std::string& d) { d[find(d, "encoder/conv2/bias") + 12] = '1'; }},
      {"tensor encoder/conv1/bias is missing",
       [](std::string& d) { d[find(d, "encoder/conv1/bias") + 12] = '9'; }},
      {"tensor encoder/extra_9/ffn/linear_0/weight does not belong",
       [](std::string& d) {
         // One more tensor at the end of the list, before the aliases.
         const std::string name = "encoder/extra_9/ffn/linear_0/weight";
         std::string extra(1, static_cast<char>(name.size() + 1));
         extra += '\0' + name + std::string("\0\1\1\0\0\0\1\1\0\0\0x", 12);
         const size_t aliases =
             d.rfind(std::string("\x01\x00\x00\x00\x1a\x00"
                                 "decoder/projection/weight",
                                 31));
         ck_assert_uint_ne(aliases, std::string::npos);
         d.insert(aliases, extra);
         uint32_t count;
         std::memcpy(&count, &d[22], 4);
         put32(d, 22, count + 1);
       }},
      {"stands for a tensor that is not there",
       [](std::string& d) { d[d.rfind("decoder/embeddings/weight")] = 'x'; }},
      {"bytes follow the last alias", [](std::string& d) { d += "x"; }},
      {"holds NaN or infinity in element 3",
       [&](std::string& d) { d.replace(after_ct2_name(d, fc1) + 14 + 6, 2, "\x00\x7c", 2); }},
      {"holds NaN or infinity in element 16383",
       [&](std::string& d) {
         d.replace(after_ct2_name(d, fc1) + 14 + 2 * 16383, 2, "\x01\xfe", 2);
       }},
      {"gives the key projection a bias",
       [](std::string& d) {
         d[after_ct2_name(d, "decoder/layer_0/self_attention/linear_0/bias") + 10 + 2 * 64 + 1] =
             0x3c;
       }},
      {"belong to different models",
       [](std::string& d) { d[after_ct2_name(d, "decoder/num_heads") + 6] = 2; }},
      {"2 attention heads are not a Whisper model's",
       [](std::string& d) {
         d[after_ct2_name(d, "decoder/num_heads") + 6] = 2;
         d[after_ct2_name(d, "encoder/num_heads") + 6] = 2;
       }},
  };
  for (const auto& damage : cases) expect_damage("ct2-f16", damage.part, damage.change);
}
END_TEST

START_TEST(ct2_of_another_kind_is_unsupported) {
  const auto unsupported = [](const char* part, const std::function<void(std::string&)>& change) {
    expect_damage("ct2-f16", part, change, ErrorCode::kUnsupported);
  };
  unsupported("not of Whisper", [](std::string& d) { d[6] = 'w'; });
  unsupported("format 7 revision 3", [](std::string& d) { put32(d, 0, 7); });
  unsupported("format 6 revision 2", [](std::string& d) { put32(d, 18, 2); });
  unsupported("decoder/activation is 0",
              [](std::string& d) { d[after_ct2_name(d, "decoder/activation") + 6] = 0; });
  unsupported("16 or 32-bit integers", [](std::string& d) {
    d[after_ct2_name(d, "encoder/layer_0/ffn/linear_0/weight") + 9] = 2;
  });
}
END_TEST

START_TEST(ct2_int8_needs_a_scale_for_every_row) {
  const std::string name = "encoder/layer_0/ffn/linear_0/weight_scale";
  expect_damage("ct2-int8", "weight_scale is missing",
                [&](std::string& d) { d[find(d, name + '\0') + name.size() - 1] = 'x'; });
  expect_damage("ct2-int8", "holds NaN or infinity", [&](std::string& d) {
    put32(d, after_ct2_name(d, name) + 10, 0);
  });  // division by zero
}
END_TEST

START_TEST(ggml_damage_is_named) {
  const std::string fc1 = "encoder.blocks.0.mlp.0.weight";
  // Before the name: rank, name length, type, two sizes.
  const auto header = [&](const std::string& d, size_t field) {
    return find(d, fc1) - 20 + 4 * field;
  };
  const size_t tokens = 4 + 44 + 8 + 80 * 201 * 4;
  const struct {
    const char* part;
    std::function<void(std::string&)> change;
  } cases[] = {
      {"51863 tokens are not a Whisper model's", [](std::string& d) { put32(d, 4, 51863); }},
      {"-1 tokens are not", [](std::string& d) { put32(d, 4, 0xffffffff); }},
      {"1501 audio positions are not", [](std::string& d) { put32(d, 8, 1501); }},
      {"63 channels are not", [](std::string& d) { put32(d, 12, 63); }},
      {"2 attention heads are not", [](std::string& d) { put32(d, 16, 2); }},
      {"65 encoder layers are not", [](std::string& d) { put32(d, 20, 65); }},
      {"0 text positions are not", [](std::string& d) { put32(d, 24, 0); }},
      {"encoder (width 64) and decoder (width 128) belong to different models",
       [](std::string& d) { put32(d, 28, 128); }},
      {"0 decoder layers are not", [](std::string& d) { put32(d, 36, 0); }},
      {"79 mel bands are not", [](std::string& d) { put32(d, 40, 79); }},
      {"the mel filters have shape [80 2147483647]",
       [](std::string& d) { put32(d, 52, 0x7fffffff); }},
      {"claims 2147483647 tokens", [&](std::string& d) { put32(d, tokens, 0x7fffffff); }},
      {"claims -1 tokens", [&](std::string& d) { put32(d, tokens, 0xffffffff); }},
      {"the token claims 4294967295 bytes",
       [&](std::string& d) { put32(d, tokens + 4, 0xffffffff); }},
      {"a tensor claims 2147483647 dimensions",
       [&](std::string& d) { put32(d, header(d, 0), 0x7fffffff); }},
      {"a tensor claims 0 dimensions", [&](std::string& d) { put32(d, header(d, 0), 0); }},
      {"a tensor claims -1 dimensions",
       [&](std::string& d) { put32(d, header(d, 0), 0xffffffff); }},
      {"the name of a tensor claims 1000000 bytes",
       [&](std::string& d) { put32(d, header(d, 1), 1000000); }},
      {"a tensor has no name", [&](std::string& d) { put32(d, header(d, 1), 0x80000000); }},
      {"a tensor claims more elements than the file can hold",
       [&](std::string& d) { put32(d, header(d, 3), 0x7fffffff); }},
      {"a tensor claims more elements than the file can hold",
       [&](std::string& d) { put32(d, header(d, 4), 0); }},
      {"tensor "
       "encoder.conv1.bias is there twice",
       [](std::string& d) { d[find(d, "encoder.conv2.bias") + 12] = '1'; }},
      {"tensor encoder.conv2.bias is missing",
       [](std::string& d) { d.replace(find(d, "encoder.conv2.bias"), 18, "encoder.convX.bias"); }},
      {"has shape [64 256], not [256 64]",
       [&](std::string& d) { put32(d, header(d, 3), 256), put32(d, header(d, 4), 64); }},
      {"holds NaN or infinity in element 0",
       [&](std::string& d) { d.replace(find(d, fc1) + fc1.size(), 2, "\xff\xff"); }},
  };
  for (const auto& damage : cases) expect_damage("ggml-f16.bin", damage.part, damage.change);
  expect_damage(
      "ggml-f16.bin", "has ggml type 12", [&](std::string& d) { put32(d, header(d, 2), 12); },
      ErrorCode::kUnsupported);
  expect_damage("ggml-q4_0.bin", "are not made of whole blocks",
                [&](std::string& d) { put32(d, header(d, 3), 63); });
}
END_TEST

START_TEST(safetensors_damage_is_named) {
  const std::string entry =
      "\"model.encoder.conv1.bias\":{\"dtype\":\"F16\",\"shape\":[64],\"data_offsets\":[";
  // Replaces text in the header by text of the same length.
  const auto replace = [](const std::string& from, const std::string& to) {
    ck_assert_uint_eq(from.size(), to.size());
    return [from, to](std::string& d) { d.replace(find(d, from), from.size(), to); };
  };
  const auto offsets = [&](std::string& d) { return find(d, entry) + entry.size(); };
  const struct {
    const char* part;
    std::function<void(std::string&)> change;
  } cases[] = {
      {"the header claims 18446744073709551615 bytes",
       [](std::string& d) { d.replace(0, 8, 8, '\xff'); }},
      {"the header claims 4194305 bytes",
       [](std::string& d) { d.replace(0, 8, std::string("\x01\x00\x40\0\0\0\0\0", 8)); }},
      {"not valid JSON", [](std::string& d) { d[8] = 'x'; }},
      {"has no valid shape", replace("bias\":{\"dtype\":\"F16\",\"shape\":[64]",
                                     "bias\":{\"dtype\":\"F16\",\"shape\":[ 0]")},
      {"has no valid shape", replace("bias\":{\"dtype\":\"F16\",\"shape\":[64]",
                                     "bias\":{\"dtype\":\"F16\",\"shape\":[-4]")},
      {"has no valid data_offsets", replace("bias\":{\"dtype\":\"F16\",\"shape\":[64]",
                                            "bias\":{\"dtype\":\"F16\",\"shape\":[63]")},
      {"has no valid data_offsets", [&](std::string& d) { d[offsets(d)] = '9'; }},
      {"has no valid dtype", replace("\"dtype\":\"F16\"", "\"Dtype\":\"F16\"")},
      {"does not belong to a Whisper model",
       replace("\"model.encoder.conv1.bias", "\"xodel.encoder.conv1.bias")},
      {"leave a gap at byte",
       [&](std::string& d) {  // one description less
         const size_t at = find(d, entry);
         const size_t length = find(d, "},", at) + 2 - at;
         d.replace(at, length, length, ' ');
       }},
      {"overlap at byte",
       [&](std::string& d) {  // both offsets two bytes lower
         size_t length;
         const int begin = std::stoi(d.substr(offsets(d)), &length);
         const std::string before = std::to_string(begin) + "," + std::to_string(begin + 128) + "]";
         const std::string after =
             std::to_string(begin - 2) + "," + std::to_string(begin + 126) + "]";
         ck_assert_uint_eq(before.size(), after.size());
         d.replace(find(d, entry + before) + entry.size(), after.size(), after);
       }},
      {"the tensors end at byte", [](std::string& d) { d += "x"; }},
      {"nested too deeply", [](std::string& d) { d.replace(8, 100, std::string(100, '[')); }},
  };
  for (const auto& damage : cases) expect_damage("hf-f16", damage.part, damage.change);
  expect_damage("hf-f16", "is of type \"F64\"", replace("\"dtype\":\"F16\"", "\"dtype\":\"F64\""),
                ErrorCode::kUnsupported);
}
END_TEST

START_TEST(shards_must_be_files_beside_their_index) {
  const auto refuse = [](const std::string& from, const std::string& to, const char* part) {
    const Copy copy("hf-sharded");
    const fs::path index = copy.path() / "model.safetensors.index.json";
    std::string text = read_file(index);
    text.replace(find(text, from), from.size(), to);
    write_file(index, text);
    expect_refused(copy.path(), ErrorCode::kInvalidFile, part);
  };
  const std::string first = "\"model-00001-of-00002.safetensors\"";
  refuse(first, "\"../model-00001-of-00002.safetensors\"",
         "is no name of a file in the same directory");
  refuse(first, "\"/etc/passwd\"", "is no name of a file in the same directory");
  refuse(first, "\"\"", "is no name of a file in the same directory");
  refuse(first, "7", "has no file");
  refuse(first, "\"model-00002-of-00002.safetensors\"", "is missing");
  refuse("weight_map", "weight_mop", "no \"weight_map\"");
}
END_TEST

START_TEST(a_missing_shard_is_named) {
  const Copy copy("hf-sharded");
  fs::remove(copy.path() / "model-00002-of-00002.safetensors");
  expect_refused(copy.path(), ErrorCode::kNotFound,
                 "model-00002-of-00002.safetensors cannot be opened");
}
END_TEST

START_TEST(a_projection_must_be_the_embedding) {
  // The header grows by one tensor, its data is put at the end.
  const auto add = [](std::string& d, bool same) {
    uint64_t length;
    std::memcpy(&length, d.data(), 8);
    const uint64_t end = d.size() - 8 - length;
    const uint64_t bytes = 2 * 51865 * 64;
    const std::string entry =
        ",\"proj_out.weight\":{\"dtype\":\"F16\",\"shape\":[51865,64],\"data_offsets\":[" +
        std::to_string(end) + "," + std::to_string(end + bytes) + "]}";
    const std::string key =
        "\"model.decoder.embed_tokens.weight\":{\"dtype\":\"F16\",\"shape\":[51865,64],\"data_"
        "offsets\":[";
    const size_t begin = 8 + length + std::stoul(d.substr(find(d, key) + key.size()));
    std::string data = d.substr(begin, bytes);
    if (!same) data[777777] ^= 1;
    d.insert(d.rfind('}', 8 + length), entry);
    length += entry.size();
    std::memcpy(&d[0], &length, 8);
    d += data;
  };
  expect_damage(
      "hf-f16", "that is not its embedding", [&](std::string& d) { add(d, false); },
      ErrorCode::kUnsupported);
  const Copy copy("hf-f16");
  copy.edit([&](std::string& d) { add(d, true); });
  ck_assert(load_model(copy.path())->content_key == load_model(models() / "hf-f16")->content_key);
}
END_TEST

START_TEST(configurations_of_other_networks_are_refused) {
  const auto refuse = [](const std::string& from, const std::string& to, ErrorCode code,
                         const char* part) {
    const Copy copy("hf-f16");
    std::string text = read_file(copy.path() / "config.json");
    text.replace(find(text, from), from.size(), to);
    write_file(copy.path() / "config.json", text);
    expect_refused(copy.path(), code, part);
  };
  refuse("\"whisper\"", "\"wav2vec2\"", ErrorCode::kUnsupported,
         "\"model_type\" is not \"whisper\"");
  refuse("\"gelu\"", "\"relu\"", ErrorCode::kUnsupported, "activation_function");
  refuse("false", "true", ErrorCode::kUnsupported, "scale_embedding");
  refuse("\"decoder_attention_heads\": 1", "\"decoder_attention_heads\": 2",
         ErrorCode::kInvalidFile, "different numbers");
  refuse("\"d_model\": 64", "\"d_model\": -64", ErrorCode::kInvalidFile, "\"d_model\" is -64");
  refuse("\"d_model\": 64", "\"d_model\": 18446744073709551615", ErrorCode::kInvalidFile,
         "\"d_model\" is 18446744073709551615");
  refuse("\"d_model\": 64", "\"d_model\": 64.0", ErrorCode::kInvalidFile,
         "\"d_model\" is missing or no integer");
  refuse("\"d_model\": 64", "\"d_model\": 128", ErrorCode::kInvalidFile, "attention heads");
  refuse("\"encoder_layers\": 1", "\"encoder_layers\": 2", ErrorCode::kInvalidFile,
         "encoder.blocks.1.attn_ln.weight is missing");
  refuse("\"vocab_size\": 51865", "\"vocab_size\": 51866", ErrorCode::kInvalidFile, "");
  refuse("{", "[", ErrorCode::kInvalidFile, "not valid JSON");
}
END_TEST

START_TEST(alignment_heads_must_be_in_the_model) {
  const auto refuse = [](const std::string& heads, const char* part) {
    const Copy copy("ct2-f16");
    write_file(copy.path() / "config.json", "{\"alignment_heads\": " + heads + "}");
    expect_refused(copy.path(), ErrorCode::kInvalidFile, part);
  };
  refuse("[[1, 0]]", "alignment head (1, 0) is not in the model");
  refuse("[[0, 1]]", "alignment head (0, 1) is not in the model");
  refuse("[[0, -1]]", "no list of pairs");
  refuse("[[0]]", "no list of pairs");
  refuse("[[99999999999, 0]]", "no list of pairs");
  refuse("7", "no list");
}
END_TEST

START_TEST(a_vocabulary_that_does_not_fit_the_weights_is_refused) {
  const auto refuse = [](const char* model, const char* file,
                         const std::function<void(std::string&)>& change, const char* part) {
    const Copy copy(model);
    std::string text = read_file(copy.path() / file);
    change(text);
    write_file(copy.path() / file, text);
    expect_refused(copy.path(), ErrorCode::kInvalidFile, part);
  };
  const auto drop_line = [](std::string& text) { text.erase(0, text.find('\n') + 1); };
  refuse("ct2-f16", "vocabulary.txt", drop_line, "");
  refuse(
      "ct2-f16", "vocabulary.txt", [](std::string& text) { text += "more\nand more\n"; },
      "more than 51865 tokens");
  refuse(
      "ct2-f16", "vocabulary.txt", [](std::string& text) { text = "a\nb\n"; }, "2 text tokens");
  refuse(
      "ct2-f16", "vocabulary.txt", [](std::string& text) { text.insert(0, 2000, 'a'); },
      "longer than 1024 bytes");
  refuse(
      "ct2-f16", "vocabulary.txt", [](std::string& text) { text.insert(0, "\xe2\x82\xac"); },
      "byte alphabet");
  refuse(
      "ct2-f16", "vocabulary.txt",
      [](std::string& text) { text.replace(find(text, "<|de|>"), 6, "<|xx|>"); },
      "token 50261 is \"<|xx|>\", not \"<|de|>\"");
  refuse(
      "hf-f16", "tokenizer.json",
      [](std::string& text) {
        text.replace(find(text, "<|notimestamps|>"), 16, "<|nospeechnone|>");
      },
      "token 50363 is");
  refuse(
      "hf-f16", "tokenizer.json",
      [](std::string& text) { text.replace(find(text, ": 300,"), 6, ": 301,"); },
      "two tokens have id 301");
  refuse(
      "hf-f16", "tokenizer.json",
      [](std::string& text) { text.replace(find(text, ": 300,"), 6, ": -30,"); },
      "the id of a token");
  refuse(
      "hf-sharded", "vocab.json",
      [](std::string& text) { text.replace(find(text, ": 300,"), 6, ": 51864,"); },
      "no token has id 300");
  refuse(
      "hf-f16", "generation_config.json",
      [](std::string& text) { text.replace(find(text, "50363"), 5, "50364"); },
      "\"no_timestamps_token_id\" is 50364");
}
END_TEST

START_TEST(a_missing_part_of_a_directory_is_named) {
  const std::pair<const char*, std::pair<const char*, const char*>> parts[] = {
      {"ct2-f16", {"vocabulary.txt", "has no vocabulary"}},
      {"ct2-f16", {"config.json", "config.json cannot be opened"}},
      {"ct2-f16", {"model.bin", "There is no model in"}},
      {"hf-f16", {"tokenizer.json", "has no vocabulary"}},
      {"hf-f16", {"config.json", "config.json cannot be opened"}},
  };
  for (const auto& [model, part] : parts) {
    const Copy copy(model);
    fs::remove(copy.path() / part.first);
    expect_refused(copy.path(), ErrorCode::kNotFound, part.second);
  }
}
END_TEST

int main() {
  Suite* suite = suite_create("model_files");
  TCase* tests = tcase_create("model_files");
  tcase_add_test(tests, the_same_weights_are_the_same_bytes_from_every_format);
  tcase_add_test(tests, english_only_and_large_v3_vocabularies_are_known);
  tcase_add_test(tests, models_of_other_shapes_run_to_the_end);
  tcase_add_test(tests, every_type_has_the_values_its_format_means);
  tcase_add_test(tests, tensors_stored_once_under_two_names_are_both_there);
  tcase_add_test(tests, the_description_says_what_was_found);
  tcase_add_test(tests, weights_are_in_memory_only_while_somebody_holds_them);
  tcase_add_test(tests, released_weights_leave_memory);
  tcase_add_test(tests, a_tensor_comes_in_chunks_of_whole_rows);
  tcase_add_test(tests, weights_are_read_from_a_file_that_was_removed);
  tcase_add_test(tests, a_model_that_was_replaced_is_loaded_anew);
  tcase_add_test(tests, ct2_damage_is_named);
  tcase_add_test(tests, ct2_of_another_kind_is_unsupported);
  tcase_add_test(tests, ct2_int8_needs_a_scale_for_every_row);
  tcase_add_test(tests, ggml_damage_is_named);
  tcase_add_test(tests, safetensors_damage_is_named);
  tcase_add_test(tests, shards_must_be_files_beside_their_index);
  tcase_add_test(tests, a_missing_shard_is_named);
  tcase_add_test(tests, a_projection_must_be_the_embedding);
  tcase_add_test(tests, configurations_of_other_networks_are_refused);
  tcase_add_test(tests, alignment_heads_must_be_in_the_model);
  tcase_add_test(tests, a_vocabulary_that_does_not_fit_the_weights_is_refused);
  tcase_add_test(tests, a_missing_part_of_a_directory_is_named);
  suite_add_tcase(suite, tests);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
