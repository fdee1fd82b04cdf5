// Prints kernels/overlay.h as JSON, for the design, the resource checker and the build, which are Python; or with
// "identity NAME" the line that an xclbin of that variant carries.
#include <cstdio>
#include <cstring>
#include <string>

#include "kernels/overlay.h"

using namespace whisperxdna2::overlay;

namespace {

const Variant* const kVariants[] = {&kGemm8, &kGemm1};

std::string json(const Channel& channel) {
  return "[" + std::to_string(channel.column) + ", \"" + (channel.direction == Direction::kMm2s ? "MM2S" : "S2MM") +
         "\", " + std::to_string(channel.index) + "]";
}

// [f(0), f(1), ...]
template <typename F>
std::string list(int count, F f) {
  std::string text;
  for (int i = 0; i < count; ++i) text += (i ? ", " : "") + f(i);
  return "[" + text + "]";
}

// Loops and run as (size, stride), outermost first.
std::string json(const Walk& walk) {
  return list(4, [&](int i) {
    const Walk::Loop loop = i < 3 ? walk.outer[i] : Walk::Loop{walk.run, 1};
    return "[" + std::to_string(loop.size) + ", " + std::to_string(loop.stride) + "]";
  });
}

std::string json(const Variant& v) {
  return std::string("{\"name\": \"") + v.name + "\", \"identity\": \"" + identity(v) +
         "\", \"columns\": " + std::to_string(v.columns) + ", \"a_object\": " + std::to_string(v.a_object) +
         ", \"n_block\": " + std::to_string(v.n_block) +
         ",\n     \"a_channels\": " + list(a_streams(v), [&](int i) { return json(a_channel(v, i)); }) +
         ",\n     \"b_channels\": " + list(v.columns, [&](int i) { return json(b_channel(v, i)); }) +
         ",\n     \"c_channels\": " + list(v.columns, [&](int i) { return json(c_channel(v, i)); }) + "}";
}

}  // namespace

int main(int count, char** arguments) {
  if (count == 3 && std::strcmp(arguments[1], "identity") == 0) {
    for (const Variant* v : kVariants) {
      if (std::strcmp(v->name, arguments[2]) == 0) return std::puts(identity(*v).c_str()) < 0;
    }
    std::fprintf(stderr, "no overlay is called %s\n", arguments[2]);
    return 1;
  }
  std::printf("{\"version\": %d, \"identity_key\": \"%s\", \"kernel\": \"%s\",\n", kVersion, kIdentityKey, kKernelName);
  std::printf(" \"variants\": [\n    %s,\n    %s],\n", json(*kVariants[0]).c_str(), json(*kVariants[1]).c_str());
  std::printf(" \"a_walk\": %s, \"c_walk\": %s,\n", json(kAWalk).c_str(), json(kCWalk).c_str());
  const struct {
    const char* name;
    int value;
  } numbers[] = {{"core_rows", kCoreRows},
                 {"tile_m", kTileM},
                 {"tile_k", kTileK},
                 {"tile_n", kTileN},
                 {"block", kBlock},
                 {"row_block", kRowBlock},
                 {"a_share", kAObject},
                 {"b_object", kBObject},
                 {"c_segment", kCSegment},
                 {"c_object", kCObject},
                 {"tail", kTail},
                 {"depth", kDepth},
                 {"core_c_depth", kCoreCDepth},
                 {"rest_at", tail::kRestAt},
                 {"more_at", tail::kMoreAt},
                 {"core_memory", kCoreMemory},
                 {"core_stack", kCoreStack},
                 {"core_tables", kCoreTables},
                 {"shim_bds", kShimBds},
                 {"queue_depth", kQueueDepth},
                 {"max_bd_size", kMaxBdSize},
                 {"max_bd_step", kMaxBdStep},
                 {"max_iterations", kMaxIterations},
                 {"max_repeat", kMaxRepeat},
                 {"tasks_per_operand", kTasksPerOperand},
                 {"buffer_arguments", kBufferArguments}};
  for (const auto& number : numbers) std::printf(" \"%s\": %d,\n", number.name, number.value);
  std::printf(" \"controller\": %u}\n", kController);
}
