// A few seconds of public speech inside the library, for whatever must be measured once per model: the virtual silent
// tail and, where no calibration is stored, the ranges of activations. Sources and licenses: whisper/data/README.md.
#pragma once

#include <vector>

namespace whisperxdna2 {

constexpr int kBundledClips = 4;

// Clip 0..kBundledClips-1: 10.24 s of one speaker, mono f32 at 16 kHz, [163840].
std::vector<float> bundled_speech(int clip);

}  // namespace whisperxdna2
