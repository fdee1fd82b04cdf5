// The GEMM overlay of kernels/overlay.h: fifos of bounded depth between shim, memory tiles and cores, so that a stream
// that starves one column stops the others as it would on silicon.
#include <algorithm>
#include <cstring>
#include <deque>

#include "tests/device/core.h"
#include "tests/device/fabric.h"

namespace emulated_npu {
namespace {

namespace overlay = whisperxdna2::overlay;
namespace tail = overlay::tail;
using Mode = Array::Mode;
constexpr int kRows = overlay::kCoreRows;
constexpr uint64_t kStepProducts = uint64_t{overlay::kTileM} * overlay::kTileK * overlay::kTileN;

// Copies one share of an object in the order in which the walk reads it.
void walk(const overlay::Walk& walk, const uint8_t* from, uint8_t* to) {
  for (int i = 0; i < walk.outer[0].size; ++i) {
    for (int j = 0; j < walk.outer[1].size; ++j) {
      for (int k = 0; k < walk.outer[2].size; ++k) {
        memcpy(to, from + i * walk.outer[0].stride + j * walk.outer[1].stride + k * walk.outer[2].stride,
               static_cast<size_t>(walk.run));
        to += walk.run;
      }
    }
  }
}

struct Core {
  std::deque<std::shared_ptr<const AObject>> a;
  std::deque<std::shared_ptr<const BObject>> b;
  std::deque<std::vector<uint8_t>> c;        // at most kCoreCDepth, on their way to the memory tile
  std::vector<std::vector<uint8_t>> output;  // segments of the finished tile, last first
  bool in_tile = false;
  int32_t rest = 0, more = 0;
  std::unique_ptr<CorePrograms> programs;  // in the exact mode
  TileParameters parameters;               // in the fast one, with `sums`
  std::vector<int32_t> sums = std::vector<int32_t>(overlay::kTileM * overlay::kTileN);
};

class Gemm : public Fabric {
 public:
  explicit Gemm(const overlay::Variant& variant) : variant_(variant) {}

  int columns() const override { return variant_.columns; }

  uint64_t object_size(const Channel& channel) const override {
    const auto is = [&](const Channel& other) {
      return channel.column == other.column && channel.direction == other.direction && channel.index == other.index;
    };
    for (int stream = 0; stream < overlay::a_streams(variant_); ++stream) {
      if (is(overlay::a_channel(variant_, stream))) return static_cast<uint64_t>(variant_.a_object);
    }
    if (is(overlay::b_channel(variant_, channel.column))) return overlay::kBObject;
    if (is(overlay::c_channel(variant_, channel.column))) return overlay::kCObject;
    return 0;
  }

  uint64_t run(Shim& shim, Mode mode) override {
    const uint64_t before = steps_;
    while (fetch_a(shim, mode) | fetch_b(shim, mode) | feed() | compute(mode) | drain(shim, mode)) {
    }
    return (steps_ - before) * kStepProducts;
  }

  // C of a column is complete when its last token comes, and so is what went into it: the column's own B, and every row
  // of A, which all columns take in step.
  bool proves(const Channel& token, const Channel& ended) const override {
    if (ended.column == token.column) return true;
    const overlay::Channel b = overlay::b_channel(variant_, ended.column);
    return ended.direction == Direction::kMm2s && ended.index != b.index;
  }

  // The likely cause first: a core that waits for weights holds up the broadcast of A for all others.
  std::string unfinished() const override {
    const auto find = [&](const char* what, auto applies) {
      for (int c = 0; c < variant_.columns; ++c) {
        for (int r = 0; r < kRows; ++r) {
          if (applies(core_[r][c])) return "core (" + std::to_string(r) + ", " + std::to_string(c) + ") " + what;
        }
      }
      return std::string();
    };
    std::string text =
        find("has input and no weights", [](const Core& core) { return !core.a.empty() && core.b.empty(); });
    if (text.empty()) {
      text = find("holds output that no C task has taken",
                  [](const Core& core) { return !core.output.empty() || !core.c.empty(); });
    }
    for (int c = 0; c < variant_.columns && text.empty(); ++c) {
      if (!memtile_c_[c].empty()) text = "memory tile " + std::to_string(c) + " holds output that no C task has taken";
    }
    if (text.empty()) {
      text = find("has weights and no input", [](const Core& core) { return core.a.empty() && !core.b.empty(); });
    }
    if (text.empty()) {
      text = find("waits for the rest of its tile's steps", [](const Core& core) { return core.in_tile; });
    }
    return text;
  }

 private:
  // What a memory tile holds of A: the shares of the core rows it serves.
  struct MemtileA {
    std::vector<std::shared_ptr<const AObject>> shares;
  };

  bool fetch_a(Shim& shim, Mode mode) {
    bool any = false;
    for (int stream = 0; stream < overlay::a_streams(variant_); ++stream) {
      const Channel channel = overlay::a_channel(variant_, stream);
      auto& fifo = memtile_a_[stream];
      while (fifo.size() < overlay::kDepth && shim.ready(channel)) {
        MemtileA object;
        std::vector<uint8_t> bytes(mode == Mode::kDelay ? 0 : static_cast<size_t>(variant_.a_object));
        shim.take(channel, mode == Mode::kDelay ? nullptr : bytes.data());
        for (int share = 0; share < variant_.a_object / overlay::kAObject; ++share) {
          auto a = std::make_shared<AObject>();
          if (mode != Mode::kDelay) {
            a->bytes.resize(overlay::kAObject);
            walk(overlay::kAWalk, bytes.data() + share * overlay::kAObject,
                 reinterpret_cast<uint8_t*>(a->bytes.data()));
            if (mode == Mode::kFast) widen(*a);
          }
          object.shares.push_back(std::move(a));
        }
        fifo.push_back(std::move(object));
        any = true;
      }
    }
    return any;
  }

  bool fetch_b(Shim& shim, Mode mode) {
    bool any = false;
    for (int c = 0; c < variant_.columns; ++c) {
      const Channel channel = overlay::b_channel(variant_, c);
      auto& fifo = memtile_b_[c];
      while (fifo.size() < overlay::kDepth && shim.ready(channel)) {
        auto object = std::make_shared<BObject>();
        object->bytes = shim.peek(channel);
        if (object->bytes) {
          shim.take(channel, nullptr);
        } else {
          object->copy.resize(overlay::kBObject);
          shim.take(channel, object->copy.data());
          object->bytes = object->copy.data();
        }
        if (mode == Mode::kFast) pair_up(*object);
        fifo.push_back(std::move(object));
        any = true;
      }
    }
    return any;
  }

  // From the memory tiles to the cores: a broadcast goes on when all its takers have room.
  bool feed() {
    bool any = false;
    for (int stream = 0; stream < overlay::a_streams(variant_); ++stream) {
      auto& fifo = memtile_a_[stream];
      const auto takers = [&](auto visit) {
        const int shares = variant_.a_object / overlay::kAObject;
        for (int share = 0; share < shares; ++share) {
          for (int c = 0; c < variant_.columns; ++c) visit(core_[stream + share][c], share);
        }
      };
      while (!fifo.empty()) {
        bool room = true;
        takers([&](Core& core, int) { room &= core.a.size() < overlay::kDepth; });
        if (!room) break;
        takers([&](Core& core, int share) { core.a.push_back(fifo.front().shares[static_cast<size_t>(share)]); });
        fifo.pop_front();
        any = true;
      }
    }
    for (int c = 0; c < variant_.columns; ++c) {
      auto& fifo = memtile_b_[c];
      while (!fifo.empty() && std::all_of(core_, core_ + kRows, [c](const auto& row) {
               return row[c].b.size() < overlay::kDepth;
             })) {
        for (auto& row : core_) row[c].b.push_back(fifo.front());
        fifo.pop_front();
        any = true;
      }
    }
    return any;
  }

  bool compute(Mode mode) {
    bool any = false;
    for (int c = 0; c < variant_.columns; ++c) {
      for (int r = 0; r < kRows; ++r) {
        Core& core = core_[r][c];
        for (;;) {
          if (!core.output.empty() && core.c.size() < overlay::kCoreCDepth) {
            core.c.push_back(std::move(core.output.back()));
            core.output.pop_back();
          } else if (core.output.empty() && !core.a.empty() && !core.b.empty()) {
            step(core, mode, "core (" + std::to_string(r) + ", " + std::to_string(c) + "): ");
          } else {
            break;
          }
          any = true;
        }
      }
    }
    return any;
  }

  // The worker's body: a START, `rest` further steps, then 1 + `more` outputs.
  void step(Core& core, Mode mode, const std::string& where) {
    const BObject& b = *core.b.front();
    if (b.tail(tail::kMagicAt) != tail::kMagic)
      throw Violation(where + "a weight object without the tail's magic number");
    const int32_t flags = b.tail(tail::kFlagsAt);
    if (flags & ~(tail::kStart | tail::kShift7)) throw Violation(where + "a tail with unknown flags");
    const bool start = flags & tail::kStart;
    if (start == core.in_tile) {
      throw Violation(where + (start ? "START in the middle of an output tile" : "an output tile without START"));
    }
    if (start) {
      begin(core, b, where);
    } else {
      --core.rest;
    }
    bool fits = true;
    if (mode == Mode::kExact) {
      if (!core.programs) core.programs = std::make_unique<CorePrograms>();
      fits = core.programs->step(*core.a.front(), b);
    } else if (mode == Mode::kFast) {
      fits = !(flags & tail::kShift7) || shift7(core.sums.data());
      multiply_fast(*core.a.front(), b, core.sums.data());
    }
    if (!fits) throw Violation(where + "a sum leaves int32");
    core.a.pop_front();
    core.b.pop_front();
    ++steps_;
    if (core.rest > 0) return;

    core.in_tile = false;
    std::vector<uint8_t> first(overlay::kCSegment), second(overlay::kCSegment);
    if (mode == Mode::kExact) {
      fits = core.programs->finish(first.data(), second.data());
    } else if (mode == Mode::kFast) {
      fits = finish(core.sums.data(), core.parameters, first.data(), second.data());
    }
    if (!fits) throw Violation(where + "a sum with its bias leaves int32");
    if (core.more) core.output.push_back(std::move(second));
    core.output.push_back(std::move(first));
  }

  void begin(Core& core, const BObject& b, const std::string& where) {
    const auto require = [&](bool holds, const char* what) {
      if (!holds) throw Violation(where + what);
    };
    const auto in_range = [&](int at, int high) { return b.tail(at) >= 0 && b.tail(at) <= high; };
    constexpr int kMaxShift = 30, kMaxFactor = 32767;
    const int g = tail::kGeluAt;
    require(in_range(tail::kModeAt, 2), "a tail with an unknown output mode");
    require(b.tail(tail::kMoreAt) == (b.tail(tail::kModeAt) != 0), "a tail whose number of planes is not its mode's");
    require(b.tail(tail::kRestAt) >= 0, "a tail with a negative number of steps");
    require(in_range(tail::kS1At, kMaxShift) && in_range(tail::kS2At, kMaxShift), "a tail with a shift beyond 30");
    require(in_range(g, kMaxFactor) && in_range(g + 4, kMaxShift) && in_range(g + 8, kMaxFactor) &&
                in_range(g + 12, 14) && in_range(g + 16, kMaxShift) && b.tail(g + 12) + b.tail(g + 16) <= kMaxShift,
            "a tail with GELU constants out of range");
    for (int at = tail::kUnusedAt; at < overlay::kTail; at += 4) {
      if (at == tail::kBiasAt) at = tail::kUnusedEndAt;
      require(b.tail(at) == 0, "a tail whose unused bytes are not 0");
    }
    core.in_tile = true;
    core.rest = b.tail(tail::kRestAt);
    core.more = b.tail(tail::kMoreAt);
    core.parameters = read_parameters(b);
    std::fill(core.sums.begin(), core.sums.end(), 0);
  }

  // From the cores through the memory tiles to the shims.
  bool drain(Shim& shim, Mode mode) {
    bool any = false;
    for (int c = 0; c < variant_.columns; ++c) {
      auto& fifo = memtile_c_[c];
      if (fifo.size() < overlay::kDepth &&
          std::all_of(core_, core_ + kRows, [c](const auto& row) { return !row[c].c.empty(); })) {
        std::vector<uint8_t> object(overlay::kCObject);
        for (int r = 0; r < kRows; ++r) {
          walk(overlay::kCWalk, core_[r][c].c.front().data(), object.data() + r * overlay::kCSegment);
          core_[r][c].c.pop_front();
        }
        fifo.push_back(std::move(object));
        any = true;
      }
      const Channel channel = overlay::c_channel(variant_, c);
      while (!fifo.empty() && shim.ready(channel)) {
        shim.give(channel, mode == Mode::kDelay ? nullptr : fifo.front().data());
        fifo.pop_front();
        any = true;
      }
    }
    return any;
  }

  const overlay::Variant variant_;
  std::deque<MemtileA> memtile_a_[kRows];
  std::deque<std::shared_ptr<const BObject>> memtile_b_[overlay::kMaxColumns];
  std::deque<std::vector<uint8_t>> memtile_c_[overlay::kMaxColumns];
  Core core_[kRows][overlay::kMaxColumns];
  uint64_t steps_ = 0;
};

}  // namespace

std::unique_ptr<Fabric> make_gemm(const overlay::Variant& variant) { return std::make_unique<Gemm>(variant); }

}  // namespace emulated_npu
