#include "npu/gemm_plan.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <iterator>

#include "whisper/error.h"
#include "whisper/quantized_encoder.h"

namespace whisperxdna2::npu {
namespace {

constexpr int kWord = 4;
// Of one dispatch of kChunked and of the prototype.
constexpr int kChunkRows = 512, kChunkChannels = 512, kChunkInputs = 512;

int round_up(int value, int unit) { return (value + unit - 1) / unit * unit; }

struct Task {
  ShimWalk walk;
  uint64_t offset;  // bytes, without what depends on the row or column of the array
};
// Tasks that are queued together: at most kQueueDepth for each operand.
struct Group {
  std::vector<Task> a, b, c;
};

// The walks of a part. Names are those of gemm_plan.h's table.
class Walks {
 public:
  Walks(const overlay::Variant& variant, const GemmShape& shape, const GemmPart& part)
      : variant_(variant), shape_(shape), part_(part), steps_(shape.k_bytes / overlay::kTileK) {}

  std::vector<Group> rows_outer() const {
    std::vector<Group> groups;
    const bool one_block = part_.channels == 1;
    for (int first = 0; first < part_.rows;) {
      const int last = std::min(part_.rows, first + (one_block ? part_.rows : overlay::kQueueDepth));
      Group& g = groups.emplace_back();
      if (first == 0) g.b.push_back(b(0, part_.channels));
      if (one_block) {
        g.a.push_back(a(first, last - first));
      } else {
        for (int row = first; row < last; ++row) {
          Task task = a(row, 1);
          task.walk.runs = part_.channels;  // the same again
          g.a.push_back(task);
        }
      }
      if (shape_.planes == 1) {
        g.c.push_back(c(first, 0, part_.channels, channel_step(), last - first, row_step()));
      } else if (one_block) {
        g.c.push_back(c(first, 0, shape_.planes, plane_step(), last - first, row_step()));
      } else {
        for (int row = first; row < last; ++row) {
          g.c.push_back(c(row, 0, shape_.planes, plane_step(), part_.channels, channel_step()));
        }
      }
      first = last;
    }
    return groups;
  }

  std::vector<Group> channels_outer() const {
    std::vector<Group> groups;
    for (int first = 0; first < part_.channels;) {
      const int last = std::min(part_.channels, first + overlay::kQueueDepth);
      Group& g = groups.emplace_back();
      for (int channel = first; channel < last; ++channel) {
        g.a.push_back(a(0, part_.rows));
        g.b.push_back(b(channel, 1));
        if (shape_.planes == 2) g.c.push_back(c(0, channel, 2, plane_step(), part_.rows, row_step()));
      }
      if (shape_.planes == 1) g.c.push_back(c(0, first, part_.rows, row_step(), last - first, channel_step()));
      first = last;
    }
    return groups;
  }

 private:
  uint64_t c_pitch() const { return uint64_t{1} * shape_.n * shape_.planes; }
  // Words between ...
  uint64_t row_step() const { return overlay::kRowBlock * c_pitch() / kWord; }  // ... row blocks of C
  uint64_t channel_step() const { return static_cast<uint64_t>(variant_.n_block) / kWord; }
  uint64_t plane_step() const { return static_cast<uint64_t>(shape_.n) / kWord; }

  // A of row blocks [row, row + count) of the part.
  Task a(int row, int count) const {
    const uint64_t rows = static_cast<uint64_t>(variant_.a_object / overlay::kTileK);
    const uint64_t pitch = static_cast<uint64_t>(shape_.k_bytes);
    Task task;
    task.walk.size0 = overlay::kTileK / kWord;
    task.walk.size1 = rows;
    task.walk.step1 = pitch / kWord;
    task.walk.step2 = task.walk.size0;
    task.walk.length = task.walk.size0 * rows * steps_;
    task.walk.runs = count;
    task.walk.run_step = count > 1 ? overlay::kRowBlock * pitch / kWord : 0;
    task.offset = (part_.first_row + row) * overlay::kRowBlock * pitch;
    return task;
  }
  // The weights of channel blocks [channel, channel + count), once per row block.
  Task b(int channel, int count) const {
    Task task;
    task.walk.length = uint64_t{1} * count * steps_ * overlay::kBObject / kWord;
    task.walk.runs = part_.rows;
    task.offset = uint64_t{1} * (part_.first_channel + channel) * steps_ * overlay::kBObject;
    return task;
  }
  // From tile (row, channel) on, `count` objects at `step`, that `runs` times at `run_step`.
  Task c(int row, int channel, int count, uint64_t step, int runs, uint64_t run_step) const {
    Task task;
    task.walk.size0 = overlay::kTileN / kWord;
    task.walk.size1 = overlay::kRowBlock;
    task.walk.step1 = c_pitch() / kWord;
    task.walk.step2 = step;
    task.walk.length = uint64_t{overlay::kCObject} / kWord * count;
    task.walk.runs = runs;
    task.walk.run_step = runs > 1 ? run_step : 0;
    task.offset = (part_.first_row + row) * overlay::kRowBlock * c_pitch() +
                  uint64_t{1} * (part_.first_channel + channel) * variant_.n_block;
    return task;
  }

  const overlay::Variant& variant_;
  const GemmShape& shape_;
  const GemmPart& part_;
  const int steps_;
};

bool fits(const std::vector<Group>& groups) {
  const auto all = [](const std::vector<Task>& tasks) {
    return std::all_of(tasks.begin(), tasks.end(), [](const Task& t) { return npu::fits(t.walk); });
  };
  return std::all_of(groups.begin(), groups.end(),
                     [&](const Group& g) { return all(g.a) && all(g.b) && all(g.c); });
}

void append_task(std::vector<Operation>& operations, const overlay::Channel& channel, int bd, const Task& task,
                 int argument, uint64_t offset, bool token) {
  const auto words = descriptor(task.walk);
  const uint32_t address = overlay::bd_address(channel.column, bd);
  operations.push_back(Operation::block_write(address, {words.begin(), words.end()}));
  operations.push_back(Operation::patch(address + kWord, static_cast<uint32_t>(argument), offset + task.offset));
  operations.push_back(Operation::write(overlay::queue_address(channel), queue_entry(bd, task.walk.runs, token)));
}

int count_tasks(const std::vector<Operation>& operations) {
  return static_cast<int>(std::count_if(operations.begin(), operations.end(), [](const Operation& o) {
    return o.kind == Operation::Kind::kBlockWrite;
  }));
}

const CostModel& cost_of(const overlay::Variant& variant) {
  return variant.columns == 1 ? kGemm1Cost : kGemm8Cost;
}

Dispatch make_dispatch(const overlay::Variant& variant, const std::vector<Operation>& operations, uint64_t macs) {
  std::vector<Operation> stream = token_set_up(variant);
  stream.insert(stream.end(), operations.begin(), operations.end());
  return {encode(stream), macs, count_tasks(operations), cost_of(variant).predict(macs)};
}

const char* name_of(LoopOrder order) { return order == LoopOrder::kRowsOuter ? "rows outer" : "channels outer"; }

class Planner {
 public:
  Planner(const overlay::Variant& variant, int rows) : variant_(variant), rows_(rows) {}

  // k: `in`, padded.
  PlannedProduct product(const char* name, int in, int k, int input_planes, int out, int planes) {
    PlannedProduct p;
    p.name = name;
    p.in = in;
    p.out = out;
    p.input_planes = input_planes;
    // A multiple of kTileK as well, since it may be the inner dimension of the next product.
    p.shape = {rows_, k * input_planes, round_up(out, std::max(variant_.n_block, overlay::kTileK)), planes};
    p.weights_at = weights_size_;
    weights_size_ += p.shape.weights_size();
    return p;
  }

  void whole(PlannedProduct& p) const {
    LoopOrder order;
    const auto operations = walk(p, everything(p), at(p), &order);
    p.way = std::string("whole, ") + name_of(order);
    p.dispatches = {make_dispatch(variant_, operations, p.shape.macs())};
  }

  void chunked(PlannedProduct& p) const {
    cut(p, kChunkRows / overlay::kRowBlock, kChunkChannels / variant_.n_block);
  }

  void in_three(PlannedProduct& p) const {
    const GemmPart all = everything(p);
    cut(p, all.rows, (all.channels + 2) / 3);
  }

  // Dispatches of at most rows x channels blocks.
  void cut(PlannedProduct& p, int rows, int channels) const {
    const GemmPart all = everything(p);
    for (int row = 0; row < all.rows; row += rows) {
      for (int channel = 0; channel < all.channels; channel += channels) {
        const GemmPart part{row, std::min(rows, all.rows - row), channel, std::min(channels, all.channels - channel)};
        LoopOrder order;
        const auto operations = walk(p, part, at(p), &order);
        const uint64_t macs = p.shape.macs() / (uint64_t{1} * all.rows * all.channels) * part.rows * part.channels;
        p.dispatches.push_back(make_dispatch(variant_, operations, macs));
      }
    }
    p.way = p.dispatches.size() == 1 ? "whole" : std::to_string(p.dispatches.size()) + " chunks";
  }

  // fc2 behind fc1 in one stream: the wait for fc1's tokens lies between them.
  void chained(PlannedProduct& fc1, PlannedProduct& fc2) const {
    LoopOrder order;
    std::vector<Operation> operations = walk(fc1, everything(fc1), at(fc1), &order);
    const GemmArguments arguments{overlay::kCArgument, overlay::kWArgument, overlay::kChainedCArgument, fc2.weights_at};
    const auto second = walk(fc2, everything(fc2), arguments, &order);
    operations.insert(operations.end(), second.begin(), second.end());
    fc1.way = "whole, chained with fc2";
    fc2.way = "in fc1's stream";
    fc1.dispatches = {make_dispatch(variant_, operations, fc1.shape.macs() + fc2.shape.macs())};
  }

  uint64_t weights_size() const { return weights_size_; }

 private:
  // In the order with fewer tasks on its busiest channel, or in the other if a descriptor cannot hold that.
  std::vector<Operation> walk(const PlannedProduct& p, const GemmPart& part, const GemmArguments& arguments,
                              LoopOrder* order) const {
    const int rows_outer = part.channels == 1 ? 1 : part.rows;
    const bool rows_first = rows_outer <= part.channels;
    for (const bool rows : {rows_first, !rows_first}) {
      *order = rows ? LoopOrder::kRowsOuter : LoopOrder::kChannelsOuter;
      std::vector<Operation> operations = gemm_operations(variant_, p.shape, part, *order, arguments);
      if (!operations.empty()) return operations;
    }
    throw Error(ErrorCode::kUnsupported, "the model's layer " + p.name + " (" + std::to_string(p.in) + " to " +
                                             std::to_string(p.out) +
                                             ") is too large for the NPU's overlay; use backend=cpu");
  }
  GemmPart everything(const PlannedProduct& p) const {
    return {0, p.shape.m / overlay::kRowBlock, 0, p.shape.n / variant_.n_block};
  }
  static GemmArguments at(const PlannedProduct& p) {
    GemmArguments arguments;
    arguments.w_offset = p.weights_at;
    return arguments;
  }

  const overlay::Variant& variant_;
  const int rows_;
  uint64_t weights_size_ = 0;
};

}  // namespace

std::vector<Operation> gemm_operations(const overlay::Variant& variant, const GemmShape& shape, const GemmPart& part,
                                       LoopOrder order, const GemmArguments& arguments) {
  const Walks walks(variant, shape, part);
  const std::vector<Group> groups = order == LoopOrder::kRowsOuter ? walks.rows_outer() : walks.channels_outer();
  std::vector<Operation> operations;
  if (!fits(groups)) return operations;
  const uint64_t w_per_column = shape.weights_size() / static_cast<uint64_t>(variant.columns);
  const uint64_t a_per_stream = uint64_t{overlay::kTileM} * shape.k_bytes;
  for (const Group& g : groups) {
    const size_t slots = std::max({g.a.size(), g.b.size(), g.c.size()});
    for (size_t t = 0; t < slots; ++t) {
      const int number = static_cast<int>(t);
      for (int s = 0; t < g.a.size() && s < overlay::a_streams(variant); ++s) {
        append_task(operations, overlay::a_channel(variant, s), overlay::kABd + number, g.a[t], arguments.a,
                    a_per_stream * s, false);
      }
      for (int c = 0; t < g.b.size() && c < variant.columns; ++c) {
        append_task(operations, overlay::b_channel(variant, c), overlay::kBBd + number, g.b[t], arguments.w,
                    arguments.w_offset + w_per_column * c, false);
      }
      for (int c = 0; t < g.c.size() && c < variant.columns; ++c) {
        append_task(operations, overlay::c_channel(variant, c), overlay::kCBd + number, g.c[t], arguments.c,
                    uint64_t{overlay::kTileN} * c, t + 1 == g.c.size());
      }
    }
    for (int c = 0; c < variant.columns; ++c) {
      operations.push_back(Operation::token_wait(overlay::c_channel(variant, c)));
    }
  }
  return operations;
}

std::vector<Operation> token_set_up(const overlay::Variant& variant) {
  std::vector<Operation> operations;
  for (int c = 0; c < variant.columns; ++c) {
    operations.push_back(Operation::mask_write(overlay::control_address(overlay::c_channel(variant, c)),
                                               overlay::kController << 8, overlay::kControllerMask));
  }
  return operations;
}

LayerPlan plan_layer(const overlay::Variant& variant, int d_model, int d_ff, int rows, PlanKind kind,
                     bool wide_attention) {
  LayerPlan plan;
  plan.kind = kind;
  plan.overlay_name = variant.name;
  plan.rows = round_up(rows, overlay::kRowBlock);
  Planner planner(variant, plan.rows);
  const int k = round_up(d_model, overlay::kTileK);
  const int planes = wide_attention ? 2 : 1;
  plan.qkv = planner.product("qkv", d_model, k, planes, 3 * d_model, 1);
  plan.out = planner.product("out", d_model, k, planes, d_model, 2);
  plan.fc1 = planner.product("fc1", d_model, k, 1, d_ff, 2);
  // What fc1 writes is what fc2 reads, its padding included.
  plan.fc2 = planner.product("fc2", d_ff, plan.fc1.shape.n, 2, d_model, 2);
  plan.weights_size = planner.weights_size();

  for (PlannedProduct* p : {&plan.qkv, &plan.out, &plan.fc1, &plan.fc2}) {
    if (kind == PlanKind::kChunked) {
      planner.chunked(*p);
    } else if (kind == PlanKind::kSeparate && p == &plan.qkv) {
      planner.in_three(*p);
    } else if (kind == PlanKind::kSeparate || kind == PlanKind::kWhole || p == &plan.qkv || p == &plan.out) {
      planner.whole(*p);
    }
  }
  if (kind == PlanKind::kChained) planner.chained(plan.fc1, plan.fc2);
  return plan;
}

const char* name_of(PlanKind kind) {
  switch (kind) {
    case PlanKind::kChained: return "chained";
    case PlanKind::kWhole: return "whole";
    case PlanKind::kSeparate: return "separate";
    case PlanKind::kChunked: return "chunked";
  }
  return "";
}

PlanKind fastest_plan(const overlay::Variant& variant, int d_model, int d_ff, int rows) {
  PlanKind fastest = kPlanKinds[0];
  double least = 0;
  for (const PlanKind kind : kPlanKinds) {
    const double us = plan_layer(variant, d_model, d_ff, rows, kind).predicted_us();
    if (kind != kPlanKinds[0] && us >= least) continue;
    fastest = kind;
    least = us;
  }
  return fastest;
}

std::vector<GemmShape> prototype_layer(const overlay::Variant& variant, int d_model, int d_ff, int rows) {
  std::vector<GemmShape> shapes;
  const auto add = [&](int in, int out, int planes_in) {
    const int n_unit = std::max(variant.n_block, overlay::kTileK);
    for (int row = 0; row < rows; row += kChunkRows) {
      for (int channel = 0; channel < out; channel += kChunkChannels) {
        for (int input = 0; input < in; input += kChunkInputs) {
          shapes.push_back({round_up(std::min(kChunkRows, rows - row), overlay::kRowBlock),
                            round_up(std::min(kChunkInputs, in - input), overlay::kTileK) * planes_in,
                            round_up(std::min(kChunkChannels, out - channel), n_unit), 2});
        }
      }
    }
  };
  for (int i = 0; i < 4; ++i) add(d_model, d_model, 1);  // queries, keys, values, out
  add(d_model, d_ff, 1);
  add(d_ff, d_model, 2);
  return shapes;
}

std::string compare_plans(const overlay::Variant& variant, int d_model, int d_ff, int rows, int layers) {
  const PlanKind fastest = fastest_plan(variant, d_model, d_ff, rows);
  std::string text;
  char line[120];
  const auto print = [&](const char* name, size_t dispatches, double us, const char* remark) {
    snprintf(line, sizeof line, "%-10s %5zu dispatches %8.2f ms a window%s\n", name, dispatches, us * 1e-3, remark);
    text += line;
  };
  const std::vector<GemmShape> shapes = prototype_layer(variant, d_model, d_ff, rows);
  double prototype_us = 0;
  for (const GemmShape& s : shapes) prototype_us += cost_of(variant).predict(s.macs());
  print("prototype", shapes.size() * static_cast<size_t>(layers), prototype_us * layers,
        "  predicted only: it needs the host to add up");
  for (auto kind = std::rbegin(kPlanKinds); kind != std::rend(kPlanKinds); ++kind) {
    size_t dispatches = 0;
    double us = 0;
    for (int layer = 0; layer < layers; ++layer) {
      const LayerPlan plan = plan_layer(variant, d_model, d_ff, rows, *kind, attention_is_14bit(layer));
      dispatches += static_cast<size_t>(plan.dispatches());
      us += plan.predicted_us();
    }
    print(name_of(*kind), dispatches, us, *kind == fastest ? "  <- fastest" : "");
  }
  return text;
}

int LayerPlan::dispatches() const {
  size_t count = 0;
  for (const PlannedProduct* p : {&qkv, &out, &fc1, &fc2}) count += p->dispatches.size();
  return static_cast<int>(count);
}

double LayerPlan::predicted_us() const {
  double us = 0;
  for (const PlannedProduct* p : {&qkv, &out, &fc1, &fc2}) {
    for (const Dispatch& d : p->dispatches) us += d.predicted_us;
  }
  return us;
}

std::string LayerPlan::describe() const {
  std::string text;
  char line[200];
  const auto print = [&](auto... values) {
    snprintf(line, sizeof line, values...);
    text += line;
  };
  print("%s, %d rows: %d dispatches and %.1f MB of weights a layer\n", overlay_name.c_str(), rows, dispatches(),
        static_cast<double>(weights_size) * 1e-6);
  print("%-5s %6s %6s %6s %10s %6s %6s %8s  %s\n", "", "M", "K", "N", "dispatches", "tasks", "words", "us", "way");
  for (const PlannedProduct* p : {&qkv, &out, &fc1, &fc2}) {
    int tasks = 0;
    size_t words = 0;
    double us = 0;
    for (const Dispatch& d : p->dispatches) {
      tasks += d.tasks;
      words += d.words.size();
      us += d.predicted_us;
    }
    print("%-5s %6d %6d %6d %10zu %6d %6zu %8.0f  %s\n", p->name.c_str(), p->shape.m, p->shape.k_bytes, p->shape.n,
          p->dispatches.size(), tasks, words, us, p->way.c_str());
  }
  print("predicted %.0f us a layer\n", predicted_us());
  return text;
}

void pack_weights(const overlay::Variant& variant, const GemmShape& shape, const Int8Layer& layer, uint8_t* to) {
  using namespace overlay;
  const int steps = shape.k_bytes / kTileK;
  const int plane_steps = layer.input_14bit ? steps / 2 : steps;
  const auto put = [](uint8_t* at, int32_t value) { std::memcpy(at, &value, sizeof value); };
  std::memset(to, 0, shape.weights_size());
  for (int column = 0; column < variant.columns; ++column) {
    for (int block = 0; block < shape.n / variant.n_block; ++block) {
      const int n0 = block * variant.n_block + column * kTileN;
      const int channels = std::clamp(layer.out - n0, 0, kTileN);  // the rest is padding
      for (int step = 0; step < steps; ++step, to += kBObject) {
        const int k0 = step % plane_steps * kTileK;
        const int inputs = std::clamp(layer.in - k0, 0, kTileK);
        for (int n = 0; n < channels; ++n) {
          const int8_t* from = layer.weight + int64_t{n0 + n} * layer.in + k0;
          for (int k = 0; k < inputs; ++k) {
            to[b_in_core(n / kBlock, k / kBlock) + k % kBlock * kBlock + n % kBlock] = static_cast<uint8_t>(from[k]);
          }
        }
        uint8_t* t = to + kWeights;
        const bool start = step == 0, lo_begins = layer.input_14bit && step == plane_steps;
        put(t + tail::kMagicAt, tail::kMagic);
        put(t + tail::kFlagsAt, (start ? tail::kStart : 0) | (lo_begins ? tail::kShift7 : 0));
        put(t + tail::kRestAt, steps - 1);
        put(t + tail::kMoreAt, shape.planes - 1);
        put(t + tail::kS1At, layer.stage.s1);
        put(t + tail::kS2At, layer.stage.s2);
        put(t + tail::kModeAt, static_cast<int32_t>(layer.stage.mode));
        const GeluScale& g = layer.stage.gelu;
        const int32_t gelu[] = {g.c, g.s, g.d, g.t, g.out_shift};
        std::memcpy(t + tail::kGeluAt, gelu, sizeof gelu);
        if (channels == 0) continue;
        std::memcpy(t + tail::kBiasAt, layer.bias + n0, sizeof(int32_t) * static_cast<size_t>(channels));
        std::memcpy(t + tail::kMultiplierAt, layer.multiplier + n0, sizeof(int16_t) * static_cast<size_t>(channels));
      }
    }
  }
}

}  // namespace whisperxdna2::npu
