// Buffers of the emulated NPU: kinds, addresses, the two sights of each, and what a command may touch.
//
// The program is linked with the emulated NPU. Check runs each test in a process of its own, so each opens the device
// anew and may lose it. Argument: the directory of the xclbins and ELFs.
#include <xrt/experimental/xrt_ext.h>

#include <cstdlib>

#include "tests/device/program.h"

namespace emulated_npu {
namespace {

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
  ck_assert_ptr_eq(left.map<int32_t*>(), values + 1024);
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
  xrt::bo left = xrt::ext::bo(p.context, 4096), right = xrt::ext::bo(p.device, 4096),
          result = xrt::ext::bo(p.context, 4096);
  p.fill(left, 1);
  p.fill(right, 2);
  expect_completed(p.start(left, right, result).wait());
  ck_assert(p.holds(result, 3));
}
END_TEST

START_TEST(buffers_can_be_written_and_read_by_copy) {
  Program p;
  const std::vector<int32_t> fives(p.n, 5);
  std::vector<int32_t> sums(p.n);
  for (xrt::bo* bo : {&p.a, &p.b}) {
    bo->write(fives.data());
    bo->sync(kToDevice);
  }
  expect_completed(p.start().wait());
  p.c.sync(kFromDevice);
  p.c.read(sums.data());
  ck_assert(sums == std::vector<int32_t>(p.n, 10));
}
END_TEST

START_TEST(buffers_cannot_be_exported) {
  Program p;
  error_of([&] { p.a.export_buffer(); });
}
END_TEST

START_TEST(heap_grows_by_chunks_up_to_its_end) {
  Program p;
  std::vector<xrt::bo> buffers;
  for (int i = 0; i < 10; ++i) buffers.emplace_back(p.device, 8u << 20, XCL_BO_FLAGS_CACHEABLE, p.kernel.group_id(1));
  ck_assert_uint_ge(buffers.back().address(), 0x4000000 + (64u << 20));
  memset(buffers.back().map<char*>(), 1, 8u << 20);
  buffers.back().sync(kToDevice);
  ck_assert_int_ne(
      system_error_of([&] { xrt::bo(p.device, 600u << 20, XCL_BO_FLAGS_CACHEABLE, p.kernel.group_id(1)); }), 0);
}
END_TEST

START_TEST(wrong_kinds_of_buffers_are_refused) {
  Program p;
  for (const auto flag :
       {xrt::bo::flags::normal, xrt::bo::flags::device_only, xrt::bo::flags::p2p, xrt::bo::flags::svm}) {
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
  npu("views=line");
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
  npu("views=line");
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

}  // namespace
}  // namespace emulated_npu

int main(int argc, char** argv) {
  using namespace emulated_npu;
  return run_cases(argc, argv, {
      {"buffers",
       {device_is_found_with_its_name_and_place, device_is_opened_once_per_process,
        buffers_know_their_groups_and_addresses, sub_buffers_are_ranges_of_their_parent,
        user_memory_can_be_a_buffer, extension_buffers_work_alike, buffers_can_be_written_and_read_by_copy,
        buffers_cannot_be_exported, heap_grows_by_chunks_up_to_its_end, wrong_kinds_of_buffers_are_refused,
        buffers_are_given_back, failing_allocation_is_an_error_not_a_crash}},
      {"sights",
       {input_changed_without_sync_stays_unseen, output_read_without_sync_is_old, instructions_without_sync_fail,
        partial_sync_moves_exactly_its_lines, clean_lines_are_not_written_back, dirty_output_overwrites_the_result,
        direction_view_copies_as_asked, one_view_needs_no_sync, a_sync_can_be_dropped_by_number}},
      {"rules",
       {addresses_outside_of_the_commands_buffers_fail, instruction_counts_are_checked,
        opcode_must_be_that_of_a_transaction, a_broken_stream_fails_with_its_reason}},
  });
}
