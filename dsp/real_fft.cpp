#include "dsp/real_fft.h"

#include <new>
#include <stdexcept>
#include <string>

namespace whisperxdna2 {

template <int kSize>
RealFft<kSize>::RealFft() : input_(fftwf_alloc_real(kSize)), output_(fftwf_alloc_complex(kBins)) {
  if (!input_ || !output_) throw std::bad_alloc();
}

// Estimated, because a measured plan differs from run to run, and its rounding with it. Lives as
// long as the process: threads may still transform while static objects are destroyed.
template <int kSize>
fftwf_plan RealFft<kSize>::shared_plan() {
  static const fftwf_plan plan = [] {
    // The planner's state belongs to the whole process, other users of FFTW included.
    fftwf_make_planner_thread_safe();
    float* in = fftwf_alloc_real(kSize);
    fftwf_complex* out = fftwf_alloc_complex(kBins);
    const fftwf_plan made =
        in && out ? fftwf_plan_dft_r2c_1d(kSize, in, out, FFTW_ESTIMATE | FFTW_DESTROY_INPUT)
                  : nullptr;
    fftwf_free(in);
    fftwf_free(out);
    if (!made)
      throw std::runtime_error("FFTW has no plan for " + std::to_string(kSize) + " real samples");
    return made;
  }();
  return plan;
}

template <int kSize>
const fftwf_complex* RealFft<kSize>::transform() {
  fftwf_execute_dft_r2c(plan_, input_.get(), output_.get());
  return output_.get();
}

template class RealFft<256>;
template class RealFft<400>;

}  // namespace whisperxdna2
