#include <cstring>

#include "tests/device/fabric.h"

namespace emulated_npu {
namespace {

constexpr Channel kLeft{0, Direction::kMm2s, 0}, kRight{0, Direction::kMm2s, 1}, kResult{0, Direction::kS2mm, 0};
constexpr int kValues = 16;

class Elementwise : public Fabric {
 public:
  explicit Elementwise(bool multiply) : multiply_(multiply) {}
  int columns() const override { return 1; }
  uint64_t object_size(const Channel& channel) const override {
    return channel.direction == Direction::kMm2s || channel.index == 0 ? kValues * sizeof(int32_t) : 0;
  }
  uint64_t run(Shim& shim, Array::Mode mode) override {
    uint64_t products = 0;
    while (shim.ready(kLeft) && shim.ready(kRight) && shim.ready(kResult)) {
      uint32_t left[kValues], right[kValues];
      shim.take(kLeft, reinterpret_cast<uint8_t*>(left));
      shim.take(kRight, reinterpret_cast<uint8_t*>(right));
      for (int i = 0; i < kValues; ++i) left[i] = multiply_ ? left[i] * right[i] : left[i] + right[i];
      shim.give(kResult, mode == Array::Mode::kDelay ? nullptr : reinterpret_cast<const uint8_t*>(left));
      products += kValues;
    }
    return products;
  }
  bool proves(const Channel&, const Channel&) const override { return true; }
  std::string unfinished() const override { return ""; }

 private:
  const bool multiply_;
};

}  // namespace

std::unique_ptr<Fabric> make_elementwise(bool multiply) { return std::make_unique<Elementwise>(multiply); }

}  // namespace emulated_npu
