// Conformance of the emulated NPU's driver, through the real XRT: what mlir-aie's host programs do, what can go wrong with
// a device, and the facts about XRT 2.25 that npu/ relies on.
//
// The program is linked with the emulated NPU. Check runs each test in a process of its own, so each opens the device anew
// and may lose it. Arguments of the program: the directory of the xclbins and ELFs.
#include <unistd.h>
#include <xrt/experimental/xrt_elf.h>
#include <xrt/experimental/xrt_ext.h>
#include <xrt/experimental/xrt_kernel.h>
#include <xrt/experimental/xrt_module.h>
#include <xrt/experimental/xrt_xclbin.h>
#include <xrt/xrt_bo.h>
#include <xrt/xrt_device.h>
#include <xrt/xrt_hw_context.h>
#include <xrt/xrt_kernel.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "tests/device/control.h"
#include "tests/device/products.h"

#include <check.h>  // last: it defines a macro called fail

// xrt-smi has no sanitizer's run time, which would have to be preloaded with a library that was built for one.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define XRT_SMI 0
#else
#define XRT_SMI 1
#endif

namespace emulated_npu {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kToDevice = XCL_BO_SYNC_BO_TO_DEVICE;
constexpr auto kFromDevice = XCL_BO_SYNC_BO_FROM_DEVICE;

// All 64 bits: XRT writes as many bytes as the argument has, and a new run may get the packet of one that failed, whose
// data the driver has overwritten.
constexpr uint64_t kOpcode = whisperxdna2::overlay::kRunTransaction;

std::string directory;

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// The value of a counter, or the success of a setting.
long npu(const std::string& words) {
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

void expect_completed(ert_cmd_state state) {
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

// ---- Device and buffers

START_TEST(device_is_found_with_its_name_and_place) {
  xrt::device device(0);
  ck_assert(device.get_info<xrt::info::device::name>() == "NPU Strix Halo");
  ck_assert(device.get_info<xrt::info::device::bdf>() == "0000:c5:00.1");
}
END_TEST

START_TEST(device_is_opened_once_per_process) {
  xrt::device first(0);
  const long before = npu("ioctls");
  xrt::device second(0);
  ck_assert_int_eq(npu("ioctls"), before);
}
END_TEST

START_TEST(buffers_know_their_groups_and_addresses) {
  Program p;
  ck_assert_int_eq(p.kernel.group_id(1), 65537);
  ck_assert_int_eq(p.kernel.group_id(3), 65536);
  ck_assert_uint_ge(p.instructions.address(), 0x4000000);
  ck_assert_uint_lt(p.instructions.address(), 0x4000000 + (512u << 20));
  ck_assert_uint_ne(p.a.address(), p.b.address());
}
END_TEST

START_TEST(sub_buffers_are_ranges_of_their_parent) {
  Program p;
  xrt::bo parent(p.device, 65536, XRT_BO_FLAGS_HOST_ONLY, p.kernel.group_id(3));
  auto* const values = parent.map<int32_t*>();
  for (int i = 0; i < 16384; ++i) values[i] = i;
  xrt::bo left(parent, 4096, 4096), right(parent, 4096, 8192), result(parent, 4096, 16384), inner(left, 1024, 1024);
  ck_assert_uint_eq(left.address(), parent.address() + 4096);
  ck_assert_uint_eq(inner.address(), parent.address() + 1024);  // XRT 2.25 forgets the middle one's offset
  for (xrt::bo* bo : {&left, &right, &result}) bo->sync(kToDevice);
  expect_completed(p.start(left, right, result).wait());
  result.sync(kFromDevice);
  for (int i = 0; i < 1024; ++i) ck_assert_int_eq(values[4096 + i], 1024 + i + 2048 + i);
}
END_TEST

START_TEST(user_memory_can_be_a_buffer) {
  Program p;
  void* const memory = aligned_alloc(4096, 4096);
  {
    xrt::bo bo(p.device, memory, 4096, XRT_BO_FLAGS_HOST_ONLY, p.kernel.group_id(3));
    expect_completed(p.start(p.a, p.b, bo).wait());
    bo.sync(kFromDevice);
    ck_assert_int_eq(static_cast<int32_t*>(memory)[5], 5 * 7);
  }
  free(memory);
}
END_TEST

START_TEST(extension_buffers_work_alike) {
  Program p;
  xrt::bo left = xrt::ext::bo(p.context, 4096), right = xrt::ext::bo(p.device, 4096), result = xrt::ext::bo(p.context, 4096);
  p.fill(left, 1);
  p.fill(right, 2);
  expect_completed(p.start(left, right, result).wait());
  ck_assert(p.holds(result, 3));
}
END_TEST

START_TEST(heap_grows_by_chunks_up_to_its_end) {
  Program p;
  std::vector<xrt::bo> buffers;
  for (int i = 0; i < 10; ++i) buffers.emplace_back(p.device, 8u << 20, XCL_BO_FLAGS_CACHEABLE, p.kernel.group_id(1));
  ck_assert_uint_ge(buffers.back().address(), 0x4000000 + (64u << 20));
  memset(buffers.back().map<char*>(), 1, 8u << 20);
  buffers.back().sync(kToDevice);
  ck_assert_int_ne(system_error_of([&] { xrt::bo(p.device, 600u << 20, XCL_BO_FLAGS_CACHEABLE, p.kernel.group_id(1)); }), 0);
}
END_TEST

START_TEST(wrong_kinds_of_buffers_are_refused) {
  Program p;
  for (const auto flag : {xrt::bo::flags::normal, xrt::bo::flags::device_only, xrt::bo::flags::p2p, xrt::bo::flags::svm}) {
    error_of([&] { xrt::bo(p.device, 8192, flag, p.kernel.group_id(3)); });
  }
  xrt::bo data = p.make(1);
  error_of([&] { p.kernel(kOpcode, data, 4, p.a, p.b, p.c); });  // instructions outside of the heap
}
END_TEST

START_TEST(buffers_are_given_back) {
  Program p;
  const long before = npu("bos");
  {
    const xrt::bo bo = p.make(1);
    ck_assert_int_eq(npu("bos"), before + 1);
  }
  ck_assert_int_eq(npu("bos"), before);
}
END_TEST

START_TEST(failing_allocation_is_an_error_not_a_crash) {
  Program p;
  npu("fail_bo=0");
  ck_assert_int_eq(system_error_of([&] { p.make(1); }), ENOMEM);
  p.make(1);
}
END_TEST

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
      ck_assert_int_eq(npu("executions") - executions, (length + 23) / 24);
      ck_assert_int_eq(npu("commands") - commands, length);
    }
    for (xrt::bo& result : results) ck_assert(p.holds(result, 7));
  }
}
END_TEST

START_TEST(run_list_reports_the_run_that_failed) {
  Program p;
  for (const char* fault : {"fault=error@2", "fault=timeout@2"}) {
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
    ck_assert_int_eq(runs[4].state(), ERT_CMD_STATE_ABORT);
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
}
END_TEST

// ---- The two sights of a buffer

START_TEST(input_changed_without_sync_stays_unseen) {
  Program p;
  for (uint32_t i = 0; i < p.n; ++i) p.a.map<int32_t*>()[i] = static_cast<int32_t>(i) * 100;
  expect_completed(p.start().wait());
  ck_assert(p.holds(p.c, 7));
  p.a.sync(kToDevice);
  expect_completed(p.start().wait());
  ck_assert(p.holds(p.c, 104));
}
END_TEST

START_TEST(output_read_without_sync_is_old) {
  Program p;
  expect_completed(p.start().wait());
  ck_assert(p.holds_unsynced(p.c, 0));
  ck_assert(p.holds(p.c, 7));
}
END_TEST

START_TEST(instructions_without_sync_fail) {
  Program p;
  p.instructions = p.make_instructions(elementwise_stream(p.n).words(), false);
  ck_assert_int_eq(p.start().wait(), ERT_CMD_STATE_ERROR);
}
END_TEST

START_TEST(partial_sync_moves_exactly_its_lines) {
  Program p;
  auto* const values = p.a.map<int32_t*>();
  for (uint32_t i = 0; i < p.n; ++i) values[i] = static_cast<int32_t>(i) * 10;
  p.a.sync(kToDevice, 2048, 0);
  expect_completed(p.start().wait());
  p.c.sync(kFromDevice);
  ck_assert_int_eq(p.c.map<int32_t*>()[511], 511 * 14);
  ck_assert_int_eq(p.c.map<int32_t*>()[512], 512 * 7);
}
END_TEST

START_TEST(clean_lines_are_not_written_back) {
  Program p;
  expect_completed(p.start().wait());  // the device wrote c
  p.c.map<int32_t*>()[0] = 77;         // the host has one line dirty
  p.c.sync(kToDevice);
  p.c.sync(kFromDevice);
  ck_assert_int_eq(p.c.map<int32_t*>()[0], 77);
  ck_assert_int_eq(p.c.map<int32_t*>()[16], 16 * 7);
}
END_TEST

START_TEST(dirty_output_overwrites_the_result) {
  Program p;
  p.c.map<int32_t*>()[20] = -1;  // never flushed before the run
  expect_completed(p.start().wait());
  p.c.sync(kFromDevice);
  ck_assert_int_eq(p.c.map<int32_t*>()[20], -1);
  ck_assert_int_eq(p.c.map<int32_t*>()[32], 32 * 7);
}
END_TEST

START_TEST(direction_view_copies_as_asked) {
  npu("views=direction");
  Program p;
  expect_completed(p.start().wait());
  p.c.map<int32_t*>()[0] = 77;
  p.c.sync(kFromDevice);
  ck_assert_int_eq(p.c.map<int32_t*>()[0], 0);
  ck_assert_int_eq(p.c.map<int32_t*>()[16], 16 * 7);
}
END_TEST

START_TEST(one_view_needs_no_sync) {
  npu("views=one");
  Program p;
  expect_completed(p.start().wait());
  ck_assert(p.holds_unsynced(p.c, 7));
}
END_TEST

START_TEST(a_sync_can_be_dropped_by_number) {
  Program p;
  npu("drop_sync=1");
  p.b.sync(kToDevice);
  p.fill(p.a, 100);  // the second sync from now
  expect_completed(p.start().wait());
  ck_assert(p.holds(p.c, 7));
}
END_TEST

// ---- What commands may touch

START_TEST(addresses_outside_of_the_commands_buffers_fail) {
  Program p;
  xrt::bo small(p.device, 2048, XRT_BO_FLAGS_HOST_ONLY, p.kernel.group_id(3));
  ck_assert_int_eq(p.start(p.a, small, p.c).wait(), ERT_CMD_STATE_ERROR);
  ck_assert_ptr_nonnull(strstr(last_message(), "is not inside one buffer of the command"));
}
END_TEST

START_TEST(instruction_counts_are_checked) {
  Program p;
  ck_assert_int_eq(p.kernel(kOpcode, p.instructions, 0, p.a, p.b, p.c).wait(), ERT_CMD_STATE_ERROR);
  ck_assert_ptr_nonnull(strstr(last_message(), "the instruction count is 0"));
  ck_assert_int_eq(p.kernel(kOpcode, p.instructions, p.words() + 1, p.a, p.b, p.c).wait(), ERT_CMD_STATE_ERROR);
  ck_assert_ptr_nonnull(strstr(last_message(), "longer than their BO"));
  ck_assert_int_eq(p.kernel(kOpcode, p.instructions, p.words() - 1, p.a, p.b, p.c).wait(), ERT_CMD_STATE_ERROR);
  ck_assert_ptr_nonnull(strstr(last_message(), "inside the"));
}
END_TEST

START_TEST(opcode_must_be_that_of_a_transaction) {
  Program p;
  ck_assert_int_eq(p.kernel(uint64_t{2}, p.instructions, p.words(), p.a, p.b, p.c).wait(), ERT_CMD_STATE_ERROR);
}
END_TEST

START_TEST(a_broken_stream_fails_with_its_reason) {
  Program p;
  StreamWriter stream = elementwise_stream(p.n);
  stream.write(0x300000, 1);
  p.instructions = p.make_instructions(stream.words());
  ck_assert_int_eq(p.start().wait(), ERT_CMD_STATE_ERROR);
  ck_assert_ptr_nonnull(strstr(last_message(), "not of a task queue"));
  ck_assert_int_eq(npu("failures"), 1);
}
END_TEST

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
  for (const char* words : {"", "nonsense", "mode=quick", "cost=1,x", "fault=hang", "fault=melt@1", "fault=hang%0", "slots=-1"}) {
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

const std::pair<const char*, std::vector<const TTest*>> kCases[] = {
    {"buffers",
     {device_is_found_with_its_name_and_place, device_is_opened_once_per_process, buffers_know_their_groups_and_addresses,
      sub_buffers_are_ranges_of_their_parent, user_memory_can_be_a_buffer, extension_buffers_work_alike,
      heap_grows_by_chunks_up_to_its_end, wrong_kinds_of_buffers_are_refused, buffers_are_given_back,
      failing_allocation_is_an_error_not_a_crash}},
    {"runs",
     {a_run_computes, the_configuration_decides_what_runs, both_stream_versions_run,
      kept_runs_start_again_with_other_arguments, runs_complete_in_order_and_can_be_awaited_in_any,
      a_run_in_flight_cannot_start_again, a_fifth_submission_waits_for_a_slot, contexts_share_the_array_by_time,
      threads_with_a_context_each, contexts_have_a_limit, unknown_configurations_are_refused,
      a_product_of_the_gemm_overlay_runs}},
    {"run lists",
     {run_lists_go_out_in_chains_of_24, run_list_reports_the_run_that_failed, chained_commands_cost_their_own_price}},
    {"ELF", {control_code_in_an_elf_runs_with_an_xclbin, a_full_elf_runs_without_an_xclbin}},
    {"views",
     {input_changed_without_sync_stays_unseen, output_read_without_sync_is_old, instructions_without_sync_fail,
      partial_sync_moves_exactly_its_lines, clean_lines_are_not_written_back, dirty_output_overwrites_the_result,
      direction_view_copies_as_asked, one_view_needs_no_sync, a_sync_can_be_dropped_by_number}},
    {"rules",
     {addresses_outside_of_the_commands_buffers_fail, instruction_counts_are_checked, opcode_must_be_that_of_a_transaction,
      a_broken_stream_fails_with_its_reason}},
    {"failures",
     {failed_runs_say_how_and_the_next_one_works, a_failed_run_cannot_be_used_again, faults_can_repeat,
      a_skipped_command_completes_with_nothing_done, the_watchdog_ends_a_hang_and_the_queue_goes_on,
      the_watchdog_waits_two_seconds_by_default, a_stream_that_waits_for_ever_is_a_hang,
      a_run_that_takes_too_long_is_ended, timed_waits_throw_early_and_polling_works,
      wait_command_completion_times_out_as_documented}},
    {"time", {commands_take_the_time_of_the_cost_model, the_trace_has_a_line_per_command, an_idle_device_sleeps_and_wakes_at_a_cost}},
    {"removal",
     {a_vanished_device_fails_everything_with_enodev, removal_ends_commands_that_nobody_waits_for,
      a_command_can_take_the_device_with_it,
      a_device_that_is_back_works_when_opened_anew, a_device_can_come_back_by_itself,
      a_node_without_permission_cannot_be_opened, a_small_lock_limit_shows_at_the_first_open}},
    {"variants",
     {
#if XRT_SMI
         the_real_xrt_smi_reports_the_device,
#endif
         user_addresses_work_like_iovas, words_that_are_not_understood_are_refused}},
};

}  // namespace
}  // namespace emulated_npu

int main(int argc, char** argv) {
  using namespace emulated_npu;
  if (argc != 2) return 2;
  directory = argv[1];
  Suite* const suite = suite_create("device");
  for (const auto& [name, tests] : kCases) {
    TCase* const tcase = tcase_create(name);
    for (const TTest* test : tests) tcase_add_test(tcase, test);
    suite_add_tcase(suite, tcase);
  }
  SRunner* const runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
