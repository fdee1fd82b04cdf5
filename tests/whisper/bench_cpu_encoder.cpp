// Time of the CPU encoder on Whisper base: whole windows, alone and beside a thread that takes a core, then by operation.
// Usage: bench_cpu_encoder [threads [positions]], 2 and 512 if not given.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <thread>
#include <vector>

#include "kernels/cpu/profile.h"
#include "whisper/cpu_encoder.h"
#include "whisper/encoder_schedule.h"

using namespace whisperxdna2;

namespace {

constexpr int kRuns = 20;

double seconds(clockid_t clock) {
  timespec t;
  clock_gettime(clock, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

void print_times(const char* what, std::vector<double> times) {
  std::sort(times.begin(), times.end());
  std::printf("%-28s %8.1f ms least %8.1f ms median\n", what, times.front() * 1e3, times[times.size() / 2] * 1e3);
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2, positions = argc > 2 ? std::atoi(argv[2]) : 512;
  const auto weights = packed_encoder(load_model(default_model_path()));
  EncoderSchedule schedule(weights, threads);
  const std::vector<float> mel(static_cast<size_t>(weights->dims.n_mels) * positions * kFramesPerPosition, 0.3f);
  std::vector<float> features(static_cast<size_t>(positions) * weights->dims.d_model);
  const std::atomic<bool> never{false};
  const auto encode = [&] { schedule.run(mel.data(), positions, features.data(), never); };
  const auto measure = [&](const char* wall_name, const char* processor_name) {
    std::vector<double> wall, processor;
    for (int i = 0; i < kRuns; ++i) {
      const double w = seconds(CLOCK_MONOTONIC), p = seconds(CLOCK_PROCESS_CPUTIME_ID);
      encode();
      wall.push_back(seconds(CLOCK_MONOTONIC) - w);
      processor.push_back(seconds(CLOCK_PROCESS_CPUTIME_ID) - p);
    }
    print_times(wall_name, wall);
    if (processor_name) print_times(processor_name, processor);
  };

  std::printf("%d positions, %d threads, %s\n", positions, threads,
              make_cpu_encoder(load_model(default_model_path()), Precision::kF32, threads)->describe().device.c_str());
  encode();
  measure("alone", "alone, processor time");
  std::atomic<bool> stop{false};
  std::thread competitor([&] {
    while (!stop) {
    }
  });
  measure("beside a busy thread", nullptr);
  stop = true;
  competitor.join();

  enable_profile(true);
  for (int i = 0; i < kRuns; ++i) encode();
  std::printf("%-28s %8s %8s %8s\n", "", "calls", "ms", "GFLOP/s");
  for (const ProfileEntry& e : take_profile()) {
    std::printf("%-28s %8.0f %8.2f %8.1f\n", e.name.c_str(), static_cast<double>(e.calls) / kRuns, e.nanoseconds * 1e-6 / kRuns,
                static_cast<double>(e.operations) / e.nanoseconds);
  }
}
