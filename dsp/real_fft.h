// Fourier transform of a fixed number of real f32 samples by FFTW.
#pragma once

#include <fftw3.h>

#include <memory>

namespace whisperxdna2 {

// The memory of one stream's transforms, over a plan that all of them share. Not thread-safe.
template <int kSize>
class RealFft {
 public:
  static constexpr int kBins = kSize / 2 + 1;

  RealFft();

  // kSize samples, to be written anew before each transform.
  float* input() { return input_.get(); }
  // kBins pairs of real and imaginary part, valid until the next transform.
  const fftwf_complex* transform();

 private:
  struct Free {
    void operator()(void* memory) const { fftwf_free(memory); }
  };

  static fftwf_plan shared_plan();

  const fftwf_plan plan_ = shared_plan();
  std::unique_ptr<float[], Free> input_;  // FFTW's alignment, which the plan relies on
  std::unique_ptr<fftwf_complex[], Free> output_;
};

extern template class RealFft<256>;
extern template class RealFft<400>;

}  // namespace whisperxdna2
