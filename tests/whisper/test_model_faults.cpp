// What hostile or broken model files may not do: crash, read past their end, take memory out of
// proportion, or be taken for something else. Each fault that is known from other loaders of
// Whisper has a test of its own name. Values that are merely wrong are in test_model_files.cpp.
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "tests/whisper/model_copy.h"

using namespace whisperxdna2;

namespace {

const Tensor& fc1(const Model& model) { return model.encoder_layers[0].fc1.weight; }

// Little-endian fields of files that the tests write themselves.
template <typename T>
std::string number(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

// A CTranslate2 string.
std::string ct2_text(const std::string& value) {
  return number(static_cast<uint16_t>(value.size() + 1)) + value + '\0';
}

// A CTranslate2 tensor of zeros; `type` 4 is f16, 1 is int8.
std::string ct2_tensor(const std::string& name, const std::vector<uint32_t>& shape, int type = 4) {
  uint32_t bytes = type == 1 ? 1 : 2;
  std::string entry = ct2_text(name) + static_cast<char>(shape.size());
  for (const uint32_t size : shape) entry += number(size), bytes *= size;
  return entry + static_cast<char>(type) + number(bytes) + std::string(bytes, '\0');
}

// A ggml tensor; `data` is as it should be for the shape (innermost first) and type.
std::string ggml_tensor(const std::string& name, const std::vector<int32_t>& shape, int32_t type,
                        const std::string& data) {
  std::string entry = number(static_cast<int32_t>(shape.size())) +
                      number(static_cast<int32_t>(name.size())) + number(type);
  for (const int32_t size : shape) entry += number(size);
  return entry + name + data;
}

// A ggml file up to its tensors, with the dimensions of the generated models and three tokens.
std::string ggml_head() {
  std::string file = number(uint32_t{0x67676d6c});
  for (const int32_t field : {51865, 1500, 64, 1, 1, 448, 64, 1, 1, 80, 1}) file += number(field);
  file += number(int32_t{80}) + number(int32_t{201}) + std::string(80 * 201 * 4, '\0');
  file += number(int32_t{3});
  for (const std::string token : {"a", "bc", ""})
    file += number(static_cast<uint32_t>(token.size())) + token;
  return file;
}

// Where the fields before the name of a ggml tensor are: rank, name length, type, two sizes.
size_t ggml_field(const std::string& data, const std::string& name, size_t field) {
  return find(data, name) - 20 + 4 * field;
}

const std::string kGgmlMatrix = "encoder.blocks.0.mlp.0.weight";
constexpr size_t kGgmlTokens = 4 + 44 + 8 + 80 * 201 * 4;  // the number of tokens

// `file`, cut to every size below its own, is refused by `read`, unless allowed(size).
void cut_everywhere(const fs::path& file, const std::function<void()>& read, const char* part,
                    const std::function<bool(size_t)>& allowed = {}) {
  const std::string data = read_file(file);
  const MemoryLimit limit(file);
  for (size_t size = data.size(); size-- > 0;) {
    ck_assert_int_eq(truncate(file.c_str(), static_cast<off_t>(size)), 0);
    if (allowed && allowed(size)) {
      read();
      continue;
    }
    try {
      read();
      ck_abort_msg("%s was read with %zu of %zu bytes", file.c_str(), size, data.size());
    } catch (const Error& error) {
      ck_assert_msg(error.code() == ErrorCode::kInvalidFile && std::strstr(error.what(), part),
                    "%zu bytes: %s", size, error.what());
    }
  }
  write_file(file, data);
}

}  // namespace

// The ends of the parts of small files, which only their readers take for models.

START_TEST(ggml_cut_at_every_byte_is_refused) {
  const Scratch scratch;
  const fs::path path = scratch.path() / "ggml.bin";
  std::string file = ggml_head();
  std::vector<size_t> ends = {
      file.size()};  // whole tensors are there: their number is checked later
  for (const std::string& tensor :
       {ggml_tensor("encoder.conv1.bias", {2, 1}, 0, std::string(8, 1)),
        ggml_tensor("encoder.conv1.weight", {3, 2, 2}, 1, std::string(24, 1)),
        ggml_tensor("decoder.blocks.0.mlp.0.weight", {64, 2}, 7, std::string(96, 1)),
        ggml_tensor("decoder.token_embedding.weight", {32, 3}, 2, std::string(54, 1))}) {
    file += tensor;
    ends.push_back(file.size());
  }
  write_file(path, file);
  ck_assert_uint_eq(read_ggml(path).tensors.size(), 4);
  cut_everywhere(
      path, [&] { ck_assert_uint_lt(read_ggml(path).tensors.size(), 4); }, "the file ends inside",
      [&](size_t size) { return std::count(ends.begin(), ends.end(), size) > 0; });
}
END_TEST

START_TEST(ct2_cut_at_every_byte_is_refused) {
  const Scratch scratch;
  const fs::path path = scratch.path() / "model.bin";
  const std::vector<std::string> tensors = {
      ct2_tensor("encoder/conv1/weight", {4, 2, 3}),
      ct2_tensor("encoder/position_encodings/encodings", {3, 4}),
      ct2_tensor("decoder/position_encodings/encodings", {3, 4}),
      ct2_tensor("decoder/embeddings/weight", {5, 4}, 1),
      ct2_text("encoder/num_heads") + std::string("\0\2\2\0\0\0\1\0", 8),
      ct2_text("decoder/num_heads") + std::string("\0\2\2\0\0\0\1\0", 8),
  };
  std::string file = number(uint32_t{6}) + ct2_text("WhisperSpec") + number(uint32_t{3}) +
                     number(static_cast<uint32_t>(tensors.size()));
  for (const std::string& tensor : tensors) file += tensor;
  file += number(uint32_t{1}) + ct2_text("decoder/projection/weight") +
          ct2_text("decoder/embeddings/weight");
  write_file(path, file);
  const auto read = [&] { read_ct2(scratch.path()); };
  // All of it is read before the dimensions are looked at.
  expect_error(read, ErrorCode::kInvalidFile, "are not a Whisper model's");
  cut_everywhere(path, read, "the file ends inside");
}
END_TEST

START_TEST(hugging_face_cut_at_every_byte_is_refused) {
  const Scratch scratch;
  const fs::path& root = scratch.path();
  std::string header =
      R"({"__metadata__":{"format":"pt"},)"
      R"("model.encoder.conv1.bias":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},)"
      R"("model.encoder.conv2.bias":{"dtype":"F32","shape":[1,2],"data_offsets":[4,12]}})";
  const std::string weights =
      number(static_cast<uint64_t>(header.size())) + header + std::string(12, 1);
  write_file(root / "model.safetensors", weights);
  fs::copy(models() / "hf-f16" / "config.json", root);
  write_file(root / "generation_config.json",
             R"({"alignment_heads": [[0, 0]], "no_timestamps_token_id": 50363})");
  write_file(root / "vocab.json", R"({"!": 0, "\u0120a": 1})");
  const auto read = [&] { ck_assert_uint_eq(read_hugging_face(root).tensors.size(), 2); };
  read();
  for (const char* name :
       {"model.safetensors", "config.json", "generation_config.json", "vocab.json"})
    cut_everywhere(root / name, read, "");

  fs::rename(root / "model.safetensors", root / "a.safetensors");
  write_file(root / "model.safetensors.index.json",
             R"({"weight_map": {"model.encoder.conv1.bias": "a.safetensors"}})");
  read();
  for (const char* name : {"a.safetensors", "model.safetensors.index.json"})
    cut_everywhere(root / name, read, "");

  // These stand before vocab.json.
  write_file(root / "tokenizer.json",
             R"({"added_tokens": [{"id": 1, "content": "<|en|>"}], "model": {"vocab": {"!": 0}}})");
  cut_everywhere(root / "tokenizer.json", read, "");
  write_file(root / "vocabulary.json", R"(["!", "\u0120a", "<|en|>"])");
  cut_everywhere(root / "vocabulary.json", read, "");
}
END_TEST

// Complete models: every byte around every tensor's header, and samples in between.
static void truncate_everywhere(const std::string& model, const char* name_start, size_t reach,
                                size_t stride) {
  const Copy copy(model);
  const MemoryLimit limit(copy.path());
  const std::string data = read_file(copy.weights());
  std::vector<bool> cut(data.size());
  for (size_t at = 0; at < data.size(); at += stride) cut[at] = true;
  const auto around = [&](size_t at) {
    for (size_t i = at - std::min(at, reach); i < std::min(at + reach, data.size()); ++i)
      cut[i] = true;
  };
  around(0);
  around(data.size());
  for (const char* side : {"encoder", "decoder"})
    for (size_t at = data.find(std::string(side) + name_start); at != std::string::npos;
         at = data.find(std::string(side) + name_start, at + 1))
      around(at);
  int cuts = 0;
  for (size_t size = data.size(); size-- > 0;) {
    if (!cut[size]) continue;
    ++cuts;
    ck_assert_int_eq(truncate(copy.weights().c_str(), static_cast<off_t>(size)), 0);
    try {
      load_model(copy.path());
      ck_abort_msg("loaded with %zu of %zu bytes", size, data.size());
    } catch (const Error& error) {
      ck_assert_msg(error.code() == ErrorCode::kInvalidFile, "%zu bytes: %s", size, error.what());
    }
  }
  ck_assert_int_gt(cuts, 300);
}

START_TEST(ct2_truncated_anywhere_is_refused) { truncate_everywhere("ct2-f16", "/", 16, 65521); }
END_TEST
START_TEST(ggml_truncated_anywhere_is_refused) {
  truncate_everywhere("ggml-q5_1.bin", ".", 5, 65521);
}
END_TEST
START_TEST(safetensors_truncated_anywhere_is_refused) {
  truncate_everywhere("hf-f16", ".", 5, 65521);
}
END_TEST

// ggml-org/whisper.cpp#3787 and #3944: as many sizes as n_dims says were read into an array of
// four.
START_TEST(ggml_number_of_dimensions_cannot_overflow_an_array) {
  for (const uint32_t rank : {5u, 255u, 0x7fffffffu, 0x80000000u, 0xffffffffu, 0u})
    expect_damage("ggml-f16.bin", "a tensor claims " + std::to_string(static_cast<int32_t>(rank)),
                  [&](std::string& d) { put32(d, ggml_field(d, kGgmlMatrix, 0), rank); });
}
END_TEST

// ggml-org/whisper.cpp#4059: token ids that the size of the vocabulary does not cover were used as
// indices.
START_TEST(ggml_vocabulary_of_another_size_is_refused) {
  for (const uint32_t n_vocab : {0u, 1u, 51863u, 51867u, 0x7fffffffu, 0x80000000u, 0xffffffffu})
    expect_damage(
        "ggml-f16.bin",
        std::to_string(static_cast<int32_t>(n_vocab)) + " tokens are not a Whisper model's",
        [&](std::string& d) { put32(d, 4, n_vocab); });
  // Of a known size, but not that of the embedding.
  for (const uint32_t n_vocab : {51864u, 51866u})
    expect_damage("ggml-f16.bin", "", [&](std::string& d) { put32(d, 4, n_vocab); });
}
END_TEST

// ggml-org/whisper.cpp#3674, #3767.
START_TEST(ggml_token_of_any_length_is_not_read) {
  for (const uint32_t length : {1025u, 0x7fffffffu, 0x80000000u, 0xffffffffu})
    expect_damage("ggml-f16.bin", "the token claims " + std::to_string(length) + " bytes",
                  [&](std::string& d) { put32(d, kGgmlTokens + 4, length); });
}
END_TEST

START_TEST(ggml_vocabulary_of_any_length_is_not_read) {
  for (const uint32_t count : {51866u, 0x7fffffffu, 0x80000000u, 0xffffffffu})
    expect_damage("ggml-f16.bin",
                  "it claims " + std::to_string(static_cast<int32_t>(count)) + " tokens",
                  [&](std::string& d) { put32(d, kGgmlTokens, count); });
}
END_TEST

// ggml-org/whisper.cpp#3879: the product of two claimed sizes overflowed, and what was not
// allocated was written to.
START_TEST(ggml_mel_filters_of_another_size_are_refused) {
  const std::pair<uint32_t, uint32_t> sizes[] = {
      {80, 0x7fffffff}, {0x7fffffff, 201},        {0x40000000, 4},  {0x10000, 0x10000},
      {0, 201},         {0xffffffff, 0xffffffff}, {80, 0x80000000}, {128, 201}};
  for (const auto& [bands, bins] : sizes)
    expect_damage("ggml-f16.bin", "the mel filters have shape [", [&](std::string& d) {
      put32(d, 48, bands);
      put32(d, 52, bins);
    });
}
END_TEST

// ggml-org/whisper.cpp#3795. Every count that a file can claim, at its largest allowed value, in a
// file that ends there.
START_TEST(counts_that_the_file_does_not_hold_cost_nothing) {
  const Scratch scratch;
  const auto refuse = [&](const std::string& data) {
    write_file(scratch.path() / "model.bin", data);
    const auto begin = std::chrono::steady_clock::now();
    const MemoryLimit limit(scratch.path());
    const bool ggml = data[0] == 'l';
    expect_error([&] { ggml ? read_ggml(scratch.path() / "model.bin") : read_ct2(scratch.path()); },
                 ErrorCode::kInvalidFile, "");
    ck_assert(std::chrono::steady_clock::now() - begin < std::chrono::seconds(1));
  };
  const std::string ggml = ggml_head();
  refuse(ggml.substr(0, kGgmlTokens) + number(int32_t{51865}));
  const std::string many(1 << 20, '\1');  // tensors with the largest sizes that can be claimed
  refuse(ggml + many);
  const std::string ct2 = number(uint32_t{6}) + ct2_text("WhisperSpec") + number(uint32_t{3});
  refuse(ct2 + number(uint32_t{4096}));
  refuse(ct2 + number(uint32_t{4096}) + many);
  refuse(ct2 + number(uint32_t{0}) + number(uint32_t{4096}));
}
END_TEST

// Found in whisper.cpp's loader: the number of elements was a product of 32 bits.
START_TEST(ggml_product_of_dimensions_does_not_wrap) {
  const std::vector<std::vector<uint32_t>> shapes = {
      {65536, 65536}, {0x7fffffff, 0x7fffffff}, {0x40000000, 4}, {0x80000000, 2}, {0, 0}};
  for (const auto& shape : shapes)
    expect_damage("ggml-f16.bin", "a tensor claims more elements than the file can hold, or none",
                  [&](std::string& d) {
                    for (size_t i = 0; i < 2; ++i)
                      put32(d, ggml_field(d, kGgmlMatrix, 3 + i), shape[i]);
                  });
  // 2^64 elements: none, where the product wraps.
  const Scratch scratch;
  write_file(
      scratch.path() / "ggml.bin",
      ggml_head() + ggml_tensor("encoder.conv1.weight", {65536, 65536, 65536, 65536}, 1, ""));
  expect_error([&] { read_ggml(scratch.path() / "ggml.bin"); }, ErrorCode::kInvalidFile,
               "a tensor claims more elements than the file can hold");
}
END_TEST

START_TEST(ct2_product_of_dimensions_does_not_wrap) {
  const Scratch scratch;
  std::string file = number(uint32_t{6}) + ct2_text("WhisperSpec") + number(uint32_t{3}) +
                     number(uint32_t{1}) + ct2_text("encoder/conv1/weight") + '\4';
  for (int i = 0; i < 4; ++i) file += number(uint32_t{65536});
  write_file(scratch.path() / "model.bin", file + '\4' + number(uint32_t{0}) + number(uint32_t{0}));
  expect_error([&] { read_ct2(scratch.path()); }, ErrorCode::kInvalidFile,
               "claims more elements than the file has bytes");
}
END_TEST

START_TEST(safetensors_product_of_dimensions_does_not_wrap) {
  for (const char* shape :
       {"[4294967296,4294967296]", "[9223372036854775808,2]", "[65536,65536,65536,65536]"})
    expect_damage("hf-f16", "has no valid shape", [&](std::string& d) {
      const std::string old = "\"model.encoder.conv1.bias\":{\"dtype\":\"F16\",\"shape\":[64]";
      const std::string text = old.substr(0, old.size() - 4) + shape;
      d.replace(find(d, old), old.size(), text);
      uint64_t length;
      std::memcpy(&length, d.data(), 8);
      length += text.size() - old.size();
      std::memcpy(&d[0], &length, 8);
    });
}
END_TEST

// Found in whisper.cpp's loader: the length of a name was not checked.
START_TEST(name_of_a_tensor_of_any_length_is_not_read) {
  for (const uint32_t length : {257u, 0x7fffffffu})
    expect_damage("ggml-f16.bin",
                  "the name of a tensor claims " + std::to_string(length) + " bytes",
                  [&](std::string& d) { put32(d, ggml_field(d, kGgmlMatrix, 1), length); });
  for (const uint32_t length : {0u, 0x80000000u, 0xffffffffu})
    expect_damage("ggml-f16.bin", "a tensor has no name",
                  [&](std::string& d) { put32(d, ggml_field(d, kGgmlMatrix, 1), length); });
  expect_damage("ct2-f16", "the name of a tensor claims 65535 bytes",
                [](std::string& d) { d[26] = d[27] = '\xff'; });
  expect_damage("hf-f16", "a tensor's name is \"aaa", [](std::string& d) {
    const std::string name(1 << 20, 'a');
    uint64_t length;
    std::memcpy(&length, d.data(), 8);
    d.insert(find(d, "model.encoder.conv1.bias"), name);
    length += name.size();
    std::memcpy(&d[0], &length, 8);
  });
}
END_TEST

START_TEST(what_a_file_says_is_printed_only_where_it_is_text) {
  for (const std::string byte : {"\n", "\xff", "\x1b", "\xc3"}) {
    expect_damage("ggml-f16.bin", "the name of a tensor is \"?nc",
                  [&](std::string& d) { d.replace(find(d, kGgmlMatrix), 1, byte); });
    expect_damage("ct2-f16", "the name of a tensor is \"?nc",
                  [&](std::string& d) { d.replace(find(d, "encoder/conv1/bias"), 1, byte); });
  }
  expect_damage("hf-f16", "a tensor's name is \"??del.encoder.conv1.bias\"", [](std::string& d) {
    d.replace(find(d, "model.encoder.conv1.bias"), 2, "\xc3\xa9");
  });
  expect_damage("hf-f16", "not valid JSON (at byte ",
                [](std::string& d) { d[find(d, "model.encoder.conv1.bias")] = '\xff'; });
  const Copy copy("ct2-f16");
  std::string vocabulary = read_file(copy.path() / "vocabulary.txt");
  vocabulary.replace(find(vocabulary, "<|de|>"), 6, "<|\xff\x1b|>");
  write_file(copy.path() / "vocabulary.txt", vocabulary);
  expect_refused(copy.path(), ErrorCode::kInvalidFile, "token 50261 is \"<|??|>\"");
}
END_TEST

START_TEST(json_names_must_not_repeat) {
  // The second description of a tensor would hide the first one's data.
  expect_damage("hf-f16", "a name is there twice", [](std::string& d) {
    const std::string name = "model.encoder.conv1.bias", other = "model.encoder.conv2.bias";
    d.replace(find(d, other), other.size(), name);
  });
}
END_TEST

// A scalar that no int can hold.
START_TEST(ct2_scalars_must_be_small_numbers) {
  for (const float value : {1e30f, -1e30f, HUGE_VALF, NAN})
    expect_damage("ct2-f16", "should be a small number", [&](std::string& d) {
      const size_t at = after_ct2_name(d, "decoder/num_heads");
      d.replace(at + 1, 7, '\0' + number(uint32_t{4}) + number(value));
    });
}
END_TEST

START_TEST(block_scales_must_be_finite) {
  for (const char* kind : {"q8_0", "q5_0", "q5_1", "q4_0", "q4_1"})
    for (const char* half : {"\xff\x7f", "\xff\xff"})  // NaN; the infinities below
      expect_damage(
          std::string("ggml-") + kind + ".bin", "holds NaN or infinity in element ",
          [&](std::string& d) { d.replace(find(d, kGgmlMatrix) + kGgmlMatrix.size(), 2, half); });
  for (const char* kind : {"q5_1", "q4_1"})  // the minimum
    expect_damage(std::string("ggml-") + kind + ".bin", "holds NaN or infinity in element ",
                  [&](std::string& d) {
                    d.replace(find(d, kGgmlMatrix) + kGgmlMatrix.size() + 2, 2,
                              std::string("\x00\x7c", 2));
                  });
}
END_TEST

START_TEST(nothing_is_read_beyond_the_end_of_a_file) {
  const Scratch scratch;
  write_file(scratch.path() / "file", "0123456789");
  const ByteSource source(scratch.path() / "file");
  char data[10];
  source.read(0, data, 10);
  source.read(10, data, 0);
  const std::pair<uint64_t, uint64_t> spans[] = {
      {0, 11}, {10, 1}, {11, 0}, {1, UINT64_MAX}, {UINT64_MAX, 1}, {UINT64_MAX, UINT64_MAX}};
  for (const auto& [offset, count] : spans)
    expect_error([&, o = offset, c = count] { source.read(o, data, c); }, ErrorCode::kInvalidFile,
                 "lie beyond its end");
  Reader reader(source);
  reader.skip(8, "a field");
  expect_error([&] { reader.get<uint32_t>("number"); }, ErrorCode::kInvalidFile,
               "the file ends inside the number (at byte 8)");
  expect_error([&] { reader.text(3, 100, "text"); }, ErrorCode::kInvalidFile,
               "the file ends inside the text");
  expect_error([&] { reader.skip(UINT64_MAX, "a field"); }, ErrorCode::kInvalidFile,
               "the file ends inside a field");
  ck_assert(reader.text(2, 100, "text") == "89");
}
END_TEST

START_TEST(a_model_takes_no_more_memory_than_its_files_allow) {
  for (const auto& entry : fs::directory_iterator(models())) {
    const std::string name = entry.path().filename();
    if (name.find(".f32") != std::string::npos) continue;
    // Blocks of four and five bits become halves.
    const MemoryLimit limit(entry.path(), name.find("ggml-q") == 0 ? 4 : 2);
    load_model(entry.path())->hold_encoder_weights();
  }
  const MemoryLimit limit(default_model_path());
  load_model(default_model_path());
}
END_TEST

START_TEST(json_bombs_are_refused) {
  const auto refuse = [](const std::string& text, const char* part) {
    const Copy copy("ct2-f16");
    fs::remove(copy.path() / "vocabulary.txt");
    write_file(copy.path() / "tokenizer.json", text);
    expect_refused(copy.path(), ErrorCode::kInvalidFile, part);
  };
  refuse(std::string(1 << 20, '['), "nested too deeply");
  std::string many = "[";
  for (int i = 0; i < 500000; ++i) many += "0,";
  refuse(many + "0]", "too many values");
  refuse(std::string((16 << 20) + 1, ' '), "at most 16777216 are expected");
  refuse("{\"model\": {\"vocab\": {\"a\": 1e999}}}", "a number is too large");
}
END_TEST

// One layer under the names of 64: a small file that would take a gigabyte.
START_TEST(tensors_that_share_their_data_take_bounded_memory) {
  const Scratch scratch;
  const fs::path root = scratch.path();
  std::ofstream file(root / "model.bin", std::ios::binary);
  std::string aliases;
  uint32_t count = 0, alias_count = 0;
  const auto entry = [&](const std::string& name, const std::vector<uint32_t>& shape) {
    uint32_t bytes = 2;
    file << ct2_text(name) << static_cast<char>(shape.size());
    for (const uint32_t size : shape) file << number(size), bytes *= size;
    file << static_cast<char>(shape.empty() ? 2 : 4) << number(bytes);
    if (shape.empty()) {
      file << number(static_cast<int16_t>(8));
    } else {
      file.seekp(bytes, std::ios::cur);  // a hole: zeros
    }
    ++count;
  };
  const auto alias = [&](const std::string& name, const std::string& target) {
    aliases += ct2_text(name) + ct2_text(target);
    ++alias_count;
  };
  file << number(uint32_t{6}) << ct2_text("WhisperSpec") << number(uint32_t{3})
       << number(uint32_t{0});
  const uint32_t d = 512;
  entry("encoder/num_heads", {});
  entry("decoder/num_heads", {});
  entry("encoder/conv1/weight", {d, 80, 3});
  entry("encoder/conv2/weight", {d, d, 3});
  entry("encoder/position_encodings/encodings", {1500, d});
  entry("decoder/position_encodings/encodings", {448, d});
  entry("decoder/embeddings/weight", {51865, d});
  entry("encoder/conv1/bias", {d});
  entry("encoder/conv2/bias", {d});
  for (const std::string side : {"encoder", "decoder"}) {
    entry(side + "/layer_norm/gamma", {d});
    entry(side + "/layer_norm/beta", {d});
    std::vector<std::pair<std::string, std::vector<uint32_t>>> parts = {
        {"self_attention/linear_0/weight", {3 * d, d}},
        {"self_attention/linear_0/bias", {3 * d}},
        {"self_attention/linear_1/weight", {d, d}},
        {"self_attention/linear_1/bias", {d}},
        {"self_attention/layer_norm/gamma", {d}},
        {"self_attention/layer_norm/beta", {d}},
        {"ffn/linear_0/weight", {4 * d, d}},
        {"ffn/linear_0/bias", {4 * d}},
        {"ffn/linear_1/weight", {d, 4 * d}},
        {"ffn/linear_1/bias", {d}},
        {"ffn/layer_norm/gamma", {d}},
        {"ffn/layer_norm/beta", {d}}};
    if (side == "decoder") {
      parts.insert(parts.end(), {{"attention/linear_0/weight", {d, d}},
                                 {"attention/linear_0/bias", {d}},
                                 {"attention/linear_1/weight", {2 * d, d}},
                                 {"attention/linear_1/bias", {2 * d}},
                                 {"attention/linear_2/weight", {d, d}},
                                 {"attention/linear_2/bias", {d}},
                                 {"attention/layer_norm/gamma", {d}},
                                 {"attention/layer_norm/beta", {d}}});
    }
    for (const auto& [part, shape] : parts) {
      entry(side + "/layer_0/" + part, shape);
      for (int i = 1; i < 64; ++i)
        alias(side + "/layer_" + std::to_string(i) + "/" + part, side + "/layer_0/" + part);
    }
  }
  file << number(alias_count) << aliases;
  file.seekp(22);
  file << number(count);
  file.close();
  for (const char* name : {"config.json", "vocabulary.txt"})
    fs::copy(models() / "ct2-f16" / name, root / name);
  expect_refused(root, ErrorCode::kInvalidFile,
                 "its tensors share their data, so that they would take 9");
}
END_TEST

START_TEST(files_of_other_kinds_are_told_apart) {
  const Copy copy("ggml-f16.bin");
  const auto refuse = [&](const std::string& data, ErrorCode code, const char* part) {
    write_file(copy.path(), data);
    expect_refused(copy.path(), code, part);
  };
  refuse(std::string("PK\x03\x04zip"), ErrorCode::kUnsupported, "convert-pt-to-ggml.py");
  refuse(std::string("\x80\x02pickle"), ErrorCode::kUnsupported,
         "a Python pickle, which may execute code and is not read");
  refuse("GGUF....", ErrorCode::kUnsupported, "a GGUF file");
  refuse("", ErrorCode::kInvalidFile, "is no Whisper model");
  refuse("RIFF", ErrorCode::kInvalidFile, "is no Whisper model");
  expect_refused(models() / "ct2-f16" / "model.bin", ErrorCode::kUnsupported,
                 "name the directory, ");
  expect_refused(models() / "hf-f16" / "model.safetensors", ErrorCode::kUnsupported,
                 "name its directory, ");
}
END_TEST

START_TEST(a_pickle_in_a_directory_is_refused_with_the_conversion) {
  const Copy copy("hf-f16");
  fs::rename(copy.path() / "model.safetensors", copy.path() / "pytorch_model.bin");
  expect_refused(copy.path(), ErrorCode::kUnsupported, "ct2-transformers-converter");
}
END_TEST

START_TEST(a_file_that_changed_in_place_is_not_read_again) {
  const Copy copy("ct2-f16");
  const auto model = load_model(copy.path());
  {
    std::fstream file(copy.weights(), std::ios::in | std::ios::out | std::ios::binary);
    const std::string data = read_file(copy.weights());
    file.seekp(static_cast<long>(after_ct2_name(data, "encoder/conv1/bias") + 10));
    file.put('\x11');
  }
  try {
    model->hold_encoder_weights();
    ck_abort_msg("read");
  } catch (const Error& error) {
    ck_assert_msg(std::strstr(error.what(), "has changed since it was loaded"), "%s", error.what());
  }
  expect_error([&] { model->conv1_bias.to_f32(); }, ErrorCode::kInvalidFile, "has changed since it was loaded");
  ck_assert_uint_eq(model->conv1_weight.to_f32().size(), 64 * 80 * 3);  // as it was
}
END_TEST

START_TEST(a_file_truncated_after_loading_does_no_harm) {
  for (const char* name : {"ct2-f16", "ggml-f16.bin", "hf-f16"}) {
    const Copy copy(name);
    const auto model = load_model(copy.path());
    auto held = model->hold_encoder_weights();
    const std::string before(static_cast<const char*>(fc1(*model).data), 1000);
    ck_assert_int_eq(truncate(copy.weights().c_str(), 100), 0);
    ck_assert(std::memcmp(fc1(*model).data, before.data(), before.size()) == 0);
    held.reset();
    expect_error([&] { model->hold_encoder_weights(); }, ErrorCode::kInvalidFile, "");
    expect_error([&] { fc1(*model).to_f32(); }, ErrorCode::kInvalidFile, "");
  }
}
END_TEST

// Loading stands still at `moment` of its progress for `change`.
static void load_while(const fs::path& path, double moment, const std::function<void()>& change) {
  bool done = false;
  load_model(path, [&](double fraction) {
    if (fraction > moment && !done) {
      done = true;
      change();
    }
  });
}

START_TEST(a_file_cut_while_it_is_read_is_refused) {
  for (const char* name : {"ct2-f16", "ggml-q8_0.bin", "hf-f16", "hf-sharded"}) {
    const Copy copy(name);
    fs::path file = copy.weights();
    if (fs::is_directory(file)) file /= "model-00002-of-00002.safetensors";
    expect_error(
        [&] {
          load_while(copy.path(), 0, [&] { ck_assert_int_eq(truncate(file.c_str(), 60000), 0); });
        },
        ErrorCode::kInvalidFile, "became shorter while it was being read");
  }
}
END_TEST

START_TEST(a_file_written_to_while_it_is_read_is_refused) {
  const Copy copy("ct2-f16");
  // The time of modification has the resolution of the system's ticks.
  fs::last_write_time(copy.weights(), fs::file_time_type::clock::now() - std::chrono::hours(1));
  expect_error(
      [&] {
        load_while(copy.path(), 0.5, [&] {
          std::fstream file(copy.weights(), std::ios::in | std::ios::out | std::ios::binary);
          file.seekp(1000000);
          file.put('\x11');
        });
      },
      ErrorCode::kInvalidFile, "changed while it was being read");
}
END_TEST

START_TEST(a_file_replaced_while_it_is_read_goes_on_to_be_what_it_was) {
  const Copy copy("ggml-f16.bin"), other("ggml-f32.bin");
  const std::string key = load_model(copy.path())->content_key;
  load_while(copy.path(), 0.5, [&] { fs::rename(other.path(), copy.path()); });
  ck_assert(load_model(copy.path())->content_key != key);
}
END_TEST

START_TEST(links_to_files_and_directories_are_followed) {
  // As in the cache of huggingface_hub: a snapshot is a directory of links to blobs.
  const Copy blobs("hf-f16");
  const Scratch scratch;
  const fs::path snapshot = scratch.path() / "snapshot";
  fs::create_directory(snapshot);
  for (const auto& entry : fs::directory_iterator(blobs.path()))
    fs::create_symlink(entry.path(), snapshot / entry.path().filename());
  fs::create_directory_symlink(snapshot, scratch.path() / "current");
  fs::create_symlink(models() / "ggml-f16.bin", scratch.path() / "model.pt");
  const std::string key = load_model(models() / "hf-f16")->content_key;
  for (const char* path : {"snapshot", "snapshot/", "current", "model.pt"})
    ck_assert(load_model(scratch.path() / path)->content_key == key);
}
END_TEST

START_TEST(links_that_lead_nowhere_are_refused) {
  const Scratch scratch;
  const fs::path loop = scratch.path() / "loop", dangling = scratch.path() / "dangling";
  fs::create_symlink("loop", loop);
  fs::create_symlink("nothing", dangling);
  for (const fs::path& path : {loop, dangling, loop / "model", scratch.path()})
    expect_refused(path, ErrorCode::kNotFound, "There is no model ");
  for (const char* name : {"config.json", "tokenizer.json"}) {
    const Copy copy("hf-f16");
    fs::remove(copy.path() / name);
    fs::create_symlink(name, copy.path() / name);
    expect_refused(copy.path(), ErrorCode::kNotFound, "");
  }
}
END_TEST

START_TEST(directories_and_pipes_in_place_of_files_are_refused) {
  const std::pair<const char*, std::vector<const char*>> parts[] = {
      {"ct2-f16", {"model.bin", "config.json", "vocabulary.txt"}},
      {"hf-f16", {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json"}},
      {"hf-sharded",
       {"model.safetensors.index.json", "model-00001-of-00002.safetensors", "vocab.json"}}};
  for (const auto& [model, names] : parts)
    for (const char* name : names) {
      const Copy copy(model);
      fs::remove(copy.path() / name);
      fs::create_directory(copy.path() / name);
      expect_refused(copy.path(), ErrorCode::kUnsupported, "is not a regular file");
      fs::remove(copy.path() / name);
      ck_assert_int_eq(mkfifo((copy.path() / name).c_str(), 0600), 0);
      expect_refused(copy.path(), ErrorCode::kUnsupported, "is not a regular file");
    }
  expect_refused("/dev/null", ErrorCode::kUnsupported, "is not a regular file");
  expect_refused(models() / "ggml-f16.bin" / "model", ErrorCode::kNotFound, "There is no model at");
}
END_TEST

int main() {
  Suite* suite = suite_create("model_faults");
  TCase* tests = tcase_create("model_faults");
  tcase_add_test(tests, ggml_cut_at_every_byte_is_refused);
  tcase_add_test(tests, ct2_cut_at_every_byte_is_refused);
  tcase_add_test(tests, hugging_face_cut_at_every_byte_is_refused);
  tcase_add_test(tests, ct2_truncated_anywhere_is_refused);
  tcase_add_test(tests, ggml_truncated_anywhere_is_refused);
  tcase_add_test(tests, safetensors_truncated_anywhere_is_refused);
  tcase_add_test(tests, ggml_number_of_dimensions_cannot_overflow_an_array);
  tcase_add_test(tests, ggml_vocabulary_of_another_size_is_refused);
  tcase_add_test(tests, ggml_token_of_any_length_is_not_read);
  tcase_add_test(tests, ggml_vocabulary_of_any_length_is_not_read);
  tcase_add_test(tests, ggml_mel_filters_of_another_size_are_refused);
  tcase_add_test(tests, counts_that_the_file_does_not_hold_cost_nothing);
  tcase_add_test(tests, ggml_product_of_dimensions_does_not_wrap);
  tcase_add_test(tests, ct2_product_of_dimensions_does_not_wrap);
  tcase_add_test(tests, safetensors_product_of_dimensions_does_not_wrap);
  tcase_add_test(tests, name_of_a_tensor_of_any_length_is_not_read);
  tcase_add_test(tests, what_a_file_says_is_printed_only_where_it_is_text);
  tcase_add_test(tests, json_names_must_not_repeat);
  tcase_add_test(tests, ct2_scalars_must_be_small_numbers);
  tcase_add_test(tests, block_scales_must_be_finite);
  tcase_add_test(tests, nothing_is_read_beyond_the_end_of_a_file);
  tcase_add_test(tests, a_model_takes_no_more_memory_than_its_files_allow);
  tcase_add_test(tests, json_bombs_are_refused);
  tcase_add_test(tests, tensors_that_share_their_data_take_bounded_memory);
  tcase_add_test(tests, files_of_other_kinds_are_told_apart);
  tcase_add_test(tests, a_pickle_in_a_directory_is_refused_with_the_conversion);
  tcase_add_test(tests, a_file_that_changed_in_place_is_not_read_again);
  tcase_add_test(tests, a_file_truncated_after_loading_does_no_harm);
  tcase_add_test(tests, a_file_cut_while_it_is_read_is_refused);
  tcase_add_test(tests, a_file_written_to_while_it_is_read_is_refused);
  tcase_add_test(tests, a_file_replaced_while_it_is_read_goes_on_to_be_what_it_was);
  tcase_add_test(tests, links_to_files_and_directories_are_followed);
  tcase_add_test(tests, links_that_lead_nowhere_are_refused);
  tcase_add_test(tests, directories_and_pipes_in_place_of_files_are_refused);
  suite_add_tcase(suite, tests);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
