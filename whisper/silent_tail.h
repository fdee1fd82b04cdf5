// The virtual silent tail: encoder rows of silence after speech, appended to the keys and values of the cross
// attention.
//
// Whisper's decoder was trained on windows that end in silence and takes the end of a text from there. A window that is
// full of speech has none, and the decoder repeats itself. The rows of positions 512.. of a 1500-position encoder run
// over 10.24 s of speech followed by silence stand in for it at no cost for the encoder. (Rows made from silence alone,
// from noise or from a short run do not have the effect.)
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "whisper/model.h"

namespace whisperxdna2 {

constexpr int kTailRows = 64;

// [kTailRows][d_model] for `model`: what the library brings for it (measurements.h), else measured at first use
// (seconds) and kept in the cache under the model's content key. Where the cache cannot be written, `notice` says so
// and the rows are computed again next time. Throws Error(kInterrupted) after *cancel became true (may be null).
std::vector<float> silent_tail(const std::shared_ptr<const Model>& model, int threads,
                               const std::function<void(double fraction)>& progress, const std::atomic<bool>* cancel,
                               std::string* notice);

// The mean over the bundled clips, computed with the f32 encoder.
std::vector<float> measure_silent_tail(const std::shared_ptr<const Model>& model, int threads,
                                       const std::function<void(double fraction)>& progress,
                                       const std::atomic<bool>* cancel);

}  // namespace whisperxdna2
