// What can go wrong with an NPU, as the emulated one does it, and the settings of the emulator.
//
// The program is linked with the emulated NPU. Check runs each test in a process of its own, so each opens the device
// anew and may lose it. Argument: the directory of the xclbins and ELFs.
#include <cstdlib>
#include <thread>

// xrt-smi has no sanitizer's run time, which would have to be preloaded with a library that was built for one.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define XRT_SMI 0
#else
#define XRT_SMI 1
#endif

#include "tests/device/program.h"

namespace emulated_npu {
namespace {

// ---- Failures

START_TEST(failed_runs_say_how_and_the_next_one_works) {
  Program p;
  const std::pair<const char*, int> cases[] = {{"fault=error@0", ERT_CMD_STATE_ERROR},
                                               {"fault=abort@0", ERT_CMD_STATE_ABORT},
                                               {"fault=timeout@0", ERT_CMD_STATE_TIMEOUT}};
  for (const auto& [fault, state] : cases) {
    npu(fault);
    ck_assert_int_eq(p.start().wait(), state);
    npu(fault);
    xrt::run run = p.start();
    bool thrown = false;
    try {
      run.wait2();
    } catch (const xrt::run::command_error&) {
      thrown = true;
    }
    ck_assert(thrown);
    expect_completed(p.start().wait());
  }
}
END_TEST

START_TEST(a_failed_run_cannot_be_used_again) {
  Program p;
  npu("fault=error@0");
  xrt::run run = p.start();
  ck_assert_int_eq(run.wait(), ERT_CMD_STATE_ERROR);
  run.set_arg(3, p.a);
  run.start();
  ck_assert_int_eq(run.wait(), ERT_CMD_STATE_ERROR);
}
END_TEST

START_TEST(faults_can_repeat) {
  Program p;
  npu("fault=error%3");
  for (int i = 0; i < 9; ++i) {
    ck_assert_int_eq(p.start().wait(), i % 3 == 2 ? ERT_CMD_STATE_ERROR : ERT_CMD_STATE_COMPLETED);
  }
  npu("clear");
  for (int i = 0; i < 4; ++i) expect_completed(p.start().wait());
}
END_TEST

START_TEST(a_skipped_command_completes_with_nothing_done) {
  Program p;
  npu("fault=skip@0");
  expect_completed(p.start().wait());
  ck_assert(p.holds(p.c, 0));
}
END_TEST

START_TEST(the_watchdog_ends_a_hang_and_the_queue_goes_on) {
  Program p;
  npu("watchdog_ms=300 fault=hang@0");
  const auto start = Clock::now();
  xrt::run hung = p.start(), next = p.start();
  ck_assert_int_eq(hung.wait(), ERT_CMD_STATE_TIMEOUT);
  ck_assert_double_ge(milliseconds_since(start), 299);
  expect_completed(next.wait());
}
END_TEST

START_TEST(the_watchdog_leaves_a_report) {
  Program p;
  npu("watchdog_ms=100 fault=hang@0");
  xrt::run run = p.start();
  std::string report;
  try {
    run.wait2();
  } catch (const xrt::run::aie_error& error) {
    report = error.what();
  }
  ck_assert_msg(!report.empty(), "no aie_error");
}
END_TEST

START_TEST(an_abort_waits_behind_the_command_it_is_to_end) {
  Program p;
  npu("watchdog_ms=300 fault=hang@0");
  const auto start = Clock::now();
  xrt::run run = p.start();
  run.abort();
  ck_assert_double_ge(milliseconds_since(start), 299);
  ck_assert_int_eq(run.state(), ERT_CMD_STATE_TIMEOUT);
}
END_TEST

START_TEST(the_watchdog_waits_two_seconds_by_default) {
  Program p;
  npu("fault=hang@0");
  const auto start = Clock::now();
  ck_assert_int_eq(p.start().wait(), ERT_CMD_STATE_TIMEOUT);
  ck_assert_double_ge(milliseconds_since(start), 1999);
}
END_TEST

START_TEST(a_stream_that_waits_for_ever_is_a_hang) {
  Program p;
  npu("watchdog_ms=100");
  StreamWriter stream = elementwise_stream(p.n);
  stream.token_wait({0, whisperxdna2::overlay::Direction::kS2mm, 0});
  const xrt::bo good = p.instructions;
  p.instructions = p.make_instructions(stream.words());
  ck_assert_int_eq(p.start().wait(), ERT_CMD_STATE_TIMEOUT);
  ck_assert_ptr_nonnull(strstr(last_message(), "waits for ever"));
  p.instructions = good;  // the watchdog has restarted the context
  expect_completed(p.start().wait());
}
END_TEST

START_TEST(a_run_that_takes_too_long_is_ended) {
  Program p;
  npu("watchdog_ms=100 cost=200000");
  ck_assert_int_eq(p.start().wait(), ERT_CMD_STATE_TIMEOUT);
}
END_TEST

START_TEST(timed_waits_throw_early_and_polling_works) {
  npu("completion=syncobj");
  Program p;
  npu("cost=200000");
  xrt::run run = p.start();
  error_of([&] { run.wait(std::chrono::milliseconds(20)); });  // XRT ignores what the timeline wait returns
  while (run.state() < ERT_CMD_STATE_COMPLETED) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  expect_completed(run.state());
  expect_completed(run.wait());
}
END_TEST

START_TEST(wait_command_completion_times_out_as_documented) {
  npu("completion=wait");
  Program p;
  npu("cost=100000");
  xrt::run run = p.start();
  ck_assert_int_eq(run.wait(std::chrono::milliseconds(20)), ERT_CMD_STATE_TIMEOUT);
  ck_assert_int_lt(run.state(), ERT_CMD_STATE_COMPLETED);
  expect_completed(run.wait());
  ck_assert(p.holds(p.c, 7));
}
END_TEST

// ---- Removal

START_TEST(a_vanished_device_fails_everything_with_enodev) {
  Program p;
  npu("fault=hang@0");
  xrt::run run = p.start();
  std::thread remover([] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    control("unplug");
  });
  ck_assert_int_eq(run.wait(), ERT_CMD_STATE_ABORT);
  remover.join();
  ck_assert_int_eq(system_error_of([&] { p.start(); }), ENODEV);
  ck_assert_int_eq(system_error_of([&] { p.make(1); }), ENODEV);
  ck_assert_int_eq(system_error_of([&] { p.a.sync(kToDevice); }), ENODEV);
  error_of([&] { xrt::hw_context(p.device, p.xclbin.get_uuid()); });
}
END_TEST

START_TEST(removal_ends_commands_that_nobody_waits_for) {
  npu("completion=syncobj");  // with the wait ioctl, XRT ends the program
  Program p;
  npu("watchdog_ms=0 fault=hang@0");
  xrt::run hung = p.start(), queued = p.start();
  npu("unplug");
  ck_assert_int_eq(hung.wait(), ERT_CMD_STATE_ABORT);
  ck_assert_int_eq(queued.wait(), ERT_CMD_STATE_ABORT);
}
END_TEST

START_TEST(a_command_can_take_the_device_with_it) {
  Program p;
  npu("fault=unplug@1");
  expect_completed(p.start().wait());
  ck_assert_int_eq(p.start().wait(), ERT_CMD_STATE_ABORT);
}
END_TEST

START_TEST(a_device_that_is_back_works_when_opened_anew) {
  {
    Program p;
    expect_completed(p.start().wait());
    npu("unplug");
    npu("replug");
    ck_assert_int_eq(system_error_of([&] { p.start(); }), ENODEV);
  }
  Program p;
  expect_completed(p.start().wait());
  ck_assert(p.holds(p.c, 7));
}
END_TEST

START_TEST(a_device_can_come_back_by_itself) {
  npu("replug_ms=1000 unplug");
  error_of([] { xrt::device device(0); });
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));
  // After an open that failed, XRT looks for the device's properties at a wrong place.
  error_of([] { xrt::device(0).get_info<xrt::info::device::name>(); });
  Program p;
  expect_completed(p.start().wait());
}
END_TEST

START_TEST(a_node_without_permission_cannot_be_opened) {
  npu("deny=1");
  error_of([] { xrt::device device(0); });
}
END_TEST

START_TEST(a_small_lock_limit_shows_at_the_first_open) {
  npu("memlock=1");
  error_of([] { xrt::device device(0); });
}
END_TEST

// ---- Variants of the driver

START_TEST(user_addresses_work_like_iovas) {
  npu("addresses=user");
  Program p;
  ck_assert_uint_eq(p.a.address(), reinterpret_cast<uint64_t>(p.a.map<char*>()));
  for (int i = 0; i < 20; ++i) {
    xrt::bo result = p.make(0);  // reuses the place of the one before
    expect_completed(p.start(p.a, p.b, result).wait());
    ck_assert(p.holds(result, 7));
  }
}
END_TEST

START_TEST(words_that_are_not_understood_are_refused) {
  for (const char* words :
       {"", "nonsense", "mode=quick", "cost=1,x", "fault=hang", "fault=melt@1", "fault=hang%0", "slots=-1"}) {
    ck_assert_int_eq(control(words), -1);
  }
}
END_TEST

#if XRT_SMI
START_TEST(the_real_xrt_smi_reports_the_device) {
  const std::string command = "EMULATED_NPU= LD_PRELOAD=" + std::string(getenv("EMULATED_NPU_LIBRARY")) +
                              " HOME=/tmp xrt-smi examine 2>&1";
  FILE* const pipe = popen(command.c_str(), "r");
  std::string output;
  char line[256];
  while (fgets(line, sizeof line, pipe)) output += line;
  ck_assert_msg(pclose(pipe) == 0, "%s", output.c_str());
  ck_assert_msg(output.find("NPU Strix Halo") != std::string::npos, "%s", output.c_str());
}
END_TEST
#endif

}  // namespace
}  // namespace emulated_npu

int main(int argc, char** argv) {
  using namespace emulated_npu;
  return run_cases(argc, argv, {
      {"failures",
       {failed_runs_say_how_and_the_next_one_works, a_failed_run_cannot_be_used_again, faults_can_repeat,
        a_skipped_command_completes_with_nothing_done, the_watchdog_ends_a_hang_and_the_queue_goes_on,
        the_watchdog_leaves_a_report, an_abort_waits_behind_the_command_it_is_to_end,
        the_watchdog_waits_two_seconds_by_default, a_stream_that_waits_for_ever_is_a_hang,
        a_run_that_takes_too_long_is_ended, timed_waits_throw_early_and_polling_works,
        wait_command_completion_times_out_as_documented}},
      {"removal",
       {a_vanished_device_fails_everything_with_enodev, removal_ends_commands_that_nobody_waits_for,
        a_command_can_take_the_device_with_it, a_device_that_is_back_works_when_opened_anew,
        a_device_can_come_back_by_itself, a_node_without_permission_cannot_be_opened,
        a_small_lock_limit_shows_at_the_first_open}},
      {"settings",
       {
#if XRT_SMI
        the_real_xrt_smi_reports_the_device,
#endif
        user_addresses_work_like_iovas, words_that_are_not_understood_are_refused}},
  });
}
