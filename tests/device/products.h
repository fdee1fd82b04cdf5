// Whole products for the tests: operands in plain form, as the overlay wants them packed, the expected output by the
// scalar definitions, and the streams of the shapes of a base model, with descriptors written out by hand: each number
// is derived from the walks and not from code that is under test.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/arithmetic.h"
#include "kernels/overlay.h"
#include "tests/device/stream_writer.h"

namespace emulated_npu {

namespace overlay = whisperxdna2::overlay;
namespace tail = overlay::tail;
using whisperxdna2::OutputMode;
using whisperxdna2::OutputStage;

// One product: its operands in plain form, what the array shall give, and the packed form.
struct Product {
  int m, k, n;
  OutputStage stage;
  const overlay::Variant* variant = &overlay::kGemm8;
  std::vector<int16_t> x;  // [m][k], 14 bits where wide
  bool wide = false;
  std::vector<int8_t> w;   // [n][k]
  std::vector<int32_t> bias;
  std::vector<int16_t> multiplier;

  int input_planes() const { return wide ? 2 : 1; }
  int output_planes() const { return stage.mode == OutputMode::kInt8 ? 1 : 2; }

  void fill(unsigned seed) {
    std::mt19937 random(seed);
    const auto within = [&](int limit) {
      return static_cast<int>(random() % static_cast<unsigned>(2 * limit + 1)) - limit;
    };
    x.resize(static_cast<size_t>(m) * k);
    w.resize(static_cast<size_t>(n) * k);
    bias.resize(n);
    multiplier.resize(n);
    for (auto& v : x) v = static_cast<int16_t>(within(wide ? whisperxdna2::kInt14Limit : whisperxdna2::kInt8Limit));
    for (auto& v : w) v = static_cast<int8_t>(within(127));
    for (auto& v : bias) v = within(1 << 20);
    for (auto& v : multiplier) v = static_cast<int16_t>(8192 + random() % 24000);
    stage.s1 = wide ? 14 : 8;
    stage.s2 = stage.mode == OutputMode::kInt8 ? 22 : 15;
    stage.gelu = {20000, 16, 12000, 14, 2};
  }

  std::vector<uint8_t> packed_a() const {
    const size_t row = static_cast<size_t>(k) * input_planes();
    std::vector<uint8_t> bytes(row * m);
    for (int i = 0; i < m; ++i) {
      for (int j = 0; j < k; ++j) {
        const int16_t value = x[static_cast<size_t>(i) * k + j];
        if (wide) {
          bytes[row * i + j] = static_cast<uint8_t>(whisperxdna2::plane14_hi(value));
          bytes[row * i + k + j] = static_cast<uint8_t>(whisperxdna2::plane14_lo(value));
        } else {
          bytes[row * i + j] = static_cast<uint8_t>(value);
        }
      }
    }
    return bytes;
  }

  std::vector<uint8_t> packed_w() const {
    std::vector<uint8_t> bytes;
    const int steps = k * input_planes() / overlay::kTileK;
    for (int column = 0; column < variant->columns; ++column) {
      for (int nb = 0; nb < n / variant->n_block; ++nb) {
        for (int kt = 0; kt < steps; ++kt) {
          const int n0 = nb * variant->n_block + column * overlay::kTileN;
          const int k0 = kt * overlay::kTileK % k;
          std::vector<uint8_t> object(overlay::kBObject);
          for (int i = 0; i < overlay::kTileN; ++i) {
            for (int j = 0; j < overlay::kTileK; ++j) {
              object[static_cast<size_t>((i / 8 * 16 + j / 8) * 64 + j % 8 * 8 + i % 8)] =
                  static_cast<uint8_t>(w[static_cast<size_t>(n0 + i) * k + k0 + j]);
            }
          }
          const auto put = [&](int at, int32_t value) { memcpy(&object[overlay::kWeights + at], &value, 4); };
          put(tail::kMagicAt, tail::kMagic);
          put(tail::kFlagsAt, (kt == 0 ? tail::kStart : 0) | (wide && kt == steps / 2 ? tail::kShift7 : 0));
          put(tail::kRestAt, steps - 1);
          put(tail::kMoreAt, output_planes() - 1);
          put(tail::kS1At, stage.s1);
          put(tail::kS2At, stage.s2);
          put(tail::kModeAt, static_cast<int32_t>(stage.mode));
          const int32_t gelu[5] = {stage.gelu.c, stage.gelu.s, stage.gelu.d, stage.gelu.t, stage.gelu.out_shift};
          memcpy(&object[overlay::kWeights + tail::kGeluAt], gelu, sizeof gelu);
          memcpy(&object[overlay::kWeights + tail::kBiasAt], &bias[static_cast<size_t>(n0)], 256);
          memcpy(&object[overlay::kWeights + tail::kMultiplierAt], &multiplier[static_cast<size_t>(n0)], 128);
          bytes.insert(bytes.end(), object.begin(), object.end());
        }
      }
    }
    return bytes;
  }

  std::vector<uint8_t> expected() const {
    std::vector<uint8_t> bytes(static_cast<size_t>(m) * n * output_planes());
    std::vector<int8_t> narrow(x.begin(), x.end());
    for (int i = 0; i < m; ++i) {
      for (int j = 0; j < n; ++j) {
        const int8_t* const weights = &w[static_cast<size_t>(j) * k];
        const int32_t sum = wide ? whisperxdna2::dot(&x[static_cast<size_t>(i) * k], weights, k)
                                 : whisperxdna2::dot(&narrow[static_cast<size_t>(i) * k], weights, k);
        const int16_t y = whisperxdna2::output(sum, bias[j], multiplier[j], stage);
        uint8_t* const row = &bytes[static_cast<size_t>(i) * n * output_planes()];
        switch (stage.mode) {
          case OutputMode::kInt8:
            row[j] = static_cast<uint8_t>(y);
            break;
          case OutputMode::kInt16:
            row[j] = static_cast<uint8_t>(whisperxdna2::plane16_hi(y));
            row[n + j] = whisperxdna2::plane16_lo(y);
            break;
          case OutputMode::kGelu14:
            row[j] = static_cast<uint8_t>(whisperxdna2::plane14_hi(y));
            row[n + j] = static_cast<uint8_t>(whisperxdna2::plane14_lo(y));
            break;
        }
      }
    }
    return bytes;
  }
};

// Descriptor words w0 w3 w4 w5 w6 w7, the byte offset as (column or row, number of the task), and the repeat field.
struct Task {
  std::array<uint32_t, 6> words;
  uint64_t stride, task_stride;
  uint32_t repeat;
  int tasks;
};
struct Plan {
  Task a, b, c;
};
// For gemm8.
constexpr Plan kOut{{{0x2000, 0x02000000, 0xC400007F, 0x0200001F, 0x00107FFF, 0x02000000}, 32768, 0, 1, 1},
                    {{0x2200, 0, 0xC0000000, 0x02000000, 0, 0x02000000}, 34816, 0, 1, 1},
                    {{0x2000, 0x01000000, 0xD00000FF, 0x0200007F, 0x0010FFFF, 0x02000000}, 64, 0, 1, 1}};
constexpr Plan kQkv{{{0x2000, 0x02000000, 0xC400007F, 0x0200001F, 0, 0x02000000}, 32768, 131072, 2, 2},
                    {{0x6600, 0, 0xC0000000, 0x02000000, 0, 0x02000000}, 104448, 0, 1, 1},
                    {{0x3000, 0x01000000, 0xD000017F, 0x0200007F, 0x00117FFF, 0x02000000}, 64, 0, 1, 1}};
constexpr Plan kFc1{{{0x2000, 0x02000000, 0xC400007F, 0x0200001F, 0, 0x02000000}, 32768, 131072, 3, 2},
                    {{0x8800, 0, 0xC0000000, 0x02000000, 0, 0x02000000}, 139264, 0, 1, 1},
                    {{0x2000, 0x01000000, 0xD00003FF, 0x020001FF, 0x0030007F, 0x02000000}, 64, 1048576, 3, 2}};
constexpr Plan kFc2{{{0x10000, 0x02000000, 0xC40003FF, 0x0200001F, 0x0013FFFF, 0x02000000}, 262144, 0, 1, 1},
                    {{0x11000, 0, 0xC0000000, 0x02000000, 0, 0x02000000}, 278528, 0, 1, 1},
                    {{0x2000, 0x01000000, 0xD00000FF, 0x0200007F, 0x0010FFFF, 0x02000000}, 64, 0, 1, 1}};

inline std::vector<uint32_t> gemm8_stream(const Plan& plan, bool compact = false) {
  const overlay::Variant& variant = overlay::kGemm8;
  StreamWriter stream(compact);
  for (int c = 0; c < 8; ++c) stream.controller(c_channel(variant, c));
  for (int t = 0; t < 4; ++t) {
    for (int r = 0; t < plan.a.tasks && r < 4; ++r) {
      stream.task(a_channel(variant, r), overlay::kABd + t, plan.a.words, 0, r * plan.a.stride + t * plan.a.task_stride,
                  plan.a.repeat, false);
    }
    for (int c = 0; c < 8; ++c) {
      if (t < plan.b.tasks) {
        stream.task(b_channel(variant, c), overlay::kBBd + t, plan.b.words, 1, c * plan.b.stride, plan.b.repeat, false);
      }
      if (t < plan.c.tasks) {
        stream.task(c_channel(variant, c), overlay::kCBd + t, plan.c.words, 2,
                    c * plan.c.stride + t * plan.c.task_stride, plan.c.repeat, t == plan.c.tasks - 1);
      }
    }
  }
  for (int c = 0; c < 8; ++c) stream.token_wait(c_channel(variant, c));
  return stream.words();
}

inline Product shaped(int m, int k, int n, OutputMode mode, bool wide, unsigned seed) {
  Product product{m, k, n, {mode, 0, 0, {}}, &overlay::kGemm8, {}, wide, {}, {}, {}};
  product.fill(seed);
  return product;
}

}  // namespace emulated_npu
