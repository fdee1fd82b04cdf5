// A program on the emulated NPU's driver, through the real XRT as mlir-aie's host programs use it, for the tests of
// that driver.
#pragma once

#include <xrt/experimental/xrt_kernel.h>
#include <xrt/experimental/xrt_xclbin.h>
#include <xrt/xrt_bo.h>
#include <xrt/xrt_device.h>
#include <xrt/xrt_hw_context.h>
#include <xrt/xrt_kernel.h>

#include <chrono>
#include <cstring>
#include <string>
#include <system_error>
#include <vector>

#include "tests/device/control.h"
#include "tests/device/products.h"

#include <check.h>  // last: it defines a macro called fail

namespace emulated_npu {

using Clock = std::chrono::steady_clock;
constexpr auto kToDevice = XCL_BO_SYNC_BO_TO_DEVICE;
constexpr auto kFromDevice = XCL_BO_SYNC_BO_FROM_DEVICE;

// All 64 bits: XRT writes as many bytes as the argument has, and a new run may get the packet of one that failed, whose
// data the driver has overwritten.
constexpr uint64_t kOpcode = whisperxdna2::overlay::kRunTransaction;

inline std::string directory;  // of the xclbins and ELFs

inline double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// The value of a counter, or the success of a setting.
inline long npu(const std::string& words) {
  const long value = control(words.c_str());
  ck_assert_msg(value >= 0, "the emulated NPU does not understand \"%s\"", words.c_str());
  return value;
}

// A device with an overlay and a context, and the buffers of c = a + b over n numbers.
struct Program {
  xrt::device device{0};
  xrt::xclbin xclbin;
  xrt::hw_context context;
  xrt::kernel kernel;
  uint32_t n;
  xrt::bo instructions, a, b, c;

  explicit Program(const std::string& overlay = "vadd", uint32_t count = 1024)
      : xclbin(directory + "/" + overlay + ".xclbin"), n(count) {
    device.register_xclbin(xclbin);
    context = xrt::hw_context(device, xclbin.get_uuid());
    kernel = xrt::kernel(context, "MLIR_AIE");
    instructions = make_instructions(elementwise_stream(n).words());
    a = make(3);
    b = make(4);
    c = make(0);
  }
  xrt::bo make_instructions(const std::vector<uint32_t>& words, bool sync = true) {
    xrt::bo bo(device, words.size() * 4, XCL_BO_FLAGS_CACHEABLE, kernel.group_id(1));
    memcpy(bo.map<void*>(), words.data(), words.size() * 4);
    if (sync) bo.sync(kToDevice);
    return bo;
  }
  xrt::bo make(int step) {
    xrt::bo bo(device, n * 4, XRT_BO_FLAGS_HOST_ONLY, kernel.group_id(3));
    fill(bo, step);
    return bo;
  }
  void fill(xrt::bo& bo, int step) const {
    auto* const values = bo.map<int32_t*>();
    for (uint32_t i = 0; i < n; ++i) values[i] = static_cast<int32_t>(i) * step;
    bo.sync(kToDevice);
  }
  uint32_t words() const { return static_cast<uint32_t>(instructions.size() / 4); }
  xrt::run start() { return start(a, b, c); }
  xrt::run start(xrt::bo& left, xrt::bo& right, xrt::bo& result) {
    return kernel(kOpcode, instructions, words(), left, right, result);
  }
  xrt::run prepare() {
    xrt::run run(kernel);
    run.set_arg(0, kOpcode);
    run.set_arg(1, instructions);
    run.set_arg(2, words());
    run.set_arg(3, a);
    run.set_arg(4, b);
    run.set_arg(5, c);
    return run;
  }
  bool holds(xrt::bo& bo, int step) const {
    bo.sync(kFromDevice);
    return holds_unsynced(bo, step);
  }
  bool holds_unsynced(xrt::bo& bo, int step) const {
    const auto* const values = bo.map<int32_t*>();
    for (uint32_t i = 0; i < n; ++i) {
      if (values[i] != static_cast<int32_t>(i) * step) return false;
    }
    return true;
  }
};

inline void expect_completed(ert_cmd_state state) {
  ck_assert_msg(state == ERT_CMD_STATE_COMPLETED, "state %d: %s", static_cast<int>(state), last_message());
}

// What `call` throws as text; fails if it throws nothing.
template <class Call>
std::string error_of(Call call) {
  try {
    call();
  } catch (const std::exception& error) {
    return error.what();
  }
  ck_abort_msg("nothing was thrown");
  return "";
}
template <class Call>
int system_error_of(Call call) {
  try {
    call();
  } catch (const std::system_error& error) {
    return error.code().value();
  }
  ck_abort_msg("no system_error was thrown");
  return 0;
}

struct Case {
  const char* name;
  std::vector<const TTest*> tests;
};

// The main function of such a program.
inline int run_cases(int argc, char** argv, const std::vector<Case>& cases) {
  if (argc != 2) return 2;
  directory = argv[1];
  Suite* const suite = suite_create("device");
  for (const Case& c : cases) {
    TCase* const tcase = tcase_create(c.name);
    for (const TTest* test : c.tests) tcase_add_test(tcase, test);
    suite_add_tcase(suite, tcase);
  }
  SRunner* const runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}

}  // namespace emulated_npu
