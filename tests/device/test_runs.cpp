// Runs, run lists and ELF flows on the emulated NPU, and their times.
//
// The program is linked with the emulated NPU. Check runs each test in a process of its own, so each opens the device
// anew and may lose it. Argument: the directory of the xclbins and ELFs.
#include <unistd.h>
#include <xrt/experimental/xrt_elf.h>
#include <xrt/experimental/xrt_ext.h>
#include <xrt/experimental/xrt_module.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/device/program.h"

namespace emulated_npu {
namespace {

// ---- Runs

START_TEST(a_run_computes) {
  Program p;
  expect_completed(p.start().wait());
  ck_assert(p.holds(p.c, 7));
}
END_TEST

START_TEST(the_configuration_decides_what_runs) {
  Program p("vmul");
  expect_completed(p.start().wait());
  p.c.sync(kFromDevice);
  ck_assert_int_eq(p.c.map<int32_t*>()[10], 30 * 40);
}
END_TEST

START_TEST(both_stream_versions_run) {
  Program p;
  p.instructions = p.make_instructions(elementwise_stream(p.n, true).words());
  expect_completed(p.start().wait());
  ck_assert(p.holds(p.c, 7));
}
END_TEST

START_TEST(kept_runs_start_again_with_other_arguments) {
  Program p;
  xrt::run run = p.prepare();
  for (int i = 0; i < 5; ++i) {
    run.start();
    expect_completed(run.wait());
  }
  ck_assert(p.holds(p.c, 7));
  xrt::bo other = p.make(0);
  run.set_arg(4, p.a);
  run.set_arg(5, other);
  run.start();
  run.wait2();
  expect_completed(run.state());
  ck_assert(p.holds(other, 6));
}
END_TEST

START_TEST(runs_complete_in_order_and_can_be_awaited_in_any) {
  Program p;
  npu("cost=20000");
  xrt::bo other = p.make(0);
  const auto start = Clock::now();
  xrt::run first = p.start(), second = p.start(p.b, p.b, other);
  ck_assert_int_lt(second.state(), ERT_CMD_STATE_COMPLETED);
  expect_completed(second.wait());
  ck_assert_double_ge(milliseconds_since(start), 40);
  ck_assert_int_eq(first.state(), ERT_CMD_STATE_COMPLETED);
  ck_assert(p.holds(p.c, 7));
  ck_assert(p.holds(other, 8));
}
END_TEST

START_TEST(a_run_in_flight_cannot_start_again) {
  Program p;
  npu("cost=20000");
  xrt::run run = p.start();
  ck_assert_ptr_nonnull(strstr(error_of([&] { run.start(); }).c_str(), "can't launch"));
  expect_completed(run.wait());
}
END_TEST

START_TEST(a_fifth_submission_waits_for_a_slot) {
  Program p;
  npu("cost=50000");
  std::vector<xrt::run> runs;
  const auto start = Clock::now();
  for (int i = 0; i < 4; ++i) runs.push_back(p.start());
  ck_assert_double_lt(milliseconds_since(start), 45);
  runs.push_back(p.start());
  ck_assert_double_ge(milliseconds_since(start), 49);
  for (xrt::run& run : runs) expect_completed(run.wait());
}
END_TEST

START_TEST(more_runs_than_slots_complete_in_order) {
  Program p;
  std::vector<xrt::run> runs;
  for (int i = 0; i < 8; ++i) runs.push_back(p.start());
  runs.back().wait();
  for (xrt::run& run : runs) expect_completed(run.state());
}
END_TEST

START_TEST(callbacks_are_refused) {
  Program p;
  xrt::run run = p.prepare();
  const std::string what = error_of([&] {
    run.add_callback(ERT_CMD_STATE_COMPLETED, [](const void*, ert_cmd_state, void*) {}, nullptr);
    run.start();
  });
  ck_assert_msg(what.find("not supported") != std::string::npos, "%s", what.c_str());
}
END_TEST

START_TEST(contexts_share_the_array_by_time) {
  Program p;
  npu("cost=30000");
  xrt::hw_context context(p.device, p.xclbin.get_uuid());
  xrt::kernel kernel(context, "MLIR_AIE");
  xrt::bo other = p.make(0);
  const auto start = Clock::now();
  xrt::run first = p.start();
  xrt::run second = kernel(kOpcode, p.instructions, p.words(), p.b, p.b, other);
  expect_completed(second.wait());
  expect_completed(first.wait());
  ck_assert_double_ge(milliseconds_since(start), 59);
  ck_assert(p.holds(other, 8));
}
END_TEST

START_TEST(threads_with_a_context_each) {
  Program p;
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&, t] {
      xrt::hw_context context(p.device, p.xclbin.get_uuid());
      xrt::kernel kernel(context, "MLIR_AIE");
      for (int round = 0; round < 50; ++round) {
        xrt::bo a(p.device, 4096, XRT_BO_FLAGS_HOST_ONLY, kernel.group_id(3));
        xrt::bo b(p.device, 4096, XRT_BO_FLAGS_HOST_ONLY, kernel.group_id(3));
        xrt::bo c(p.device, 4096, XRT_BO_FLAGS_HOST_ONLY, kernel.group_id(3));
        p.fill(a, t);
        p.fill(b, round);
        kernel(kOpcode, p.instructions, p.words(), a, b, c).wait();
        wrong += !p.holds(c, t + round);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ck_assert_int_eq(wrong, 0);
}
END_TEST

START_TEST(contexts_have_a_limit) {
  Program p;
  npu("contexts=2");
  xrt::hw_context second(p.device, p.xclbin.get_uuid());
  error_of([&] { xrt::hw_context(p.device, p.xclbin.get_uuid()); });
  second = {};
  xrt::hw_context third(p.device, p.xclbin.get_uuid());
}
END_TEST

START_TEST(unknown_configurations_are_refused) {
  error_of([] { Program p("unknown"); });
  ck_assert_ptr_nonnull(strstr(last_message(), "knows no overlay \"unknown\""));
}
END_TEST

START_TEST(a_product_of_the_gemm_overlay_runs) {
  npu("mode=fast");
  const Product product = shaped(512, 512, 512, OutputMode::kInt16, false, 1);
  const std::vector<uint8_t> expected = product.expected();
  Program p("gemm8");
  p.instructions = p.make_instructions(gemm8_stream(kOut));
  const auto hold = [&](const std::vector<uint8_t>& bytes) {
    xrt::bo bo(p.device, bytes.size(), XRT_BO_FLAGS_HOST_ONLY, p.kernel.group_id(3));
    memcpy(bo.map<void*>(), bytes.data(), bytes.size());
    bo.sync(kToDevice);
    return bo;
  };
  xrt::bo a = hold(product.packed_a()), w = hold(product.packed_w()), c = hold(std::vector<uint8_t>(expected.size()));
  expect_completed(p.start(a, w, c).wait());
  c.sync(kFromDevice);
  ck_assert_mem_eq(c.map<uint8_t*>(), expected.data(), expected.size());
}
END_TEST

// ---- Run lists

START_TEST(run_lists_go_out_in_chains_of_24) {
  Program p;
  for (const int length : {1, 3, 24, 25, 60}) {
    std::vector<xrt::bo> results;
    xrt::runlist list(p.context);
    for (int i = 0; i < length; ++i) {
      results.push_back(p.make(0));
      xrt::run run = p.prepare();
      run.set_arg(5, results.back());
      list.add(run);
    }
    for (int round = 0; round < 2; ++round) {
      const long executions = npu("executions"), commands = npu("commands");
      list.execute();
      list.wait();
      expect_completed(list.state());
      ck_assert_int_eq(npu("executions") - executions, (length + 23) / 24);
      ck_assert_int_eq(npu("commands") - commands, length);
    }
    for (xrt::bo& result : results) ck_assert(p.holds(result, 7));
  }
}
END_TEST

START_TEST(run_list_reports_the_run_that_failed) {
  Program p;
  const std::pair<const char*, int> cases[] = {{"fault=error@2", ERT_CMD_STATE_ERROR},
                                               {"fault=timeout@2", ERT_CMD_STATE_TIMEOUT}};
  for (const auto& [fault, state] : cases) {
    xrt::runlist list(p.context);
    std::vector<xrt::run> runs;
    for (int i = 0; i < 5; ++i) {
      runs.push_back(p.prepare());
      list.add(runs.back());
    }
    npu(fault);
    const long commands = npu("commands");
    list.execute();
    bool thrown = false;
    try {
      list.wait();
    } catch (const xrt::runlist::command_error& error) {
      thrown = true;
      ck_assert_int_ne(error.get_command_state(), ERT_CMD_STATE_COMPLETED);
    }
    ck_assert(thrown);
    ck_assert_int_eq(npu("commands") - commands, 3);
    const int states[] = {ERT_CMD_STATE_NEW, ERT_CMD_STATE_NEW, state, ERT_CMD_STATE_ABORT, ERT_CMD_STATE_ABORT};
    for (int i = 0; i < 5; ++i) ck_assert_int_eq(runs[i].state(), states[i]);
  }
}
END_TEST

START_TEST(chained_commands_cost_their_own_price) {
  Program p;
  xrt::runlist list(p.context);
  for (int i = 0; i < 5; ++i) list.add(p.prepare());
  npu("cost=20000,0,10000");
  const auto start = Clock::now();
  list.execute();
  list.wait();
  ck_assert_double_ge(milliseconds_since(start), 60);
}
END_TEST

START_TEST(timed_wait_on_a_run_list_throws_early_and_forgets_it) {
  npu("completion=syncobj");
  Program p;
  npu("cost=200000");
  xrt::runlist list(p.context);
  xrt::run run = p.prepare();
  list.add(run);
  list.execute();
  const auto start = Clock::now();
  error_of([&] { list.wait(std::chrono::milliseconds(20)); });
  list.wait();  // returns at once
  ck_assert_double_lt(milliseconds_since(start), 190);
  std::this_thread::sleep_for(std::chrono::milliseconds(250));
  ck_assert(p.holds(p.c, 7));
}
END_TEST

// ---- ELF flows

START_TEST(control_code_in_an_elf_runs_with_an_xclbin) {
  Program p;
  xrt::elf elf(directory + "/vadd.elf");
  xrt::module module(elf);
  xrt::kernel kernel = xrt::ext::kernel(p.context, module, "MLIR_AIE");
  xrt::run run(kernel);
  run.set_arg(0, kOpcode);
  run.set_arg(1, 0);
  run.set_arg(2, 0);
  run.set_arg(3, p.a);
  run.set_arg(4, p.b);
  run.set_arg(5, p.c);
  run.start();
  expect_completed(run.wait());
  ck_assert(p.holds(p.c, 7));
}
END_TEST

START_TEST(a_full_elf_runs_without_an_xclbin) {
  xrt::device device(0);
  xrt::elf elf(directory + "/full.elf");
  xrt::hw_context context(device, elf);
  xrt::kernel kernel = xrt::ext::kernel(context, "main:sequence");
  xrt::bo a = xrt::ext::bo(context, 4096), b = xrt::ext::bo(context, 4096), c = xrt::ext::bo(context, 4096);
  for (int i = 0; i < 1024; ++i) a.map<int32_t*>()[i] = i, b.map<int32_t*>()[i] = 2 * i;
  a.sync(kToDevice);
  b.sync(kToDevice);
  xrt::run run(kernel);
  run.set_arg(0, a);
  run.set_arg(1, b);
  run.set_arg(2, c);
  run.start();
  expect_completed(run.wait());
  c.sync(kFromDevice);
  for (int i = 0; i < 1024; ++i) ck_assert_int_eq(c.map<int32_t*>()[i], 3 * i);
  run.set_arg(1, a);
  run.start();
  expect_completed(run.wait());
  c.sync(kFromDevice);
  ck_assert_int_eq(c.map<int32_t*>()[10], 20);

  xrt::runlist list(context);
  std::vector<xrt::run> runs;
  for (int i = 0; i < 3; ++i) {
    runs.emplace_back(kernel);
    runs.back().set_arg(0, a);
    runs.back().set_arg(1, b);
    runs.back().set_arg(2, c);
    list.add(runs.back());
  }
  list.execute();
  list.wait();
  c.sync(kFromDevice);
  ck_assert_int_eq(c.map<int32_t*>()[10], 30);
}
END_TEST

// ---- Time

START_TEST(commands_take_the_time_of_the_cost_model) {
  Program q("vadd", 16384);
  npu("cost=10000,1000");
  const auto start = Clock::now();
  expect_completed(q.start().wait());  // 16384 operations count as 0.016 MMAC
  const double elapsed = milliseconds_since(start);
  ck_assert_double_ge(elapsed, 10.016);
  ck_assert_int_ge(npu("busy_us"), 10016);
  ck_assert_int_eq(npu("kmac"), 16);
}
END_TEST

START_TEST(the_trace_has_a_line_per_command) {
  const std::string path = std::filesystem::temp_directory_path() / ("trace." + std::to_string(getpid()));
  Program p;
  npu("cost=1000 trace=" + path);
  for (int i = 0; i < 3; ++i) expect_completed(p.start().wait());
  std::ifstream in(path);
  double number, submitted, start, end, mmac, last_end = 0;
  std::string buffer;
  int lines = 0;
  for (; in >> number >> submitted >> start >> end >> mmac >> buffer; ++lines) {
    ck_assert_int_eq(static_cast<int>(number), lines);
    ck_assert_double_ge(start, submitted);
    ck_assert_uint_eq(std::stoull(buffer, nullptr, 16), p.a.address());
    ck_assert_double_ge(end - start, 1000);
    ck_assert_double_ge(start, last_end);
    last_end = end;
  }
  ck_assert_int_eq(lines, 3);
  std::filesystem::remove(path);
}
END_TEST

START_TEST(an_idle_device_sleeps_and_wakes_at_a_cost) {
  Program p;
  npu("suspend_ms=100 wake_us=50000");
  expect_completed(p.start().wait());
  const long wakes = npu("wakes");
  std::this_thread::sleep_for(std::chrono::milliseconds(150));
  const auto start = Clock::now();
  expect_completed(p.start().wait());
  ck_assert_double_ge(milliseconds_since(start), 50);
  ck_assert_int_eq(npu("wakes"), wakes + 1);
  npu("sleep");
  expect_completed(p.start().wait());
  ck_assert_int_eq(npu("wakes"), wakes + 2);
  ck_assert(p.holds(p.c, 7));
}
END_TEST

}  // namespace
}  // namespace emulated_npu

int main(int argc, char** argv) {
  using namespace emulated_npu;
  return run_cases(argc, argv, {
      {"runs",
       {a_run_computes, the_configuration_decides_what_runs, both_stream_versions_run,
        kept_runs_start_again_with_other_arguments, runs_complete_in_order_and_can_be_awaited_in_any,
        a_run_in_flight_cannot_start_again, a_fifth_submission_waits_for_a_slot,
        more_runs_than_slots_complete_in_order, callbacks_are_refused, contexts_share_the_array_by_time,
        threads_with_a_context_each, contexts_have_a_limit, unknown_configurations_are_refused,
        a_product_of_the_gemm_overlay_runs}},
      {"run lists",
       {run_lists_go_out_in_chains_of_24, run_list_reports_the_run_that_failed,
        chained_commands_cost_their_own_price, timed_wait_on_a_run_list_throws_early_and_forgets_it}},
      {"ELF",
       {control_code_in_an_elf_runs_with_an_xclbin, a_full_elf_runs_without_an_xclbin}},
      {"time",
       {commands_take_the_time_of_the_cost_model, the_trace_has_a_line_per_command,
        an_idle_device_sleeps_and_wakes_at_a_cost}},
  });
}
