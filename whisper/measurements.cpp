#include "whisper/measurements.h"

#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "whisper/error.h"
#include "whisper/silent_tail.h"

#include "base_measurements_file.h"  // made by the build, as the next one
#include "tiny_en_measurements_file.h"

#define WHISPERXDNA2_INCLUDE(symbol, file, sum)                              \
  asm(".section .rodata\n"                                                   \
      ".hidden " #symbol "\n.global " #symbol "\n" #symbol ":\n"             \
      ".incbin \"" file "\" # " sum "\n"                                     \
      ".hidden " #symbol "_end\n.global " #symbol "_end\n" #symbol "_end:\n" \
      ".previous\n");                                                        \
  extern "C" const char symbol[], symbol##_end[];
WHISPERXDNA2_INCLUDE(whisperxdna2_measurements_base, BASE_MEASUREMENTS_FILE, BASE_MEASUREMENTS_FILE_SUM)
WHISPERXDNA2_INCLUDE(whisperxdna2_measurements_tiny_en, TINY_EN_MEASUREMENTS_FILE, TINY_EN_MEASUREMENTS_FILE_SUM)

namespace whisperxdna2 {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the serialized form is the one in memory");

constexpr char kMagic[8] = {'W', 'X', 'D', '2', 'M', 'S', 'R', '2'};

std::string encoder_key(const Model& model) { return model.content_key.substr(0, 32); }

std::vector<std::string_view> stored_files() {
  const auto file = [](const char* begin, const char* end) { return std::string_view(begin, end - begin); };
  return {file(whisperxdna2_measurements_base, whisperxdna2_measurements_base_end),
          file(whisperxdna2_measurements_tiny_en, whisperxdna2_measurements_tiny_en_end)};
}

[[noreturn]] void refuse(const std::string& what) {
  throw Error(ErrorCode::kInvalidFile, "measurements of a model " + what);
}

// Visits all values in the order of the file. visit(std::vector<float>&, size) may replace them.
template <class Visit>
void visit_all(Measurements* m, const ModelDims& dims, const Visit& visit) {
  const size_t d = dims.d_model;
  const auto means = [&](Ranges* r, size_t width) {
    std::vector<float> mean(width);
    for (size_t c = 0; c < r->sum.size() && r->rows > 0; ++c) {
      mean[c] = static_cast<float>(r->mean(static_cast<int>(c)));
    }
    visit(mean, width);
    r->sum.assign(mean.begin(), mean.end());
    r->rows = 1;
  };
  const auto largest = [&](Ranges* r, size_t width) {
    for (size_t c = 0; c < r->low.size(); ++c) r->high[c] = std::max(r->high[c], -r->low[c]);
    visit(r->high, width);
    r->low.clear();
    for (float h : r->high) r->low.push_back(-h);
  };
  for (LayerRanges& l : m->calibration.layers) {
    for (Ranges* r : {&l.qkv_input, &l.out_input, &l.fc1_input}) {
      visit(r->low, d);
      visit(r->high, d);
      means(r, d);
    }
    visit(l.fc2_input.high, 4 * d);
    means(&l.fc2_input, 4 * d);
    visit(l.qkv_output.low, 3 * d);
    visit(l.qkv_output.high, 3 * d);
    largest(&l.fc1_output, 4 * d);
    largest(&l.fc2_output, d);
  }
  visit(m->tail, kTailRows * d);
}

}  // namespace

std::string serialize(Measurements m, const Model& model) {
  std::string upper, lower;
  visit_all(&m, model.dims, [&](std::vector<float>& values, size_t size) {
    if (values.size() != size) refuse("are of other dimensions than the model");
    for (float v : values) {
      uint32_t bits;
      std::memcpy(&bits, &v, sizeof bits);
      bits += 0x7fff + (bits >> 16 & 1);  // to nearest, ties to even
      upper += static_cast<char>(bits >> 24);
      lower += static_cast<char>(bits >> 16);
    }
  });
  const std::string planes = upper + lower;
  uLongf size = compressBound(planes.size());
  std::string deflated(size, '\0');
  compress2(reinterpret_cast<Bytef*>(deflated.data()), &size, reinterpret_cast<const Bytef*>(planes.data()),
            planes.size(), 9);
  deflated.resize(size);

  const uint32_t count = static_cast<uint32_t>(upper.size());
  return std::string(kMagic, sizeof kMagic) + encoder_key(model) +
         std::string(reinterpret_cast<const char*>(&count), sizeof count) + deflated;
}

Measurements parse_measurements(const std::string& bytes, const Model& model) {
  size_t at = 0;
  const auto take = [&](size_t count) {
    if (count > bytes.size() - at) refuse("end too early");
    at += count;
    return std::string_view(bytes).substr(at - count, count);
  };
  if (take(sizeof kMagic) != std::string_view(kMagic, sizeof kMagic)) refuse("are in no format of this version");
  const std::string key = encoder_key(model);
  if (take(key.size()) != key) refuse("are those of other weights");
  uint32_t stored;
  std::memcpy(&stored, take(sizeof stored).data(), sizeof stored);

  Measurements m;
  m.calibration.layers.resize(model.dims.n_encoder_layers);
  size_t count = 0;
  visit_all(&m, model.dims, [&](std::vector<float>& values, size_t size) {
    values.resize(size);
    count += size;
  });
  if (stored != count) refuse("are of other dimensions than the model");
  std::string planes(2 * count, '\0');
  uLongf size = planes.size();
  if (uncompress(reinterpret_cast<Bytef*>(planes.data()), &size, reinterpret_cast<const Bytef*>(bytes.data()) + at,
                 bytes.size() - at) != Z_OK ||
      size != planes.size()) {
    refuse("are damaged");
  }
  size_t next = 0;
  visit_all(&m, model.dims, [&](std::vector<float>& values, size_t) {
    for (float& v : values) {
      const uint32_t bits = static_cast<uint32_t>(static_cast<uint8_t>(planes[next])) << 24 |
                            static_cast<uint32_t>(static_cast<uint8_t>(planes[count + next])) << 16;
      std::memcpy(&v, &bits, sizeof v);
      if (!std::isfinite(v)) refuse("hold what is not a number");
      ++next;
    }
  });
  return m;
}

std::optional<Measurements> stored_measurements(const Model& model) {
  for (const std::string_view file : stored_files()) {
    try {
      return parse_measurements(std::string(file), model);
    } catch (const Error&) {  // of another model
    }
  }
  return std::nullopt;
}

}  // namespace whisperxdna2
