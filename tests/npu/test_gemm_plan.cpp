// Plans: their streams against the overlay's worked examples and limits. What they compute is in test_products.cpp.
#include <check.h>

#include <algorithm>
#include <string>
#include <vector>

#include "npu/gemm_plan.h"
#include "whisper/error.h"

using namespace whisperxdna2;
using namespace whisperxdna2::npu;

namespace {

using Words = std::vector<uint32_t>;

GemmPart everything(const overlay::Variant& v, const GemmShape& s) {
  return {0, s.m / overlay::kRowBlock, 0, s.n / v.n_block};
}

std::vector<Operation> operations_of(const Dispatch& d) { return decode(d.words.data(), d.words.size()); }

// What a stream starts on one channel, in order.
struct Started {
  Words descriptor;
  uint64_t offset;
  uint32_t argument, entry;
};
std::vector<Started> started(const std::vector<Operation>& operations, const overlay::Channel& channel) {
  std::vector<Started> tasks;
  for (size_t i = 2; i < operations.size(); ++i) {
    if (operations[i].kind == Operation::Kind::kWrite && operations[i].address == overlay::queue_address(channel)) {
      tasks.push_back(
          {operations[i - 2].payload, operations[i - 1].offset, operations[i - 1].argument, operations[i].value});
    }
  }
  return tasks;
}

void assert_task(const Started& task, const Words& six_words, uint64_t offset, uint32_t repeat) {
  const Words words{task.descriptor[0], task.descriptor[3], task.descriptor[4],
                    task.descriptor[5], task.descriptor[6], task.descriptor[7]};
  for (size_t i = 0; i < 6; ++i) {
    ck_assert_msg(words[i] == six_words[i], "word %zu is %08x, not %08x", i, words[i], six_words[i]);
  }
  ck_assert_uint_eq(task.offset, offset);
  ck_assert_uint_eq(task.entry >> 16 & 0xff, repeat);
}

const LayerPlan& base_plan() {
  static const LayerPlan plan = plan_layer(overlay::kGemm8, 512, 2048, 512, PlanKind::kWhole);
  return plan;
}

}  // namespace

START_TEST(out_projection_has_the_worked_descriptors) {
  const auto operations = operations_of(base_plan().out.dispatches.at(0));
  const uint64_t w = base_plan().out.weights_at;
  for (int r = 0; r < 4; ++r) {
    const auto a = started(operations, overlay::a_channel(overlay::kGemm8, r));
    ck_assert_uint_eq(a.size(), 1);
    assert_task(a[0], {0x2000, 0x02000000, 0xC400007F, 0x0200001F, 0x00107FFF, 0x02000000}, r * 32768u, 1);
  }
  for (int c = 0; c < 8; ++c) {
    const auto b = started(operations, overlay::b_channel(overlay::kGemm8, c));
    assert_task(b.at(0), {0x2200, 0, 0xC0000000, 0x02000000, 0, 0x02000000}, w + c * 34816u, 1);
    const auto tile = started(operations, overlay::c_channel(overlay::kGemm8, c));
    assert_task(tile.at(0), {0x2000, 0x01000000, 0xD00000FF, 0x0200007F, 0x0010FFFF, 0x02000000}, c * 64u, 1);
  }
}
END_TEST

START_TEST(fc1_has_the_worked_descriptors) {
  const auto operations = operations_of(base_plan().fc1.dispatches.at(0));
  const uint64_t w = base_plan().fc1.weights_at;
  const auto a = started(operations, overlay::a_channel(overlay::kGemm8, 3));
  const auto b = started(operations, overlay::b_channel(overlay::kGemm8, 5));
  const auto c = started(operations, overlay::c_channel(overlay::kGemm8, 5));
  ck_assert_uint_eq(a.size(), 2);
  ck_assert_uint_eq(b.size(), 1);
  ck_assert_uint_eq(c.size(), 2);
  assert_task(b[0], {0x8800, 0, 0xC0000000, 0x02000000, 0, 0x02000000}, w + 5 * 139264u, 1);
  for (unsigned mb = 0; mb < 2; ++mb) {
    assert_task(a[mb], {0x2000, 0x02000000, 0xC400007F, 0x0200001F, 0, 0x02000000}, mb * 131072u + 3 * 32768u, 3);
    assert_task(c[mb], {0x2000, 0x01000000, 0xD00003FF, 0x020001FF, 0x0030007F, 0x02000000}, mb * 1048576u + 5 * 64u,
                3);
  }
}
END_TEST

START_TEST(fc2_and_qkv_have_the_worked_descriptors) {
  const auto fc2 = operations_of(base_plan().fc2.dispatches.at(0));
  assert_task(started(fc2, overlay::a_channel(overlay::kGemm8, 0)).at(0),
              {0x10000, 0x02000000, 0xC40003FF, 0x0200001F, 0x0013FFFF, 0x02000000}, 0, 1);
  ck_assert_uint_eq(started(fc2, overlay::b_channel(overlay::kGemm8, 0)).at(0).descriptor[0], 0x11000);
  const auto qkv = operations_of(base_plan().qkv.dispatches.at(0));
  assert_task(started(qkv, overlay::c_channel(overlay::kGemm8, 0)).at(0),
              {0x3000, 0x01000000, 0xD000017F, 0x0200007F, 0x00117FFF, 0x02000000}, 0, 1);
}
END_TEST

START_TEST(streams_have_the_published_lengths) {
  const struct {
    int m, k_bytes, n, planes;
    size_t words8, words1;  // 1 column without its group waits
    size_t waits1;
  } shapes[] = {
      {512, 512, 512, 2, 692, 165, 1},   {512, 4096, 512, 2, 692, 165, 1},  {512, 512, 1536, 1, 812, 135, 1},
      {512, 512, 2048, 2, 1052, 165, 1}, {1536, 512, 512, 2, 692, 405, 2},  {1536, 4096, 512, 2, 692, 405, 2},
      {1536, 512, 1536, 1, 1412, 285, 2}, {1536, 512, 2048, 2, 2492, 405, 2},
  };
  for (const auto& s : shapes) {
    for (const overlay::Variant* v : {&overlay::kGemm8, &overlay::kGemm1}) {
      const GemmShape shape{s.m, s.k_bytes, s.n, s.planes};
      size_t least = SIZE_MAX;
      for (const LoopOrder order : {LoopOrder::kRowsOuter, LoopOrder::kChannelsOuter}) {
        std::vector<Operation> all = token_set_up(*v);
        const auto more = gemm_operations(*v, shape, everything(*v, shape), order, {});
        all.insert(all.end(), more.begin(), more.end());
        if (!more.empty()) least = std::min(least, encode(all).size());
      }
      const size_t expected = v->columns == 8 ? s.words8 : s.words1 + 4 * (s.waits1 - 1);
      ck_assert_msg(least == expected, "%d x %d x %d on %s: %zu words, not %zu", s.m, s.k_bytes, s.n, v->name, least,
                    expected);
    }
  }
}
END_TEST

START_TEST(base_window_takes_24_dispatches) {
  ck_assert_int_eq(base_plan().dispatches() * 6, 24);
  ck_assert_uint_eq(base_plan().qkv.dispatches[0].words.size(), 812);
  ck_assert_uint_eq(base_plan().weights_size, 835584 + 278528 + 1114112 + 2228224);
}
END_TEST

START_TEST(chained_base_window_takes_18_dispatches) {
  const LayerPlan plan = plan_layer(overlay::kGemm8, 512, 2048, 512, PlanKind::kChained);
  ck_assert_int_eq(plan.dispatches() * 6, 18);
  ck_assert_uint_eq(plan.fc1.dispatches[0].words.size(), 692 + 1052 - 4 - 56);
}
END_TEST

START_TEST(chunked_base_window_takes_a_dispatch_for_each_512_channels) {
  const LayerPlan plan = plan_layer(overlay::kGemm8, 512, 2048, 512, PlanKind::kChunked);
  ck_assert_uint_eq(plan.qkv.dispatches.size(), 3);
  ck_assert_uint_eq(plan.out.dispatches.size(), 1);
  ck_assert_uint_eq(plan.fc1.dispatches.size(), 4);
  ck_assert_uint_eq(plan.fc2.dispatches.size(), 1);
}
END_TEST

START_TEST(base_window_takes_the_dispatches_its_plans_are_known_by) {
  const auto window = [](PlanKind kind) { return plan_layer(overlay::kGemm8, 512, 2048, 512, kind).dispatches() * 6; };
  ck_assert_int_eq(window(PlanKind::kChained), 18);
  ck_assert_int_eq(window(PlanKind::kWhole), 24);
  ck_assert_int_eq(window(PlanKind::kSeparate), 36);
  ck_assert_int_eq(window(PlanKind::kChunked), 54);
  const auto prototype = prototype_layer(overlay::kGemm8, 512, 2048, 512);
  ck_assert_uint_eq(prototype.size() * 6, 72);
  uint64_t macs = 0;
  for (const GemmShape& s : prototype) {
    ck_assert_int_eq(s.m, 512);
    ck_assert_int_eq(s.n, 512);
    macs += s.macs();
  }
  ck_assert_uint_eq(macs, base_plan().qkv.shape.macs() + base_plan().out.shape.macs() + base_plan().fc1.shape.macs() +
                              base_plan().fc2.shape.macs());
}
END_TEST

START_TEST(plan_with_the_least_predicted_time_is_the_fastest) {
  for (const overlay::Variant* v : {&overlay::kGemm8, &overlay::kGemm1}) {
    const PlanKind fastest = fastest_plan(*v, 768, 3072, 512);
    for (const PlanKind kind : kPlanKinds) {
      ck_assert_double_ge(plan_layer(*v, 768, 3072, 512, kind).predicted_us(),
                          plan_layer(*v, 768, 3072, 512, fastest).predicted_us());
    }
  }
}
END_TEST

START_TEST(plans_are_compared_in_print) {
  const std::string text = compare_plans(overlay::kGemm8, 512, 2048, 512, 6);
  for (const char* line :
       {"prototype     72 dispatches    10.42 ms a window", "chunked       54 dispatches     8.33 ms a window\n",
        "chained       18 dispatches     4.01 ms a window  <- fastest"}) {
    ck_assert_msg(text.find(line) != std::string::npos, "no '%s' in\n%s", line, text.c_str());
  }
}
END_TEST

START_TEST(no_channel_ever_has_more_than_four_tasks_outstanding) {
  for (const overlay::Variant* v : {&overlay::kGemm8, &overlay::kGemm1}) {
    for (const int d : {384, 512, 768, 1024, 1280}) {
      const LayerPlan plan = plan_layer(*v, d, 4 * d, 1500, PlanKind::kWhole);
      for (const PlannedProduct* p : {&plan.qkv, &plan.out, &plan.fc1, &plan.fc2}) {
        for (const Dispatch& dispatch : p->dispatches) {
          std::vector<std::pair<uint32_t, int>> outstanding;  // by queue, since the last wait
          for (const Operation& o : operations_of(dispatch)) {
            if (o.kind == Operation::Kind::kTokenWait) outstanding.clear();
            if (o.kind != Operation::Kind::kWrite) continue;
            const auto same = [&](const auto& entry) { return entry.first == o.address; };
            auto found = std::find_if(outstanding.begin(), outstanding.end(), same);
            if (found == outstanding.end()) found = outstanding.insert(outstanding.end(), {o.address, 0});
            ck_assert_int_le(++found->second, overlay::kQueueDepth);
          }
        }
      }
    }
  }
}
END_TEST

START_TEST(more_channel_blocks_than_a_descriptor_iterates_over_are_walked_one_by_one) {
  // 80 on one column for large's fc1, where a descriptor has 64 iterations.
  const LayerPlan plan = plan_layer(overlay::kGemm1, 1280, 5120, 512, PlanKind::kWhole);
  ck_assert_str_eq(plan.fc1.way.c_str(), "whole, channels outer");
  ck_assert_int_eq(plan.fc1.dispatches.at(0).tasks, 3 * 80);
}
END_TEST

START_TEST(model_beyond_the_overlay_is_refused) {
  try {
    plan_layer(overlay::kGemm8, 16384, 65536, 512, PlanKind::kWhole);
    ck_abort_msg("accepted");
  } catch (const Error& e) {
    ck_assert_int_eq(static_cast<int>(e.code()), static_cast<int>(ErrorCode::kUnsupported));
  }
}
END_TEST

START_TEST(plan_is_printed_with_its_predictions) {
  const std::string text = base_plan().describe();
  for (const char* part : {"gemm8, 512 rows: 4 dispatches and 4.5 MB of weights a layer", "qkv      512    512   1536",
                           "whole, rows outer", "predicted"}) {
    ck_assert_msg(text.find(part) != std::string::npos, "no '%s' in\n%s", part, text.c_str());
  }
}
END_TEST

int main() {
  Suite* suite = suite_create("gemm_plan");
  TCase* streams = tcase_create("streams");
  tcase_add_test(streams, out_projection_has_the_worked_descriptors);
  tcase_add_test(streams, fc1_has_the_worked_descriptors);
  tcase_add_test(streams, fc2_and_qkv_have_the_worked_descriptors);
  tcase_add_test(streams, streams_have_the_published_lengths);
  tcase_add_test(streams, base_window_takes_24_dispatches);
  tcase_add_test(streams, chained_base_window_takes_18_dispatches);
  tcase_add_test(streams, chunked_base_window_takes_a_dispatch_for_each_512_channels);
  tcase_add_test(streams, base_window_takes_the_dispatches_its_plans_are_known_by);
  tcase_add_test(streams, plan_with_the_least_predicted_time_is_the_fastest);
  tcase_add_test(streams, plans_are_compared_in_print);
  tcase_add_test(streams, no_channel_ever_has_more_than_four_tasks_outstanding);
  tcase_add_test(streams, more_channel_blocks_than_a_descriptor_iterates_over_are_walked_one_by_one);
  tcase_add_test(streams, model_beyond_the_overlay_is_refused);
  tcase_add_test(streams, plan_is_printed_with_its_predictions);
  suite_add_tcase(suite, streams);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
