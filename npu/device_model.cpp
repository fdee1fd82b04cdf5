#include "npu/device_model.h"

#include <algorithm>

#include "kernels/cpu/profile.h"
#include "whisper/error.h"
#include "whisper/quantize.h"

namespace whisperxdna2::npu {
namespace {

Int8Layer view(const QuantizedLinear& l) {
  return {l.out, l.in, l.weight.data(), l.bias.data(), l.multiplier.data(), l.scale.data(), l.stage, l.input_14bit};
}

}  // namespace

std::shared_ptr<DeviceModel> DeviceModel::get(const std::shared_ptr<Device>& device,
                                              const std::shared_ptr<const Model>& model, int threads) {
  struct Entry {
    std::weak_ptr<Device> device;
    std::weak_ptr<const Model> model;
    std::weak_ptr<DeviceModel> made;
  };
  static std::mutex mutex;
  static std::vector<Entry> entries;
  std::lock_guard<std::mutex> lock(mutex);
  entries.erase(std::remove_if(entries.begin(), entries.end(), [](const Entry& e) { return e.made.expired(); }),
                entries.end());
  for (const Entry& e : entries) {
    if (e.device.lock() != device || e.model.lock() != model) continue;
    if (auto made = e.made.lock()) return made;
  }
  auto made = std::make_shared<DeviceModel>(device, quantized_encoder(model, threads));
  entries.push_back({device, model, made});
  return made;
}

DeviceModel::DeviceModel(std::shared_ptr<Device> device, const QuantizedEncoder& encoder) : device_(std::move(device)) {
  ProfileScope scope("npu build", 0);
  d_model_ = encoder.layers.at(0).qkv.in;
  d_ff_ = encoder.layers[0].fc1.out;
  std::vector<LayerPlan> plans;
  size_t size = 0;
  for (const QuantizedLayer& l : encoder.layers) {
    plans.push_back(plan_layer(device_->variant(), d_model_, d_ff_, 1, PlanKind::kWhole, l.qkv.input_14bit));
    layers_.push_back({size, plans.back().weights_size});
    scales_.push_back({l.out.scale, l.out.row_bias, l.fc2.scale});
    size += plans.back().weights_size;
  }
  weights_ = device_->make_buffer(size);
  for (size_t i = 0; i < plans.size(); ++i) {
    const QuantizedLayer& l = encoder.layers[i];
    const auto pack = [&](const PlannedProduct& p, const QuantizedLinear& linear) {
      pack_weights(device_->variant(), p.shape, view(linear), weights_.data() + layers_[i].at + p.weights_at);
    };
    pack(plans[i].qkv, l.qkv);
    pack(plans[i].out, l.out);
    pack(plans[i].fc1, l.fc1);
    pack(plans[i].fc2, l.fc2);
  }
  weights_.to_device(size);
}

xrt::bo DeviceModel::layer_weights(int layer) const {
  return checked([&] { return xrt::bo(weights_.bo(), layers_[layer].size, layers_[layer].at); });
}

const DeviceModel::Streams& DeviceModel::streams(int positions, int layer, std::optional<PlanKind> kind) {
  const int rows = (positions + overlay::kRowBlock - 1) / overlay::kRowBlock * overlay::kRowBlock;
  const bool wide = attention_is_14bit(layer);
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = streams_.find({rows, wide, kind});
  if (found != streams_.end()) return found->second;
  ProfileScope scope("npu build", 0);
  const overlay::Variant& variant = device_->variant();
  const LayerPlan plan =
      plan_layer(variant, d_model_, d_ff_, rows, kind ? *kind : fastest_plan(variant, d_model_, d_ff_, rows), wide);
  const auto make = [&](const PlannedProduct& p) {
    std::vector<xrt::bo> instructions;
    for (const Dispatch& d : p.dispatches) instructions.push_back(device_->make_instructions(d.words));
    return instructions;
  };
  Streams made{plan, make(plan.qkv), make(plan.out), make(plan.fc1), make(plan.fc2)};
  return streams_.emplace(std::tuple(rows, wide, kind), std::move(made)).first->second;
}

}  // namespace whisperxdna2::npu
