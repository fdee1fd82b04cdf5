// What the NPU path costs the host, how well two slots hide the device's time, and what the number of dispatches
// matters: base, 512 positions, 2 threads, on an emulated NPU that takes the time it is told and computes nothing.
//
//   bench_npu_encoder OVERLAYS [TIMELINE.svg]      OVERLAYS: the directory of the emulated overlays
//
// "Ideal" is a simulation of two windows' phases, as long as they are in a window alone, on one device and processors
// that both share; nothing is lost by waking, changing or noticing.
//
// Prints Markdown. Run with EMULATED_NPU=views=one, so that the emulated device needs no copies; buffers are then
// flushed as on a real machine. Best of several, since other programs can only add. Ends with 1 if a bound is missed.
#include <unistd.h>
#include <xrt/experimental/xrt_kernel.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "kernels/cpu/profile.h"
#include "npu/device.h"
#include "npu/gemm_plan.h"
#include "npu/npu_encoder.h"
#include "tests/device/control.h"
#include "whisper/quantized_encoder.h"

using namespace whisperxdna2;
using npu::PlanKind;
using Clock = std::chrono::steady_clock;

namespace {

constexpr int kPositions = 512, kLayers = 6, kWidth = 512, kThreads = 2;
constexpr double kWindowMs = kPositions * 20.0;
// Bounds: the NPU path's own work, all of the host's, and two slots against the ideal.
constexpr double kMostOverheadMs = 3, kMostHostMs = 30, kMostStretch = 1.1;

bool missed = false;
std::string overlay_directory;

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}
double best_of(int times, const std::function<double()>& measure) {
  double best = measure();
  for (int i = 1; i < times; ++i) best = std::min(best, measure());
  return best;
}
void set(const std::string& words) {
  if (emulated_npu::control(words.c_str()) < 0) {
    fprintf(stderr, "the emulated NPU does not understand %s\n", words.c_str());
    exit(2);
  }
}
// The device takes this long for a window of `dispatches`.
void set_device_ms(double ms, int dispatches) { set("cost=" + std::to_string(ms * 1000 / dispatches) + ",0"); }
const char* verdict(bool met) {
  missed |= !met;
  return met ? "met" : "MISSED";
}

class Windows {
 public:
  Windows(const std::shared_ptr<const Model>& model, PlanKind kind)
      : encoder_(npu::make_npu_encoder(model, Precision::kInt8, kThreads, false, kind)),
        mel_(static_cast<size_t>(model->dims.n_mels) * kPositions * kFramesPerPosition, 0.1f) {}

  void submit(int slot) { encoder_->submit(slot, mel_.data(), kPositions); }
  void wait(int slot) { encoder_->wait(slot, Clock::now() + std::chrono::seconds(60)); }

  // One window after the other, ms each.
  double alone(int count) {
    const auto start = Clock::now();
    for (int i = 0; i < count; ++i) {
      submit(0);
      wait(0);
    }
    return milliseconds_since(start) / count;
  }
  // Always one submitted ahead of the one waited for.
  double in_two_slots(int count) {
    submit(0);
    submit(1);
    wait(0);
    const auto start = Clock::now();
    for (int i = 0; i < count; ++i) {
      submit(i % 2);
      wait(1 - i % 2);
    }
    const double each = milliseconds_since(start) / count;
    wait(1 - count % 2);
    return each;
  }

 private:
  std::unique_ptr<Encoder> encoder_;
  const std::vector<float> mel_;
};

// ---- Where a window's time goes

struct Profile {
  std::map<std::string, double> ms;  // a window
  double device_ms = 0;              // the emulated device's own time

  double sum(std::initializer_list<const char*> names) const {
    double total = 0;
    for (const char* name : names) {
      const auto found = ms.find(name);
      if (found != ms.end()) total += found->second;
    }
    return total;
  }
  double in_commands() const { return sum({"npu qkv", "npu out", "npu fc1, GELU", "npu fc2"}); }
  // Submitting, and noticing the end: all but the device's time.
  double dispatching() const { return std::max(0.0, in_commands() - device_ms); }
  double rows() const { return sum({"npu add, norm"}); }
  double overhead() const { return sum({"npu sync"}) + dispatching() + rows(); }
  double host() const { return overhead() + sum({"stem", "layer norm", "attention"}); }
};

Profile profile_windows(Windows& windows) {
  constexpr int kCount = 8;
  const long busy = emulated_npu::control("busy_us");
  take_profile();
  enable_profile(true);
  windows.alone(kCount);
  enable_profile(false);
  Profile p;
  for (const ProfileEntry& e : take_profile()) p.ms[e.name] = static_cast<double>(e.nanoseconds) * 1e-6 / kCount;
  p.device_ms = static_cast<double>(emulated_npu::control("busy_us") - busy) * 1e-3 / kCount;
  return p;
}

Profile best_profile(Windows& windows) {
  Profile best = profile_windows(windows);
  for (int i = 0; i < 4; ++i) {
    const Profile next = profile_windows(windows);
    if (next.host() < best.host()) best = next;
  }
  return best;
}

Profile print_overhead(Windows& windows) {
  set("cost=0,0 inline=1");
  const Profile p = best_profile(windows);
  set("inline=0");
  printf("### Host time of a window, instant device\n\n| | ms |\n|---|---|\n");
  printf(
      "| flushes of buffers | %.2f |\n| submissions, ends noticed | %.2f |\n| results added, normalized, quantized | "
      "%.2f |\n",
      p.sum({"npu sync"}), p.dispatching(), p.rows());
  printf("| **the NPU path's own** (bound %.0f: %s) | **%.2f** |\n", kMostOverheadMs,
         verdict(p.overhead() <= kMostOverheadMs), p.overhead());
  printf("| stem | %.2f |\n| first and last layer norm | %.2f |\n| attention | %.2f |\n", p.sum({"stem"}),
         p.sum({"layer norm"}), p.sum({"attention"}));
  printf("| **all** (bound %.0f: %s) | **%.2f** |\n\n", kMostHostMs, verdict(p.host() <= kMostHostMs), p.host());
  return p;
}

// Beside what the Python prototype measured on silicon (Strix Halo, its 32-core kernel), of the same categories.
void print_beside_prototype(Windows& windows) {
  set("cost=120,0.138");
  const Profile p = best_profile(windows);
  const double layers = kLayers;
  const double attention = p.sum({"npu qkv", "attention", "npu out"}) / layers;
  const double feed_forward = p.sum({"npu fc1, GELU", "npu fc2"}) / layers;
  const double both = p.sum({"npu sync", "npu add, norm", "layer norm"}) / layers;
  printf("### Beside the prototype, the device at its predicted speed\n\n");
  printf("| a layer, ms | prototype | here |\n|---|---|---|\n");
  printf("| attention: qkv, scores, out | 254.61 | %.2f |\n| feed-forward | 82.98 | %.2f |\n", attention, feed_forward);
  printf("| sync, norms, sums of both | | %.2f |\n| total | 337.59 | %.2f |\n\n", both,
         attention + feed_forward + both);
  printf("| a dispatch, ms | prototype | here |\n|---|---|---|\n");
  const double n = 18;
  printf("| build: loop, slicing, reshape | 11 | 0 (once per model) |\n| sync: buffer writes, reads | 5 | %.3f |\n",
         p.sum({"npu sync"}) / n);
  const double submit = p.sum({"npu submit"});
  printf("| submit | | %.3f |\n| wait: kernel | 1.5 | %.3f |\n| host: rows | | %.3f |\n\n", submit / n,
         (p.in_commands() - submit) / n, p.rows() / n);
}

// ---- Two slots

struct Command {
  double submitted, start, end;  // us
  int slot;
};

// What the device was told in `run`, by its trace. slot_of: by the address of the first buffer.
std::vector<std::pair<Command, std::string>> traced(const std::function<void()>& run) {
  const std::string path = std::filesystem::temp_directory_path() / ("npu-trace." + std::to_string(getpid()));
  std::filesystem::remove(path);
  set("trace=" + path);
  run();
  set("trace=/dev/null");
  std::vector<std::pair<Command, std::string>> commands;
  std::ifstream in(path);
  double number, submitted, start, end, mmac;
  std::string buffer;
  while (in >> number >> submitted >> start >> end >> mmac >> buffer)
    commands.push_back({{submitted, start, end, 1}, buffer});
  std::filesystem::remove(path);
  return commands;
}

std::vector<Command> trace_two_slots(Windows& windows) {
  std::set<std::string> first;
  for (const auto& [command, buffer] : traced([&] { windows.alone(1); })) first.insert(buffer);
  std::vector<Command> commands;
  for (auto& [command, buffer] : traced([&] { windows.in_two_slots(4); })) {
    command.slot = first.count(buffer) ? 0 : 1;
    commands.push_back(command);
  }
  return commands;
}

// Time of a window in two slots at best. A window's phases: the host's work before each command, and after the last
// one.
double ideal_ms(const Profile& p, double device_ms) {
  const double between = (p.sum({"npu add, norm"}) / 2 + p.sum({"npu sync"}) * 2 / 3) / kLayers / 2;
  std::vector<double> host = {p.sum({"stem", "layer norm"})};  // before qkv, out, and fc1 with fc2, of each layer
  for (int layer = 0; layer < kLayers; ++layer) {
    host.push_back(p.sum({"attention"}) / kLayers + p.sum({"npu sync"}) / kLayers / 3);
    host.push_back(between);
    host.push_back(between);
  }
  const double command = device_ms / static_cast<double>(host.size() - 1);
  const auto simulate = [&](bool turns) {
    constexpr double kStep = 0.01;
    constexpr int kSimulated = 40;
    struct {
      size_t phase = 0;
      double left = 0;
      bool on_host = true;
      int windows = 0;
    } slot[2];
    for (auto& s : slot) s.left = host[0];
    std::vector<int> queue;
    int holder = -1;  // whose turn it is, from an out to the next qkv
    double now = 0, begin = 0;
    while (slot[0].windows + slot[1].windows < 2 * kSimulated) {
      now += kStep;
      const double share = kStep / std::max(1, slot[0].on_host + slot[1].on_host);
      for (int i = 0; i < 2; ++i) {
        auto& s = slot[i];
        if (!s.on_host || (s.left = std::max(0.0, s.left - share)) > 0) continue;
        if (s.phase + 1 == host.size()) {  // the window's end
          s.phase = 0, s.left = host[0];
          if (++s.windows == 2 && i == 0) begin = now;
          if (i == 0 && s.windows == kSimulated) return (now - begin) / (2 * (kSimulated - 2));
          continue;
        }
        if (turns && holder >= 0 && holder != i) continue;
        holder = i;
        if (s.phase % 3 == 0 || s.phase + 2 == host.size()) holder = -1;
        s.on_host = false;
        s.left = command;
        queue.push_back(i);
      }
      if (queue.empty()) continue;
      auto& s = slot[queue.front()];
      if ((s.left -= kStep) > 0) continue;
      queue.erase(queue.begin());
      s.on_host = true;
      s.left = host[++s.phase];
    }
    return 1e9;
  };
  return std::min(simulate(true), simulate(false));
}

struct Panel {
  double device_ms, host_ms, each_ms;
  std::vector<Command> commands;
};

// Lanes of the device and of both slots' host work, over some windows from the middle.
void draw(const std::string& path, const std::vector<Panel>& panels) {
  constexpr int kWide = 1000, kLeft = 70, kLane = 22, kTall = 150;
  const char* const colors[] = {"#2a6fbb", "#d9822b"};
  FILE* out = fopen(path.c_str(), "w");
  if (!out) {
    perror(path.c_str());
    exit(2);
  }
  fprintf(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%zu\" font-family=\"sans-serif\" "
               "font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
          kLeft + kWide + 20, panels.size() * kTall + 20);
  int top = 0;
  for (const Panel& p : panels) {
    const double span_us = 3 * p.each_ms * 1000;
    const double from = p.commands.front().start + p.each_ms * 1000;
    const auto x = [&](double us) { return kLeft + std::clamp((us - from) / span_us, 0.0, 1.0) * kWide; };
    const auto box = [&](double begin, double end, int lane, const char* color, double opacity) {
      if (x(end) <= x(begin)) return;
      fprintf(out, "<rect x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\" opacity=\"%.2f\"/>\n", x(begin),
              top + 30 + lane * (kLane + 6), x(end) - x(begin), kLane, color, opacity);
    };
    fprintf(out,
            "<text x=\"%d\" y=\"%d\">device %.0f ms a window, host %.1f ms: a window each %.1f ms (%.2f x the slower)"
            "</text>\n",
            kLeft, top + 20, p.device_ms, p.host_ms, p.each_ms, p.each_ms / std::max(p.device_ms, p.host_ms));
    const char* const lanes[] = {"NPU", "host, slot 0", "host, slot 1"};
    for (int lane = 0; lane < 3; ++lane) {
      fprintf(out, "<text x=\"2\" y=\"%d\">%s</text>\n", top + 45 + lane * (kLane + 6), lanes[lane]);
    }
    double end_of[2] = {0, 0};
    for (const Command& c : p.commands) {
      box(c.start, c.end, 0, colors[c.slot], 1);
      if (end_of[c.slot] > 0) box(end_of[c.slot], c.submitted, 1 + c.slot, colors[c.slot], 1);
      box(c.submitted, c.start, 1 + c.slot, "#888888", 0.35);  // waits for the other's command
      end_of[c.slot] = c.end;
    }
    for (double ms = 0; ms * 1000 < span_us; ms += 20) {
      fprintf(out, "<text x=\"%.1f\" y=\"%d\" fill=\"#666\">%.0f ms</text>\n", x(from + ms * 1000), top + 130, ms);
    }
    top += kTall;
  }
  fprintf(out, "</svg>\n");
  fclose(out);
}

void print_two_slots(Windows& windows, const char* timeline) {
  constexpr int kDispatches = 18, kCount = 12;
  printf(
      "### Two slots\n\n| device, ms | host, ms | one window after the other, ms | two slots, ms | ideal, ms | x "
      "max(device, host) "
      "| x ideal | bound %.1f |\n|---|---|---|---|---|---|---|---|\n",
      kMostStretch);
  std::vector<Panel> panels;
  for (const double device_ms : {5.0, 20.0, 60.0}) {
    set("cost=0,0 inline=1");
    const Profile phases = best_profile(windows);
    set("inline=0");
    set_device_ms(device_ms, kDispatches);
    double alone = windows.alone(kCount), both = windows.in_two_slots(kCount);
    for (int i = 0; i < 5; ++i) {
      alone = std::min(alone, windows.alone(kCount));
      both = std::min(both, windows.in_two_slots(kCount));
    }
    const double host_ms = phases.host(), ideal = ideal_ms(phases, device_ms);
    printf("| %.0f | %.1f | %.1f | %.1f | %.1f | %.2f | %.2f | %s |\n", device_ms, host_ms, alone, both, ideal,
           both / std::max(device_ms, host_ms), both / ideal, verdict(both <= kMostStretch * ideal));
    if (timeline) panels.push_back({device_ms, host_ms, both, trace_two_slots(windows)});
  }
  printf("\n");
  if (timeline) draw(timeline, panels);
}

// ---- Dispatches

// The device's time for a window of the prototype's dispatches, one after the other.
double run_prototype() {
  const auto device = npu::Device::open();
  const overlay::Variant& variant = device->variant();
  const auto shapes = npu::prototype_layer(variant, kWidth, 4 * kWidth, kPositions);
  std::vector<npu::Command> commands;
  std::map<int, npu::Buffer> weights;  // by inner dimension
  npu::Buffer a = device->make_buffer(1 << 20), c = device->make_buffer(1 << 20);
  for (const npu::GemmShape& s : shapes) {
    npu::Buffer& w = weights[s.k_bytes];
    if (!w.data()) {
      const std::vector<int8_t> zeros(static_cast<size_t>(s.n) * s.k_bytes);
      const std::vector<int32_t> bias(s.n);
      const std::vector<int16_t> multiplier(s.n);
      OutputStage stage;
      stage.mode = OutputMode::kInt16;
      w = device->make_buffer(s.weights_size());
      npu::pack_weights(
          variant, s, {s.n, s.k_bytes, zeros.data(), bias.data(), multiplier.data(), nullptr, stage, false}, w.data());
      w.to_device(s.weights_size());
    }
    std::vector<npu::Operation> stream = npu::token_set_up(variant);
    const auto product = npu::gemm_operations(variant, s, {0, s.m / overlay::kRowBlock, 0, s.n / variant.n_block},
                                              npu::LoopOrder::kRowsOuter, {});
    stream.insert(stream.end(), product.begin(), product.end());
    commands.push_back(device->prepare(device->make_instructions(npu::encode(stream)), {a.bo(), w.bo(), c.bo()},
                                       npu::kGemm8Cost.predict(s.macs())));
  }
  return best_of(5, [&] {
    const auto start = Clock::now();
    for (int layer = 0; layer < kLayers; ++layer) {
      for (npu::Command& command : commands) device->execute(command);
    }
    return milliseconds_since(start);
  });
}

void print_dispatches(const std::shared_ptr<const Model>& model, double host_ms) {
  printf(
      "### Dispatches of a window, predicted (T = 120 us + 0.138 us per MMAC) and on the emulated device\n\n"
      "| plan | dispatches | predicted, ms | measured, ms | x real time, windows one by one | in two slots | reaches "
      "|\n"
      "|---|---|---|---|---|---|---|\n");
  const overlay::Variant& variant = overlay::kGemm8;
  set("cost=120,0.138");
  const auto line = [&](const char* name, size_t dispatches, double predicted_ms, double measured_ms,
                        const char* remark) {
    const double one_by_one = kWindowMs / (measured_ms + host_ms), two = kWindowMs / std::max(measured_ms, host_ms);
    std::string reaches;
    for (const int target : {100, 150, 200, 400}) {
      if (two >= target) reaches += (reaches.empty() ? "" : ", ") + std::to_string(target) + "x";
    }
    printf("| %s%s | %zu | %.2f | %.2f | %.0f | %.0f | %s |\n", name, remark, dispatches, predicted_ms, measured_ms,
           one_by_one, two, reaches.c_str());
  };
  const auto shapes = npu::prototype_layer(variant, kWidth, 4 * kWidth, kPositions);
  double predicted = 0;
  for (const npu::GemmShape& s : shapes) predicted += npu::kGemm8Cost.predict(s.macs());
  line("prototype's", shapes.size() * kLayers, predicted * kLayers * 1e-3, run_prototype(), " (device time only)");
  for (auto kind = std::rbegin(npu::kPlanKinds); kind != std::rend(npu::kPlanKinds); ++kind) {
    size_t dispatches = 0;
    double predicted_us = 0;
    for (int layer = 0; layer < kLayers; ++layer) {
      const auto plan =
          npu::plan_layer(variant, kWidth, 4 * kWidth, kPositions, *kind, attention_is_14bit(layer));
      dispatches += static_cast<size_t>(plan.dispatches());
      predicted_us += plan.predicted_us();
    }
    Windows windows(model, *kind);
    Profile best = best_profile(windows);
    line(npu::name_of(*kind), dispatches, predicted_us * 1e-3, best.in_commands(), "");
  }
  printf("\nHost time for all: %.1f ms. 400x needs %.1f ms for the slower of device and host.\n\n", host_ms,
         kWindowMs / 400);
}

// Two commands that depend on each other: apart, or as a run list. (In one stream they are a single command.)
void print_run_lists() {
  set("cost=120,0,60");  // assumed: a chain's later commands cost half
  xrt::device device(0);
  const xrt::xclbin xclbin(overlay_directory + "/gemm8.xclbin");
  device.register_xclbin(xclbin);
  xrt::hw_context context(device, xclbin.get_uuid());
  xrt::kernel kernel(context, overlay::kKernelName);
  const std::vector<uint32_t> words = npu::encode(npu::token_set_up(overlay::kGemm8));
  xrt::bo code(device, words.size() * 4, XCL_BO_FLAGS_CACHEABLE, kernel.group_id(overlay::kInstructionArgument));
  std::memcpy(code.map<void*>(), words.data(), words.size() * 4);
  code.sync(XCL_BO_SYNC_BO_TO_DEVICE);
  const auto make_run = [&] {
    xrt::run run(kernel);
    run.set_arg(0, uint64_t{overlay::kRunTransaction});
    run.set_arg(overlay::kInstructionArgument, code);
    run.set_arg(overlay::kInstructionWordsArgument, static_cast<uint32_t>(words.size()));
    return run;
  };
  constexpr int kTimes = 200;
  const auto each_us = [&](const std::function<void()>& once) {
    return best_of(5, [&] {
             const auto start = Clock::now();
             for (int i = 0; i < kTimes; ++i) once();
             return milliseconds_since(start);
           }) * 1000 / kTimes;
  };
  xrt::run one = make_run(), two = make_run(), third = make_run(), fourth = make_run();
  const double single = each_us([&] {
    one.start();
    one.wait();
  });
  const double apart = each_us([&] {
    one.start();
    one.wait();
    two.start();
    two.wait();
  });
  xrt::runlist list(context);
  list.add(third);
  list.add(fourth);
  const double listed = each_us([&] {
    list.execute();
    list.wait();
  });
  printf(
      "### Two dependent commands, empty, us (120 a command, assumed 60 for the second of a run list)\n\n"
      "| apart | run list | one stream (fc1 and fc2 of the chained plan) |\n|---|---|---|\n| %.0f | %.0f | %.0f |\n\n",
      apart, listed, single);
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2) {
    fprintf(stderr, "usage: bench_npu_encoder OVERLAYS [TIMELINE.svg]\n");
    return 2;
  }
  overlay_directory = arguments[1];
  setenv("WHISPERXDNA2_OVERLAY", (overlay_directory + "/gemm8.xclbin").c_str(), 1);
  setenv("Debug.force_driver_sync", "false", 1);
  set("mode=fast");
  const auto model = load_model(default_model_path());
  Windows windows(model, PlanKind::kChained);
  set("mode=delay");
  windows.alone(2);

  const double host_ms = print_overhead(windows).host();
  print_beside_prototype(windows);
  print_two_slots(windows, count > 2 ? arguments[2] : nullptr);
  print_dispatches(model, host_ms);
  print_run_lists();
  return missed;
}
