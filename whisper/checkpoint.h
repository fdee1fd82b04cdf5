// Between the file formats and the Model: what a reader found in its files, under OpenAI's tensor names, and the one
// table of what a Whisper model must hold.
//
//   read_ct2 / read_ggml / read_hugging_face  -->  Checkpoint  -->  build_model  -->  Model
//   (layout and names of a format)                                 (names, shapes, memory, finite numbers, hash)
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "whisper/byte_source.h"
#include "whisper/model.h"
#include "whisper/number_formats.h"

namespace whisperxdna2 {

// Where a tensor's data is. Readers have checked that offset and bytes lie in the file and that bytes fit the shape.
struct StoredTensor {
  std::shared_ptr<const ByteSource> source;
  Storage storage = Storage::kF32;
  std::vector<uint64_t> shape;  // row-major, outermost first
  uint64_t offset = 0, bytes = 0;
  // kInt8 only: where the f32 scales are, one for each row; value = int8 / scale.
  uint64_t scale_offset = 0;
};

// "FILE: tensor NAME at byte N", for messages.
std::string describe(const StoredTensor& tensor, const std::string& name);

struct Checkpoint {
  std::string format;  // for people: "CTranslate2", ...
  ModelDims dims;
  std::map<std::string, StoredTensor>
      tensors;  // by OpenAI's names (openai/whisper whisper/model.py)
  // Raw bytes by id: the text tokens, and where the format has them also the control tokens ("<|en|>").
  std::vector<std::string> vocabulary;
  // Empty where the format has none.
  std::vector<std::pair<int, int>> alignment_heads;
  // Id of <|notimestamps|> where the format tells it, as a check; else -1.
  int no_timestamps = -1;
};

// A reader checks the layout of its format; build_model the rest. All throw Error.
Checkpoint read_ct2(const std::string& directory);
Checkpoint read_ggml(const std::string& path);
Checkpoint read_hugging_face(const std::string& directory);

// Throws Error(kInvalidFile) unless the dimensions are those of a Whisper model: the caps that every later size rests
// on.
void check_dims(const std::string& path, const ModelDims& dims);

// Moves the checkpoint into memory. Matrices (all weights of two and three dimensions) keep their floating-point type,
// quantized ones become f16; vectors and the position tables become f32, whatever the file held. So the same weights
// give the same bytes, and the same content_key, from every format that stores them in the same precision. `progress`
// (may be empty) is called with the fraction done and may throw.
std::shared_ptr<const Model> build_model(Checkpoint checkpoint, const std::string& path,
                                         const std::function<void(double)>& progress = {});

// All tensors of a model with their names, in the order they have in memory. Valid while the model lives.
std::vector<std::pair<std::string, const Tensor*>> list_tensors(const Model& model);

}  // namespace whisperxdna2
