// Checks the NPU of this machine: opens it, which tests its overlay, prints how a model's layers are computed, compares
// the features of some windows with the CPU's and each product of a layer with its definition, fits the model of their
// times, and measures flushes and what it costs to wake the NPU.
// The report is what to send when something is wrong.
//
//   whisperxdna2-check-npu [MODEL]
//   whisperxdna2-check-npu --plan [MODEL]    only how the layers would be computed, and how fast; needs no NPU
//
// Ends with 0 if every byte is the same, 1 if not, 2 if there is nothing to compare.
#include <nlohmann/json.hpp>
#include <sys/resource.h>
#include <xrt/xrt_device.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "kernels/cpu/profile.h"
#include "npu/device.h"
#include "npu/gemm_plan.h"
#include "npu/npu_encoder.h"
#include "npu/stream.h"
#include "whisper/error.h"

using namespace whisperxdna2;
using Clock = std::chrono::steady_clock;

namespace {

constexpr int kPositions = 512, kWindows = 5;

struct Encoded {
  std::vector<float> features;  // of all windows
  double best_ms = 1e9;
};

Encoded encode(Encoder& encoder, const Model& model, const std::vector<float>& mel) {
  Encoded result;
  for (int i = 0; i < kWindows; ++i) {
    const auto start = Clock::now();
    encoder.submit(0, mel.data(), kPositions);
    const float* features = encoder.wait(0, start + std::chrono::seconds(60));
    const double ms = std::chrono::duration<double, std::milli>(Clock::now() - start).count();
    result.features.insert(result.features.end(), features,
                           features + static_cast<size_t>(kPositions) * model.dims.d_model);
    result.best_ms = std::min(result.best_ms, ms);
  }
  return result;
}

void print_plan(const overlay::Variant& variant, const Model& model) {
  const int d = model.dims.d_model, d_ff = model.encoder_layers.at(0).fc1.weight.shape.at(0);
  printf("\n%s\n", npu::compare_plans(variant, d, d_ff, kPositions, model.dims.n_encoder_layers).c_str());
  const npu::PlanKind kind = npu::fastest_plan(variant, d, d_ff, kPositions);
  printf("%s\n", npu::plan_layer(variant, d, d_ff, kPositions, kind).describe().c_str());
}

// XRT's report of the device: the driver's and XRT's versions, and the power mode, which only an administrator sets.
void print_environment() {
  using nlohmann::json;
  const xrt::device device(0);
  const json host = json::parse(device.get_info<xrt::info::device::host>(), nullptr, false);
  const json platform = json::parse(device.get_info<xrt::info::device::platform>(), nullptr, false);
  const auto text = [](const json& from, const char* where) {
    const json::json_pointer at(where);
    return !from.is_discarded() && from.contains(at) && from[at].is_string() ? from[at].get<std::string>() : "unknown";
  };
  printf("XRT       %s, driver %s\n", text(host, "/version").c_str(), text(host, "/drivers/0/version").c_str());
  printf("power     mode %s (xrt-smi configure --pmode changes it)\n",
         text(platform, "/platforms/0/status/power_mode").c_str());
  rlimit limit{};
  getrlimit(RLIMIT_MEMLOCK, &limit);
  printf("memlock   %s\n", limit.rlim_cur == RLIM_INFINITY ? "unlimited" : std::to_string(limit.rlim_cur).c_str());
}

// A product of random operands, as the plan has it.
struct Product {
  const npu::PlannedProduct& planned;
  OutputStage stage;
  bool wide;  // inputs of 14 bits
  std::vector<int16_t> x;
  std::vector<int8_t> w;
  std::vector<int32_t> bias;
  std::vector<int16_t> multiplier;

  Product(const npu::PlannedProduct& p, OutputMode mode, bool input_14bit, uint32_t seed)
      : planned(p), stage{mode, input_14bit ? 14 : 7, mode == OutputMode::kInt8 ? 22 : 15, {20000, 16, 12000, 14, 2}},
        wide(input_14bit), x(static_cast<size_t>(kPositions) * p.in), w(static_cast<size_t>(p.out) * p.in), bias(p.out),
        multiplier(p.out) {
    const auto within = [&seed](int limit) {
      return static_cast<int>((seed = seed * 1664525u + 1013904223u) >> 8) % (2 * limit + 1) - limit;
    };
    for (auto& v : x) v = static_cast<int16_t>(within(wide ? kInt14Limit : kInt8Limit));
    for (auto& v : w) v = static_cast<int8_t>(within(127));
    for (auto& v : bias) v = within(1 << 18);
    for (auto& v : multiplier) v = static_cast<int16_t>(20000 + within(12000));
  }

  void write_a(uint8_t* a) const {
    for (int row = 0; row < kPositions; ++row) {
      uint8_t* const to = a + static_cast<size_t>(row) * planned.shape.k_bytes;
      for (int k = 0; k < planned.in; ++k) {
        const int16_t v = x[static_cast<size_t>(row) * planned.in + k];
        to[k] = static_cast<uint8_t>(wide ? plane14_hi(v) : v);
        if (wide) to[planned.shape.k_bytes / 2 + k] = static_cast<uint8_t>(plane14_lo(v));
      }
    }
  }

  size_t wrong(const uint8_t* c) const {
    size_t count = 0;
    const std::vector<int16_t> wide_w(w.begin(), w.end());
    for (int row = 0; row < kPositions; ++row) {
      for (int n = 0; n < planned.out; ++n) {
        int32_t sum = 0;
        for (int k = 0; k < planned.in; ++k) {
          sum += x[static_cast<size_t>(row) * planned.in + k] * wide_w[static_cast<size_t>(n) * planned.in + k];
        }
        const int16_t expected = output(sum, bias[n], multiplier[n], stage);
        const uint8_t* const at = c + static_cast<size_t>(row) * planned.shape.planes * planned.shape.n + n;
        const auto hi = static_cast<int8_t>(at[0]);
        const uint8_t lo = planned.shape.planes == 2 ? at[planned.shape.n] : 0;
        count += expected != (stage.mode == OutputMode::kInt8    ? hi
                              : stage.mode == OutputMode::kInt16 ? join16(hi, lo)
                                                                 : join14(hi, static_cast<int8_t>(lo)));
      }
    }
    return count;
  }
};

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

template <typename Work>
double microseconds(const Work& work) {
  const auto start = Clock::now();
  work();
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

// Each product of a layer, whole in one dispatch: all of its numbers, and the dispatch's median time. Returns how many
// numbers are wrong.
size_t check_products(const std::shared_ptr<npu::Device>& device, const Model& model) {
  constexpr int kRepeats = 21;
  const int d_ff = model.encoder_layers.at(0).fc1.weight.shape.at(0);
  const npu::LayerPlan plan =
      npu::plan_layer(device->variant(), model.dims.d_model, d_ff, kPositions, npu::PlanKind::kWhole);
  const Product products[] = {{plan.qkv, OutputMode::kInt8, false, 1},
                              {plan.out, OutputMode::kInt16, false, 2},
                              {plan.fc1, OutputMode::kGelu14, false, 3},
                              {plan.fc2, OutputMode::kInt16, true, 4}};
  size_t wrong = 0;
  double sum_x = 0, sum_y = 0, sum_xx = 0, sum_xy = 0;  // MMAC and us, for a line through the medians
  std::vector<double> there, back;
  printf("\nproduct              wrong     MMAC       us, predicted\n");
  for (const Product& p : products) {
    const npu::GemmShape& shape = p.planned.shape;
    struct Buffers {
      npu::Buffer a, w, c;
    };
    const auto buffers = std::make_shared<Buffers>();
    const size_t a_size = static_cast<size_t>(shape.m) * shape.k_bytes;
    const size_t c_size = static_cast<size_t>(shape.m) * shape.n * shape.planes;
    buffers->a = device->make_buffer(a_size);
    buffers->w = device->make_buffer(plan.weights_size);
    buffers->c = device->make_buffer(c_size);
    p.write_a(buffers->a.data());
    npu::pack_weights(
        device->variant(), shape,
        {p.planned.out, p.planned.in, p.w.data(), p.bias.data(), p.multiplier.data(), nullptr, p.stage, p.wide},
        buffers->w.data() + p.planned.weights_at);
    std::memset(buffers->c.data(), 0x55, c_size);
    there.push_back(microseconds([&] { buffers->a.to_device(a_size); }) * 1e6 / static_cast<double>(a_size));
    buffers->w.to_device(plan.weights_size);
    buffers->c.to_device(c_size);
    const npu::Dispatch& dispatch = p.planned.dispatches.at(0);
    npu::Command command = device->prepare(device->make_instructions(dispatch.words),
                                           {buffers->a.bo(), buffers->w.bo(), buffers->c.bo()}, dispatch.predicted_us);
    std::vector<double> times;
    try {
      for (int i = 0; i < kRepeats; ++i) {
        times.push_back(microseconds([&] { device->execute(command); }));
        if (i > 0) continue;
        back.push_back(microseconds([&] { buffers->c.from_device(c_size); }) * 1e6 / static_cast<double>(c_size));
        const size_t count = p.wrong(buffers->c.data());
        wrong += count;
        printf("%-4s %4d x %4d x %4d %6zu", p.planned.name.c_str(), shape.m, p.planned.in, p.planned.out, count);
      }
    } catch (...) {
      npu::Device::bury(device, {command}, buffers);
      throw;
    }
    const double x = static_cast<double>(dispatch.macs) * 1e-6, y = median(times);
    printf(" %8.1f %8.0f, %.0f\n", x, y, dispatch.predicted_us);
    sum_x += x, sum_y += y, sum_xx += x * x, sum_xy += x * y;
  }
  const double n = std::size(products), slope = (n * sum_xy - sum_x * sum_y) / (n * sum_xx - sum_x * sum_x);
  const npu::CostModel& model_cost = device->variant().columns == 1 ? npu::kGemm1Cost : npu::kGemm8Cost;
  printf("times     %.0f us a dispatch and %.3f us per MMAC (the plan assumes %.0f and %.3f)\n",
         (sum_y - slope * sum_x) / n, slope, model_cost.fixed_us, model_cost.us_per_mmac);
  printf("syncs     %.0f us per MB to the NPU, %.0f back\n", median(there), median(back));
  return wrong;
}

// What the first command after a pause costs, in which the driver suspends an NPU.
void probe_wake(const std::shared_ptr<npu::Device>& device) {
  constexpr int kPauseSeconds = 6, kRepeats = 21;
  npu::Command nothing =
      device->prepare(device->make_instructions(npu::encode(npu::token_set_up(device->variant()))), {}, 0);
  device->rest();
  std::this_thread::sleep_for(std::chrono::seconds(kPauseSeconds));
  std::vector<double> times;
  try {
    for (int i = 0; i <= kRepeats; ++i) times.push_back(microseconds([&] { device->execute(nothing); }));
  } catch (...) {
    npu::Device::bury(device, {nothing}, nullptr);
    throw;
  }
  printf("wake      %.1f ms for an empty command after %d s without one, %.0f us for the next ones\n", times[0] * 1e-3,
         kPauseSeconds, median({times.begin() + 1, times.end()}));
}

int plan(const std::string& path) {
  const auto model = load_model(path);
  printf("model     %s\n", model->description.c_str());
  for (const overlay::Variant* variant : {&overlay::kGemm8, &overlay::kGemm1}) print_plan(*variant, *model);
  return 0;
}

int check(const std::string& path) {
  const auto model = load_model(path);
  const ModelDims& dims = model->dims;
  printf("model     %s\n", model->description.c_str());
  const auto device = npu::Device::open();
  printf("NPU       %s, firmware %s\n", device->name().c_str(),
         device->firmware().empty() ? "unknown" : device->firmware().c_str());
  print_environment();
  printf("overlay   %s: its self-test passed\n", device->variant().name);
  print_plan(device->variant(), *model);

  // Any numbers in the range of log-mel do.
  std::vector<float> mel(static_cast<size_t>(dims.n_mels) * kPositions * kFramesPerPosition);
  uint32_t seed = 1;
  for (float& v : mel) v = static_cast<float>((seed = seed * 1664525u + 1013904223u) >> 16) / 32768.0f - 1.0f;
  const auto cpu = make_cpu_encoder(model, Precision::kInt8, 0);
  const auto npu = npu::make_npu_encoder(model, Precision::kInt8, 0, false);
  const Encoded expected = encode(*cpu, *model, mel);
  enable_profile(true);
  const Encoded result = encode(*npu, *model, mel);
  for (const ProfileEntry& e : take_profile()) {
    printf("%-14s %4lld calls %8.3f ms a window\n", e.name.c_str(), static_cast<long long>(e.calls / kWindows),
           static_cast<double>(e.nanoseconds) * 1e-6 / kWindows);
  }
  printf("\nwindow    NPU %.1f ms, CPU %.1f ms (best of %d)\n", result.best_ms, expected.best_ms, kWindows);
  size_t differ = 0;
  for (size_t i = 0; i < result.features.size(); ++i) {
    differ += std::memcmp(&result.features[i], &expected.features[i], sizeof(float)) != 0;
  }
  printf("features  %zu of %zu differ from the CPU's\n", differ, result.features.size());
  probe_wake(device);
  const size_t wrong = check_products(device, *model);
  return differ == 0 && wrong == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  constexpr char kUsage[] = "Usage: whisperxdna2-check-npu [--plan] [MODEL]\n";
  if (argc == 2 && std::strcmp(argv[1], "--help") == 0) {
    std::fputs(kUsage, stdout);
    return 0;
  }
  const bool only_plan = argc > 1 && std::strcmp(argv[1], "--plan") == 0;
  const int arguments = argc - 1 - only_plan;
  const char* const model = arguments == 1 ? argv[argc - 1] : nullptr;
  if (arguments > 1 || (model && model[0] == '-')) {
    std::fputs(kUsage, stderr);
    return 2;
  }
  try {
    return (only_plan ? plan : check)(model ? model : default_model_path());
  } catch (const Error& e) {
    fprintf(stderr, "whisperxdna2-check-npu: %s\n", e.what());
    return 2;
  }
}
