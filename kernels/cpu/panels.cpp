#include "kernels/cpu/panels.h"

#include <xmmintrin.h>

#include <algorithm>
#include <cstring>

namespace whisperxdna2 {

void pack_panels(const void* from, ptrdiff_t stride, int rows, int units, int panel, void* to) {
  const uint8_t* first = static_cast<const uint8_t*>(from);
  float* out = static_cast<float*>(to);  // any four bytes: they are only moved
  for (int row = 0; row < rows; row += panel, first += panel * stride, out += static_cast<size_t>(units) * panel) {
    const int count = std::min(panel, rows - row), whole = count / 4 * 4;
    for (int r = 0; r < whole; r += 4) {
      const auto load = [&](int i, int u) {
        return _mm_loadu_ps(reinterpret_cast<const float*>(first + (r + i) * stride) + u);
      };
      for (int u = 0; u < units; u += 4) {
        __m128 x0 = load(0, u), x1 = load(1, u), x2 = load(2, u), x3 = load(3, u);
        _MM_TRANSPOSE4_PS(x0, x1, x2, x3);
        float* block = out + static_cast<size_t>(u) * panel + r;
        _mm_storeu_ps(block, x0);
        _mm_storeu_ps(block + panel, x1);
        _mm_storeu_ps(block + 2 * panel, x2);
        _mm_storeu_ps(block + 3 * panel, x3);
      }
    }
    for (int r = whole; r < panel; ++r) {
      for (int u = 0; u < units; ++u) {
        uint32_t unit = 0;
        if (r < count) std::memcpy(&unit, first + r * stride + 4 * u, sizeof unit);
        std::memcpy(out + static_cast<size_t>(u) * panel + r, &unit, sizeof unit);
      }
    }
  }
}

}  // namespace whisperxdna2
