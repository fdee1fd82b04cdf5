// Many windows with faults at random: the same bytes as from the CPU every time, and nothing left behind. A model of
// one layer of 64 channels and windows of 64 positions, over the real XRT and the emulated NPU.
//
//   test_soak OVERLAYS WINDOWS
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "npu/device.h"
#include "npu/npu_encoder.h"
#include "tests/device/control.h"
#include "tests/fake_model.h"

#include <check.h>  // last: it defines fail()

using namespace whisperxdna2;
using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

namespace {

constexpr int kPositions = 64, kWidth = 64, kClips = 5;
int windows;
std::string overlay_path;

long control(const std::string& words) {
  const long value = emulated_npu::control(words.c_str());
  ck_assert_msg(value >= 0, "the emulated NPU does not understand \"%s\"", words.c_str());
  return value;
}

long entries(const char* directory) {
  return std::distance(std::filesystem::directory_iterator(directory), std::filesystem::directory_iterator());
}

long resident_kb() {
  FILE* file = fopen("/proc/self/statm", "r");
  long all = 0, resident = 0;
  ck_assert_int_eq(fscanf(file, "%ld %ld", &all, &resident), 2);
  fclose(file);
  return resident * 4;
}

// What exists now, of the kinds that could leak.
struct Holdings {
  long bos = control("bos"), contexts = control("live_contexts"), files = entries("/proc/self/fd"),
       threads = entries("/proc/self/task");
};
void assert_same(const Holdings& now, const Holdings& then) {
  ck_assert_int_eq(now.bos, then.bos);
  ck_assert_int_eq(now.contexts, then.contexts);
  ck_assert_int_eq(now.files, then.files);
  ck_assert_int_eq(now.threads, then.threads);
}

class Windows {
 public:
  explicit Windows(const std::shared_ptr<const Model>& model) {
    std::mt19937 random(7);
    std::uniform_real_distribution<float> value(-1, 1);
    const auto cpu = make_cpu_encoder(model, Precision::kInt8, 2);
    for (int i = 0; i < kClips; ++i) {
      mel_[i].resize(static_cast<size_t>(model->dims.n_mels) * kPositions * kFramesPerPosition);
      for (float& v : mel_[i]) v = value(random);
      cpu->submit(0, mel_[i].data(), kPositions);
      const float* features = cpu->wait(0, steady_clock::now() + seconds(60));
      expected_[i].assign(features, features + kPositions * kWidth);
    }
  }
  void use(std::unique_ptr<Encoder> encoder) { encoder_ = std::move(encoder); }
  bool on_device() const { return encoder_->describe().backend == "npu"; }
  void run(int count, const std::function<void(int)>& before) {
    submit(0);
    for (int window = 0; window < count; ++window) {
      before(window);
      if (window + 1 < count) submit(window + 1);
      const float* features = encoder_->wait(window % 2, steady_clock::now() + seconds(60));
      ck_assert_msg(std::memcmp(features, expected_[window % kClips].data(), sizeof(float) * kPositions * kWidth) == 0,
                    "window %d", window);
    }
  }
  // Until both slots have the device.
  void recover() {
    const auto limit = steady_clock::now() + seconds(20);
    do {
      run(2, [](int) {});
      ck_assert_msg(steady_clock::now() < limit, "%s", encoder_->describe().fault.c_str());
    } while (!on_device());
    run(4, [](int) {});
    ck_assert(on_device());
  }

 private:
  void submit(int window) { encoder_->submit(window % 2, mel_[window % kClips].data(), kPositions); }
  std::unique_ptr<Encoder> encoder_;
  std::vector<float> mel_[kClips], expected_[kClips];
};

}  // namespace

START_TEST(windows_with_random_faults_are_right_and_leave_nothing) {
  setenv("WHISPERXDNA2_OVERLAY", overlay_path.c_str(), 1);
  control("mode=fast watchdog_ms=20 replug_ms=5");
  npu::Device::set_delays(milliseconds(1), milliseconds(4));
  const auto model = make_fake_model(kWidth);
  Windows all(model);  // has made the pool's threads, which stay, as does XRT once loaded
  npu::make_npu_encoder(model, Precision::kInt8, 2, true);
  const Holdings before;
  all.use(npu::make_npu_encoder(model, Precision::kInt8, 2, true));
  all.recover();
  control("fault=error@0");  // what was bound for usual windows goes
  all.recover();
  const Holdings with_encoder;
  ck_assert_int_eq(with_encoder.contexts, 1);

  std::mt19937 random(11);
  const char* const kinds[] = {"fault=error", "fault=abort", "fault=timeout", "fault=hang", "fault=unplug", "fail_bo="};
  int faults = 0, on_device = 0;
  long resident = 0;
  int next = 5;
  all.run(windows, [&](int window) {
    on_device += all.on_device();
    if (window == windows / 4) resident = resident_kb();
    if (window < next) return;
    const std::string kind = kinds[faults++ % 6];
    control(kind + (kind.back() == '=' ? "" : "@") + std::to_string(random() % 10));
    next = window + 5 + static_cast<int>(random() % 60);
  });
  ck_assert_int_ge(faults, windows / 70);
  ck_assert_int_ge(on_device, windows / 4);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // which keep what was given back
  ck_assert_msg(resident_kb() < resident + 20000, "%ld kB after a quarter, %ld kB at the end", resident, resident_kb());
#endif

  control("clear");
  all.recover();
  assert_same(Holdings(), with_encoder);
  all.use(nullptr);
  assert_same(Holdings(), before);
}
END_TEST

int main(int, char** arguments) {
  overlay_path = std::string(arguments[1]) + "/gemm1.xclbin";
  windows = atoi(arguments[2]);
  Suite* suite = suite_create("npu_soak");
  TCase* tests = tcase_create("soak");
  tcase_set_timeout(tests, 0);  // Meson's counts
  tcase_add_test(tests, windows_with_random_faults_are_right_and_leave_nothing);
  suite_add_tcase(suite, tests);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
