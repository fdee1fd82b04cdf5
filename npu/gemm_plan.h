// Plans: which transaction streams compute an encoder layer's four products on the overlay, and how weights lie for
// them.
//
// A product is cut into output tiles of kRowBlock rows and n_block channels. A stream walks a rectangle of them in one
// of two loop orders; the cores cannot tell the difference. A few descriptors per shim are enough for any shape,
// because a descriptor has three dimensions and an iteration, and a task can be repeated:
//
//             rows outer                                     channels outer
//   A         per row block: its rows, once per channel      per channel block: all rows
//             block; all in one task where there is one
//   B         all channel blocks, once per row block         per channel block: its weights, once per row block
//   C, 1 plane   all in one task                             all in one task
//   C, 2 planes  per row block                               per channel block
//
// A channel's queue holds four tasks. Where an order needs more they are issued in groups: the last C task of a group
// asks for a token on each column, and a wait for these precedes the next group, which may then use the same
// descriptors.
//
// Ways to cut a layer, all with the same results; the count is that of a base window with its six layers:
//   kChained   18  fc2 follows fc1 in the same stream
//   kWhole     24  one dispatch for each of qkv, out, fc1, fc2
//   kSeparate  36  qkv in three, as if queries, keys and values were layers of their own
//   kChunked   54  512 x 512 of output per dispatch
// The Python prototype that preceded this project took 72: 512 x 512 x 512 per dispatch. Cutting the inner dimension
// too is a matter of prediction here (prototype_layer), since the overlay's cores give results and not sums.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cpu/int8_linear.h"
#include "kernels/overlay.h"
#include "npu/stream.h"

namespace whisperxdna2::npu {

// A product as the overlay sees it, padded: overlay::fits(variant, m, k_bytes, n).
struct GemmShape {
  int m = 0;
  int k_bytes = 0;  // of a row of A: the inner dimension times the planes of A
  int n = 0;
  int planes = 1;   // of C; a row of C has n * planes bytes

  uint64_t macs() const { return uint64_t{1} * m * k_bytes * n; }
  uint64_t weights_size() const { return overlay::packed_size(k_bytes, n); }
};

// Output tiles: blocks [first_row, first_row + rows) x [first_channel, first_channel + channels).
struct GemmPart {
  int first_row = 0, rows = 0, first_channel = 0, channels = 0;
};

enum class LoopOrder { kRowsOuter, kChannelsOuter };

// The buffers bound to the kernel's arguments, and where in W the product's packed weights begin.
struct GemmArguments {
  int a = overlay::kAArgument, w = overlay::kWArgument, c = overlay::kCArgument;
  uint64_t w_offset = 0;
};

// Register writes, patches and token waits that compute a part, tokens of all columns waited for at the end; without
// the controller's set-up (token_set_up). Empty if a descriptor cannot hold a walk.
std::vector<Operation> gemm_operations(const overlay::Variant& variant, const GemmShape& shape, const GemmPart& part,
                                       LoopOrder order, const GemmArguments& arguments);
// Says where the tokens of each column's C channel go. Once per stream, before its first task.
std::vector<Operation> token_set_up(const overlay::Variant& variant);

// Predicted time of a dispatch, T = fixed + slope * MMAC.
struct CostModel {
  double fixed_us, us_per_mmac;
  double predict(uint64_t macs) const { return fixed_us + us_per_mmac * static_cast<double>(macs) * 1e-6; }
};
// fixed: the middle of what public projects measured on XDNA2 (85..160 us). Slope of gemm8: fitted to measured int8
// products of the same core tile (0.132..0.143). Of gemm1: an eighth of the cores, as nothing else limits it.
constexpr CostModel kGemm8Cost{120, 0.138}, kGemm1Cost{120, 1.1};

enum class PlanKind { kChained, kWhole, kSeparate, kChunked };
constexpr PlanKind kPlanKinds[] = {PlanKind::kChained, PlanKind::kWhole, PlanKind::kSeparate, PlanKind::kChunked};
const char* name_of(PlanKind kind);

// One command for the NPU.
struct Dispatch {
  std::vector<uint32_t> words;  // the stream; argument 1 is the layer's packed weights
  uint64_t macs = 0;
  int tasks = 0;
  double predicted_us = 0;
};

struct PlannedProduct {
  std::string name;
  int in = 0, out = 0;        // before padding
  int input_planes = 1;       // of A; shape.k_bytes includes them
  GemmShape shape;
  uint64_t weights_at = 0;    // in the layer's packed weights
  std::string way;            // for people
  std::vector<Dispatch> dispatches;  // none for fc2 of kChained: fc1's dispatch does it
};

// One for all layers with inputs of the same width: their weights differ, not their streams. Arguments of the
// dispatches: A, W, C as in GemmArguments; in kChained argument 2 holds the hidden values and argument 3 fc2's results.
struct LayerPlan {
  PlanKind kind = PlanKind::kWhole;
  std::string overlay_name;
  int rows = 0;  // padded
  PlannedProduct qkv, out, fc1, fc2;
  uint64_t weights_size = 0;  // of a layer

  int dispatches() const;
  double predicted_us() const;
  std::string describe() const;  // a table for people
};

// d_model, d_ff: multiples of 64. rows >= 1. wide_attention: the inputs of qkv and out have 14 bits, in two planes.
// Throws Error(kUnsupported) for dimensions beyond the overlay's limits.
LayerPlan plan_layer(const overlay::Variant& variant, int d_model, int d_ff, int rows, PlanKind kind,
                     bool wide_attention = false);
// The one of them that is predicted to be the fastest.
PlanKind fastest_plan(const overlay::Variant& variant, int d_model, int d_ff, int rows);

// The products that the prototype dispatched one by one for a layer: at most 512 in each dimension, queries, keys and
// values apart, fc2's sums over the chunks of its inner dimension left to the host. Its fc2 chunks have both planes of
// their inputs.
std::vector<GemmShape> prototype_layer(const overlay::Variant& variant, int d_model, int d_ff, int rows);

// All of the above side by side for a window of `layers` layers: a table for people, the fastest marked.
std::string compare_plans(const overlay::Variant& variant, int d_model, int d_ff, int rows, int layers);

// A layer of `shape`, in the order in which the cores consume it (overlay.h): shape.weights_size() bytes. Channels and
// inputs beyond the layer's own get zeros.
void pack_weights(const overlay::Variant& variant, const GemmShape& shape, const Int8Layer& layer, uint8_t* to);

}  // namespace whisperxdna2::npu
