// What is measured of a model once, on speech: the ranges of its encoder's activations (quantize.h) and its virtual
// silent tail (silent_tail.h). Either takes a processor seconds, so the library brings them for the models that most
// people use; whisper/data/README.md says how its files are made.
//
// A file:   "WXD2MSR1" | the encoder's part of Model::content_key, 32 characters | u32 number of values | their
//           upper 16 bits, deflated: first the upper bytes of all, then the lower ones
// Values are little-endian f32 rounded to 8 significant bits, in the order in which measurements.cpp visits them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "whisper/model.h"
#include "whisper/quantize.h"

namespace whisperxdna2 {

struct Measurements {
  Calibration calibration;
  std::vector<float> tail;  // [kTailRows][d_model]
};

// As a file. What quantize() does not read of the calibration is left out; sums become means.
std::string serialize(Measurements measurements, const Model& model);
// The inverse for `model`, for untrusted bytes. Throws Error(kInvalidFile): of another model, damaged, of another size.
Measurements parse_measurements(const std::string& bytes, const Model& model);

// Those that the library brings for `model`; nothing where it brings none. Thread-safe.
std::optional<Measurements> stored_measurements(const Model& model);

}  // namespace whisperxdna2
