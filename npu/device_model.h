// A model on a device: packed weights, made once, and the streams of its layers' products, made once per window length.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <tuple>
#include <vector>

#include "npu/device.h"
#include "npu/gemm_plan.h"
#include "whisper/quantized_encoder.h"

namespace whisperxdna2::npu {

class DeviceModel {
 public:
  // The streams of a layer for one window length.
  struct Streams {
    LayerPlan plan;
    std::vector<xrt::bo> qkv, out, fc1, fc2;  // one per dispatch
  };
  // Units of the results, and what is added to them; padded channels left out.
  struct Scales {
    std::vector<float> out, out_bias, fc2;
  };

  // Shared by all who ask for the same device and model while one of them lives. Thread-safe. Throws Error.
  static std::shared_ptr<DeviceModel> get(const std::shared_ptr<Device>& device,
                                          const std::shared_ptr<const Model>& model, int threads);
  // Packs and flushes the weights.
  DeviceModel(std::shared_ptr<Device> device, const QuantizedEncoder& encoder);

  Device& device() const { return *device_; }
  const std::shared_ptr<Device>& shared_device() const { return device_; }
  int layers() const { return static_cast<int>(scales_.size()); }
  const Scales& scales(int layer) const { return scales_[layer]; }
  xrt::bo layer_weights(int layer) const;
  // kind: none for the plan that is predicted to be the fastest. Thread-safe; never moves.
  const Streams& streams(int positions, int layer, std::optional<PlanKind> kind);

 private:
  const std::shared_ptr<Device> device_;
  int d_model_ = 0, d_ff_ = 0;
  struct Weights {
    size_t at, size;  // in bytes
  };
  std::vector<Weights> layers_;
  Buffer weights_;  // layer after layer
  std::vector<Scales> scales_;
  std::mutex mutex_;
  std::map<std::tuple<int, bool, std::optional<PlanKind>>, Streams> streams_;  // by rows, attention of 14 bits
};

}  // namespace whisperxdna2::npu
