// The NPU's encoder over the real XRT and the emulated NPU, which the program is linked with ahead of the C library.
// Check runs each test in a process of its own, so each opens the device anew and may lose it.
//
// Argument: the directory of the emulated overlays.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "dsp/log_mel.h"
#include "npu/device.h"
#include "npu/npu_encoder.h"
#include "tests/device/control.h"
#include "tests/npy.h"
#include "whisper/error.h"

#include "tests/assert_text.h"  // last: it includes check.h, which defines fail()

using namespace whisperxdna2;
using npu::PlanKind;
using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

namespace {

constexpr int kPositions = 512;
constexpr int kThreads = 2;
std::string overlays;  // directory

long control(const std::string& words) {
  const long value = emulated_npu::control(words.c_str());
  ck_assert_msg(value >= 0, "the emulated NPU does not understand \"%s\"", words.c_str());
  return value;
}

void use_overlay(const std::string& name) {
  setenv("WHISPERXDNA2_OVERLAY", (overlays + "/" + name + ".xclbin").c_str(), 1);
}

void set_up() {
  control("mode=fast");
  use_overlay("gemm8");
}

std::shared_ptr<const Model> tiny() { return load_model(cache_directory() + "/models/tiny.en"); }

// Log-mel of one of two clips.
std::vector<float> speech(const std::string& clip, int positions = kPositions) {
  const Npy<int16_t> samples = load_npy<int16_t>("dsp/" + clip + ".npy");
  std::vector<float> signal(samples.data.begin(), samples.data.end());
  for (float& s : signal) s /= 32768;
  LogMel log_mel(80);
  log_mel.push(signal.data(), static_cast<int64_t>(signal.size()));
  const int frames = positions * kFramesPerPosition;
  std::vector<float> mel(static_cast<size_t>(80) * frames);
  log_mel.window(0, std::min<int>(frames, static_cast<int>(signal.size() / 160)), frames, mel.data());
  return mel;
}

std::vector<float> encode(Encoder& encoder, const Model& model, const std::vector<float>& mel, int slot = 0) {
  const int positions = static_cast<int>(mel.size()) / 80 / kFramesPerPosition;
  encoder.submit(slot, mel.data(), positions);
  const float* features = encoder.wait(slot, steady_clock::now() + seconds(60));
  return std::vector<float>(features, features + static_cast<size_t>(positions) * model.dims.d_model);
}

std::unique_ptr<Encoder> on_npu(const std::shared_ptr<const Model>& model, bool cpu_may_finish = false,
                                std::optional<PlanKind> kind = std::nullopt) {
  return npu::make_npu_encoder(model, Precision::kInt8, kThreads, cpu_may_finish, kind);
}

std::vector<float> on_cpu(const std::shared_ptr<const Model>& model, const std::vector<float>& mel) {
  return encode(*make_cpu_encoder(model, Precision::kInt8, kThreads), *model, mel);
}

void assert_contains(const std::string& text, const char* part) {
  ck_assert_msg(text.find(part) != std::string::npos, "no \"%s\" in \"%s\"", part, text.c_str());
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

Error refusal() {
  try {
    on_npu(tiny());
  } catch (const Error& e) {
    return e;
  }
  ck_abort_msg("an encoder was made");
}

void assert_says(const Error& error, ErrorCode code, const char* part) {
  ck_assert_msg(error.code() == code && std::string(error.what()).find(part) != std::string::npos, "code %d: %s",
                static_cast<int>(error.code()), error.what());
}

}  // namespace

// ---- Numbers

START_TEST(features_of_base_are_the_cpus_byte_for_byte) {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // with which a command takes more than 10 s
  control("mode=exact");  // by the programs of the array's cores
#endif
  const auto model = load_model(default_model_path());
  const auto mel = speech("jfk");
  ck_assert(same(encode(*on_npu(model), *model, mel), on_cpu(model, mel)));
}
END_TEST

START_TEST(other_lengths_give_the_cpus_bytes_too) {
  const auto model = tiny();
  const auto encoder = on_npu(model);
  for (const int positions : {100, 512, 700, 256, 1}) {
    const auto mel = speech("jfk", positions);
    ck_assert_msg(same(encode(*encoder, *model, mel), on_cpu(model, mel)), "%d positions", positions);
  }
}
END_TEST

START_TEST(every_plan_and_overlay_gives_the_same_bytes) {
  const auto model = tiny();
  const auto mel = speech("jfk");
  const auto expected = on_cpu(model, mel);
  for (const char* name : {"gemm8", "gemm1"}) {
    use_overlay(name);
    for (const PlanKind kind : npu::kPlanKinds) {
      ck_assert_msg(same(encode(*on_npu(model, false, kind), *model, mel), expected), "%s, plan %s", name,
                    npu::name_of(kind));
    }
  }
}
END_TEST

START_TEST(both_slots_at_once_give_their_own_features) {
  const auto model = tiny();
  const auto encoder = on_npu(model);
  const std::vector<float> mel[2] = {speech("jfk"), speech("robin")};
  const std::vector<float> expected[2] = {on_cpu(model, mel[0]), on_cpu(model, mel[1])};
  for (int slot : {0, 1}) encoder->submit(slot, mel[slot].data(), kPositions);
  for (int window = 0; window < 6; ++window) {
    const int slot = window % 2;
    const float* features = encoder->wait(slot, steady_clock::now() + seconds(60));
    ck_assert(same({features, features + expected[slot].size()}, expected[slot]));
    if (window < 4) encoder->submit(slot, mel[slot].data(), kPositions);
  }
}
END_TEST

START_TEST(four_encoders_get_equal_shares_of_one_context) {
  const auto model = tiny();
  const auto mel = speech("jfk", 100);
  std::vector<std::unique_ptr<Encoder>> encoders;
  for (int i = 0; i < 4; ++i) encoders.push_back(on_npu(model));
  for (const auto& encoder : encoders) encode(*encoder, *model, mel);
  ck_assert_int_eq(control("live_contexts"), 1);
  control("mode=delay cost=1000");  // the device is what they compete for
  std::vector<std::thread> users;
  std::vector<int> windows(encoders.size());
  const auto end = steady_clock::now() + seconds(3);
  for (size_t i = 0; i < encoders.size(); ++i) {
    users.emplace_back([&, i] {
      for (int slot : {0, 1}) encoders[i]->submit(slot, mel.data(), 100);
      for (int slot = 0; steady_clock::now() < end; slot = 1 - slot, ++windows[i]) {
        encoders[i]->wait(slot, steady_clock::now() + seconds(60));
        encoders[i]->submit(slot, mel.data(), 100);
      }
    });
  }
  for (std::thread& user : users) user.join();
  const auto [least, most] = std::minmax_element(windows.begin(), windows.end());
  ck_assert_msg(*least * 10 >= *most * 8, "windows: %d, %d, %d, %d", windows[0], windows[1], windows[2], windows[3]);
}
END_TEST

START_TEST(encoders_share_device_and_weights) {
  const auto model = tiny();
  const auto mel = speech("jfk");
  const auto first = on_npu(model);
  const long contexts = control("live_contexts"), bos = control("bos");
  const auto second = on_npu(model);
  ck_assert_int_eq(control("live_contexts"), contexts);
  const long more = control("bos") - bos;
  // Three buffers a slot, and the packets of its commands: no weights and no instructions.
  ck_assert_int_le(more, 2 * (3 + 4 * model->dims.n_encoder_layers));
  ck_assert(same(encode(*first, *model, mel), encode(*second, *model, mel)));
}
END_TEST

// ---- Dispatches and syncs

// The device also gets empty commands against sleep, where windows take long.
long dispatches_of_a_window(Encoder& encoder, const Model& model, const std::vector<float>& mel) {
  encode(encoder, model, mel);
  const uint64_t before = encoder.describe().dispatches;
  const long commands = control("commands");
  encode(encoder, model, mel);
  const auto dispatches = static_cast<long>(encoder.describe().dispatches - before);
  ck_assert_int_ge(control("commands") - commands, dispatches);
  return dispatches;
}

START_TEST(window_takes_its_plans_dispatches) {
  const auto model = tiny();
  const auto mel = speech("jfk");
  const struct {
    PlanKind kind;
    int a_layer;
  } plans[] = {{PlanKind::kChained, 3}, {PlanKind::kWhole, 4}, {PlanKind::kSeparate, 6}, {PlanKind::kChunked, 8}};
  for (const auto& plan : plans) {
    const auto encoder = on_npu(model, false, plan.kind);
    const int expected = plan.a_layer * model->dims.n_encoder_layers;
    ck_assert_int_eq(dispatches_of_a_window(*encoder, *model, mel), expected);
    ck_assert_uint_eq(encoder->describe().dispatches, 2 * expected);  // of two windows
  }
}
END_TEST

START_TEST(fastest_plan_is_taken) {
  const auto model = tiny();
  ck_assert_int_eq(dispatches_of_a_window(*on_npu(model), *model, speech("jfk")), 3 * model->dims.n_encoder_layers);
}
END_TEST

START_TEST(every_sync_is_needed) {
  const auto model = tiny();
  const auto encoder = on_npu(model);
  const auto mel = speech("jfk", 100), other = speech("robin", 100);
  const auto expected = encode(*encoder, *model, mel);
  encode(*encoder, *model, other);
  const long before = control("syncs");
  ck_assert(same(encode(*encoder, *model, mel), expected));
  const long syncs = control("syncs") - before;
  // Inputs and results of qkv, out and the pair of fc1 and fc2.
  ck_assert_int_eq(syncs, 6 * model->dims.n_encoder_layers);
  for (long i = 0; i < syncs; ++i) {
    encode(*encoder, *model, other);  // so that what is stale differs
    control("drop_sync=" + std::to_string(i));
    ck_assert_msg(!same(encode(*encoder, *model, mel), expected), "without sync %ld the result is the same", i);
  }
}
END_TEST

// ---- Faults

const struct {
  const char *kind, *says, *advises;
} kFaults[] = {
    {"error", "ended a command with error", "dmesg"},      {"abort", "ended a command with abort", "dmesg"},
    {"timeout", "ended a command with time-out", "dmesg"}, {"hang", "ended a command with time-out", "backend=cpu"},
    {"unplug", "was removed", "once it is back"},
};

START_TEST(cpu_finishes_the_window_in_flight_with_the_same_bytes) {
  const auto model = tiny();
  const auto mel = speech("jfk");
  const auto encoder = on_npu(model, true);
  const auto expected = encode(*encoder, *model, mel);
  assert_text(encoder->describe().backend, "npu");
  // In each of the third layer's products.
  control(std::string("fault=") + kFaults[_i].kind + "@" + std::to_string(6 + _i % 3));
  ck_assert(same(encode(*encoder, *model, mel), expected));
  assert_text(encoder->describe().backend, "cpu");
  assert_contains(encoder->describe().fault, kFaults[_i].says);
  assert_contains(encoder->describe().fault, kFaults[_i].advises);
}
END_TEST

START_TEST(without_the_cpu_the_window_fails) {
  const auto model = tiny();
  const auto mel = speech("jfk");
  const auto encoder = on_npu(model);
  encode(*encoder, *model, mel);
  control(std::string("fault=") + kFaults[_i].kind + "@3");
  try {
    encode(*encoder, *model, mel);
    ck_abort_msg("no error");
  } catch (const Error& e) {
    assert_says(e, ErrorCode::kDevice, kFaults[_i].says);
    assert_says(e, ErrorCode::kDevice, kFaults[_i].advises);
  }
}
END_TEST

START_TEST(device_is_used_again_when_it_is_back) {
  const auto model = tiny();
  const auto mel = speech("jfk");
  const auto encoder = on_npu(model, true);
  const auto expected = encode(*encoder, *model, mel);
  control(std::string("replug_ms=1 fault=") + kFaults[_i].kind + "@3");
  ck_assert(same(encode(*encoder, *model, mel), expected));
  // The hung command is ended by the watchdog after 2 s, and delays between attempts double from 1 s.
  const auto limit = steady_clock::now() + seconds(30);
  while (encoder->describe().backend == "cpu" && steady_clock::now() < limit) {
    std::this_thread::sleep_for(milliseconds(300));
    for (int slot : {0, 1}) ck_assert(same(encode(*encoder, *model, mel, slot), expected));
  }
  assert_text(encoder->describe().backend, "npu");
  assert_text(encoder->describe().fault, "");
  const long before = control("commands");
  ck_assert(same(encode(*encoder, *model, mel), expected));
  // Where this took long, an empty one against sleep was among them.
  ck_assert_int_ge(control("commands") - before, 3 * model->dims.n_encoder_layers);
}
END_TEST

START_TEST(device_that_was_absent_for_a_while_is_used_again) {
  const auto model = tiny();
  const auto mel = speech("jfk", 100);
  npu::Device::set_delays(milliseconds(10), milliseconds(20));
  const auto encoder = on_npu(model, true);
  const auto expected = encode(*encoder, *model, mel);
  control("unplug");
  for (int i = 0; i < 3; ++i) {
    ck_assert(same(encode(*encoder, *model, mel), expected));
    std::this_thread::sleep_for(milliseconds(50));  // the next window tries to open what is not there
  }
  assert_contains(encoder->describe().fault, "removed");
  control("replug");
  std::this_thread::sleep_for(milliseconds(50));
  ck_assert(same(encode(*encoder, *model, mel), expected));
  assert_text(encoder->describe().backend, "npu");
  ck_assert(!encoder->describe().device.empty());
}
END_TEST

START_TEST(memory_that_lacks_for_a_longer_window_is_named_and_the_cpu_encodes_it) {
  const auto model = tiny();
  const auto mel = speech("jfk", 100), longer = speech("jfk", 700);
  const auto encoder = on_npu(model, true);
  encode(*encoder, *model, mel);
  control("fail_bo=0");
  ck_assert(same(encode(*encoder, *model, longer), on_cpu(model, longer)));
  assert_contains(encoder->describe().fault, "out of memory for the NPU: close other programs");
}
END_TEST

START_TEST(stream_with_a_fault_in_every_tenth_window_is_the_same_as_without) {
  const auto model = tiny();
  const std::vector<float> mel[2] = {speech("jfk", 100), speech("robin", 100)};
  const std::vector<float> expected[2] = {on_cpu(model, mel[0]), on_cpu(model, mel[1])};
  const auto encoder = on_npu(model, true);
  const char* const faults[] = {"error", "abort", "timeout"};
  for (int slot : {0, 1}) encoder->submit(slot, mel[slot].data(), 100);
  int on_device = 0;
  for (int window = 0; window < 100; ++window) {
    const int slot = window % 2;
    const float* features = encoder->wait(slot, steady_clock::now() + seconds(60));
    ck_assert_msg(same({features, features + expected[slot].size()}, expected[slot]), "window %d", window);
    on_device += encoder->describe().backend == "npu";
    if (window % 10 == 9) control(std::string("fault=") + faults[window / 10 % 3] + "@5");
    if (window < 98) encoder->submit(slot, mel[slot].data(), 100);
  }
  ck_assert_int_ge(on_device, 10);  // until the first fault; then delays and the CPU's speed decide
}
END_TEST

START_TEST(encoder_with_a_hung_command_can_be_destroyed) {
  const auto model = tiny();
  const auto mel = speech("jfk");
  control("watchdog_ms=0");
  auto encoder = on_npu(model, true);
  control("fault=hang@2");
  encode(*encoder, *model, mel);
  assert_contains(encoder->describe().fault, "did not end a command in 10 s");
  const auto start = steady_clock::now();
  encoder.reset();
  ck_assert(steady_clock::now() - start < seconds(2));
}
END_TEST

START_TEST(interruption_ends_a_wait_and_the_next_window_is_right) {
  const auto model = tiny();
  const auto mel = speech("jfk");
  const auto encoder = on_npu(model);
  const auto expected = encode(*encoder, *model, mel);
  control("cost=60000,0");
  encoder->submit(0, mel.data(), kPositions);
  std::thread interrupter([&] {
    std::this_thread::sleep_for(milliseconds(100));
    encoder->interrupt();
  });
  try {
    encoder->wait(0, steady_clock::now() + seconds(60));
    ck_abort_msg("not interrupted");
  } catch (const Error& e) {
    ck_assert(e.code() == ErrorCode::kInterrupted);
  }
  interrupter.join();
  control("cost=0,0");
  encoder->resume();
  ck_assert(same(encode(*encoder, *model, mel), expected));
}
END_TEST

// ---- What may be missing

START_TEST(absent_device_is_named) {
  control("unplug");
  assert_says(refusal(), ErrorCode::kNotFound, "there is no NPU at /dev/accel/accel0");
}
END_TEST

START_TEST(missing_permission_is_named) {
  control("deny=1");
  assert_says(refusal(), ErrorCode::kNoResource, "add the user to the group");
}
END_TEST

START_TEST(small_limit_on_locked_memory_is_named) {
  control("memlock=1");
  assert_says(refusal(), ErrorCode::kNoResource, "ulimit -l");
}
END_TEST

START_TEST(exhausted_contexts_are_named) {
  control("contexts=0");
  assert_says(refusal(), ErrorCode::kNoResource, "gives no context");
}
END_TEST

START_TEST(missing_overlay_is_named) {
  use_overlay("nonexistent");
  assert_says(refusal(), ErrorCode::kNotFound, "nonexistent.xclbin is missing");
}
END_TEST

START_TEST(file_that_is_no_overlay_is_refused) {
  setenv("WHISPERXDNA2_OVERLAY", "/proc/self/exe", 1);
  assert_says(refusal(), ErrorCode::kInvalidFile, "not an xclbin");
}
END_TEST

START_TEST(overlay_of_another_version_is_refused) {
  use_overlay("outdated");
  assert_says(refusal(), ErrorCode::kUnsupported,
              "it is \"gemm8 version 0\", wanted is \"gemm8 version 1, tiles 64x128x64");
}
END_TEST

START_TEST(first_generation_is_refused) {
  const auto become = [](const char* device) {
    std::ofstream("/sys/bus/pci/devices/0000:c5:00.1/device") << device << "\n";
  };
  become("0x1502");
  const Error error = refusal();
  become("0x17f0");
  assert_says(error, ErrorCode::kUnsupported, "the NPU is an XDNA1");
}
END_TEST

START_TEST(foreign_overlay_is_found_by_the_self_test) {
  use_overlay("vadd");
  assert_says(refusal(), ErrorCode::kDevice, "an overlay that does not belong to this program");
}
END_TEST

// At each of the first allocations, of the device's heap to those of the encoder.
START_TEST(missing_memory_is_named) {
  const auto model = tiny();
  control("fail_bo=" + std::to_string(_i));
  try {
    on_npu(model);
    ck_abort_msg("an encoder was made");
  } catch (const Error& e) {
    assert_says(e, ErrorCode::kNoResource, "out of memory for the NPU: close other programs");
  }
}
END_TEST

START_TEST(setting_that_breaks_flushes_is_named) {
  control("flushless=1");
  assert_says(refusal(), ErrorCode::kUnsupported, "remove force_driver_sync from XRT's settings (xrt.ini");
}
END_TEST

START_TEST(wrong_numbers_are_found_by_the_self_test) {
  control("fault=skip@0");
  assert_says(refusal(), ErrorCode::kDevice, "self-test gave a wrong number");
}
END_TEST

START_TEST(other_precisions_are_refused) {
  try {
    npu::make_npu_encoder(tiny(), Precision::kF32, kThreads, true);
    ck_abort_msg("accepted");
  } catch (const Error& e) {
    assert_says(e, ErrorCode::kUnsupported, "int8 only");
  }
}
END_TEST

START_TEST(module_is_loaded_by_the_backend) {
  const auto model = tiny();
  const auto mel = speech("jfk");
  for (const Backend backend : {Backend::kNpu, Backend::kAuto}) {
    const BackendChoice choice = make_encoder(model, backend, Precision::kAuto, kThreads);
    ck_assert_str_eq(choice.fallback_reason.c_str(), "");
    assert_text(choice.encoder->describe().backend, "npu");
    ck_assert(same(encode(*choice.encoder, *model, mel), on_cpu(model, mel)));
  }
  control("unplug");
  assert_text(make_encoder(model, Backend::kAuto, Precision::kAuto, kThreads).encoder->describe().backend, "cpu");
}
END_TEST

// ---- Sleep

START_TEST(device_is_kept_awake_between_windows) {
  const auto model = tiny();
  const auto mel = speech("jfk");
  const auto encoder = on_npu(model);
  encode(*encoder, *model, mel);
  const long wakes = control("wakes");
  std::this_thread::sleep_for(seconds(9));
  encode(*encoder, *model, mel);
  ck_assert_int_eq(control("wakes"), wakes);
}
END_TEST

int main(int, char** arguments) {
  overlays = arguments[1];
  Suite* suite = suite_create("npu_encoder");
  const auto add_case = [&](const char* name) {
    TCase* tests = tcase_create(name);
    tcase_add_checked_fixture(tests, set_up, nullptr);
    suite_add_tcase(suite, tests);
    return tests;
  };
  TCase* numbers = add_case("numbers");
  tcase_add_test(numbers, features_of_base_are_the_cpus_byte_for_byte);
  tcase_add_test(numbers, other_lengths_give_the_cpus_bytes_too);
  tcase_add_test(numbers, every_plan_and_overlay_gives_the_same_bytes);
  tcase_add_test(numbers, both_slots_at_once_give_their_own_features);
  tcase_add_test(numbers, encoders_share_device_and_weights);
  tcase_add_test(numbers, four_encoders_get_equal_shares_of_one_context);
  TCase* cost = add_case("dispatches and syncs");
  tcase_add_test(cost, window_takes_its_plans_dispatches);
  tcase_add_test(cost, fastest_plan_is_taken);
  tcase_add_test(cost, every_sync_is_needed);
  TCase* faults = add_case("faults");
  tcase_add_loop_test(faults, cpu_finishes_the_window_in_flight_with_the_same_bytes, 0, 5);
  tcase_add_loop_test(faults, without_the_cpu_the_window_fails, 0, 5);
  tcase_add_loop_test(faults, device_is_used_again_when_it_is_back, 0, 5);
  tcase_add_test(faults, device_that_was_absent_for_a_while_is_used_again);
  tcase_add_test(faults, memory_that_lacks_for_a_longer_window_is_named_and_the_cpu_encodes_it);
  tcase_add_test(faults, stream_with_a_fault_in_every_tenth_window_is_the_same_as_without);
  tcase_add_test(faults, encoder_with_a_hung_command_can_be_destroyed);
  tcase_add_test(faults, interruption_ends_a_wait_and_the_next_window_is_right);
  TCase* missing = add_case("what may be missing");
  tcase_add_test(missing, absent_device_is_named);
  tcase_add_test(missing, missing_permission_is_named);
  tcase_add_test(missing, small_limit_on_locked_memory_is_named);
  tcase_add_test(missing, exhausted_contexts_are_named);
  tcase_add_test(missing, missing_overlay_is_named);
  tcase_add_test(missing, file_that_is_no_overlay_is_refused);
  tcase_add_test(missing, overlay_of_another_version_is_refused);
  tcase_add_test(missing, first_generation_is_refused);
  tcase_add_test(missing, foreign_overlay_is_found_by_the_self_test);
  tcase_add_loop_test(missing, missing_memory_is_named, 0, 12);
  tcase_add_test(missing, setting_that_breaks_flushes_is_named);
  tcase_add_test(missing, wrong_numbers_are_found_by_the_self_test);
  tcase_add_test(missing, other_precisions_are_refused);
  tcase_add_test(missing, module_is_loaded_by_the_backend);
  TCase* sleep = add_case("sleep");
  tcase_add_test(sleep, device_is_kept_awake_between_windows);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
