// Writes transaction streams for the tests of the emulated device, operation by operation and in both versions. It is
// no product code: what is tested here must not depend on npu/'s builder.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "kernels/overlay.h"

namespace emulated_npu {

class StreamWriter {
 public:
  explicit StreamWriter(bool compact = false) : compact_(compact) {}

  void write(uint32_t address, uint32_t value) {
    if (compact_) {
      add({0, address, value});
    } else {
      add({0, 0, address, 0, value, 24});
    }
  }
  void block_write(uint32_t address, const std::vector<uint32_t>& words) {
    const uint32_t bytes = static_cast<uint32_t>(words.size() + (compact_ ? 3 : 4)) * 4;
    add(compact_ ? std::vector<uint32_t>{1, address, bytes} : std::vector<uint32_t>{1, 0, address, bytes});
    body_.insert(body_.end(), words.begin(), words.end());
  }
  void mask_write(uint32_t address, uint32_t value, uint32_t mask) {
    if (compact_) {
      add({3, address, value, mask});
    } else {
      add({3, 0, address, 0, value, mask, 28});
    }
  }
  void patch(uint32_t address, uint32_t argument, uint64_t offset) {
    const auto low = static_cast<uint32_t>(offset), high = static_cast<uint32_t>(offset >> 32);
    if (compact_) {
      add({0x81, 24, address, argument, low, high});
    } else {
      add({0x81, 48, 0, 0, 0, 0, address, 0, argument, 0, low, high});
    }
  }
  void token_wait(const whisperxdna2::overlay::Channel& channel) {
    add({0x80, 16, static_cast<uint32_t>(channel.direction) | static_cast<uint32_t>(channel.column) << 16,
         0x00010100u | static_cast<uint32_t>(channel.index) << 24});
  }
  void load_pdi(uint32_t id) { add({8 | id << 16, 0, 0, 0}); }
  void add(const std::vector<uint32_t>& operation) {
    body_.insert(body_.end(), operation.begin(), operation.end());
    ++operations_;
  }

  void controller(const whisperxdna2::overlay::Channel& channel) {
    mask_write(control_address(channel), whisperxdna2::overlay::kController << 8,
               whisperxdna2::overlay::kControllerMask);
  }
  // Descriptor words w0 w3 w4 w5 w6 w7, then its patch and its push.
  void task(const whisperxdna2::overlay::Channel& channel, int bd, const std::array<uint32_t, 6>& w, uint32_t argument,
            uint64_t offset, uint32_t repeat, bool token) {
    const uint32_t address = whisperxdna2::overlay::bd_address(channel.column, bd);
    block_write(address, {w[0], 0, 0, w[1], w[2], w[3], w[4], w[5]});
    patch(address + 4, argument, offset);
    push(channel, bd, repeat, token);
  }
  void push(const whisperxdna2::overlay::Channel& channel, int bd, uint32_t repeat, bool token) {
    write(queue_address(channel), static_cast<uint32_t>(bd) | repeat << 16 | (token ? 1u << 31 : 0));
  }

  std::vector<uint32_t> words() const {
    std::vector<uint32_t> all{6u << 24 | 4u << 16 | (compact_ ? 0u << 8 | 1u : 1u << 8 | 0u), 1u << 8 | 8u, operations_,
                              static_cast<uint32_t>(body_.size() + 4) * 4};
    all.insert(all.end(), body_.begin(), body_.end());
    return all;
  }

 private:
  const bool compact_;
  uint32_t operations_ = 0;
  std::vector<uint32_t> body_;
};

// result[i] = left[i] (+ or *) right[i] for the overlays vadd and vmul: n int32, a multiple of 16; arguments 0, 1, 2.
inline void elementwise_stream(uint32_t n, StreamWriter& stream) {
  using whisperxdna2::overlay::Channel;
  using whisperxdna2::overlay::Direction;
  const Channel channels[3] = {{0, Direction::kMm2s, 0}, {0, Direction::kMm2s, 1}, {0, Direction::kS2mm, 0}};
  stream.controller(channels[2]);
  for (uint32_t i = 0; i < 3; ++i) {
    stream.task(channels[i], static_cast<int>(i), {n, 0, 0xC0000000, 0x02000000, 0, 0x02000000}, i, 0, 0, i == 2);
  }
  stream.token_wait(channels[2]);
}
inline StreamWriter elementwise_stream(uint32_t n, bool compact = false) {
  StreamWriter stream(compact);
  elementwise_stream(n, stream);
  return stream;
}

}  // namespace emulated_npu
