#include "whisper/bundled_speech.h"

#include <cstddef>
#include <cstdint>

#include "speech_file.h"  // SPEECH_FILE: kBundledClips runs of s16 little-endian samples; made by the build

asm(".section .rodata\n"
    ".balign 16\n"
    ".hidden whisperxdna2_bundled_speech\n"
    ".global whisperxdna2_bundled_speech\n"
    "whisperxdna2_bundled_speech:\n"
    ".incbin \"" SPEECH_FILE "\" # " SPEECH_FILE_SUM "\n"
    ".previous\n");
extern "C" const int16_t whisperxdna2_bundled_speech[];

namespace whisperxdna2 {

std::vector<float> bundled_speech(int clip) {
  constexpr int kSamples = 163840;
  const int16_t* in = whisperxdna2_bundled_speech + static_cast<size_t>(clip) * kSamples;
  std::vector<float> out(kSamples);
  for (int i = 0; i < kSamples; ++i) out[i] = in[i] / 32768.0f;
  return out;
}

}  // namespace whisperxdna2
