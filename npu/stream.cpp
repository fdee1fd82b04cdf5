#include "npu/stream.h"

#include <algorithm>
#include <string>

#include "whisper/error.h"

namespace whisperxdna2::npu {
namespace {

enum Code : uint32_t {
  kWrite = 0,
  kBlockWrite = 1,
  kMaskWrite = 3,
  kTokenWait = 0x80,
  kPatch = 0x81,
};
constexpr uint32_t kHeaderWords = 4;
// Words of an operation, in version 0.1 and in version 1.0; of a block write without its payload.
struct Length {
  uint32_t plain, compact;
};
constexpr Length kWriteLength{6, 3}, kBlockWriteLength{4, 3}, kMaskWriteLength{7, 4}, kTokenWaitLength{4, 4},
    kPatchLength{12, 6};

constexpr uint32_t kBurst512 = 3u << 30;    // index into 64, 128, 256, 512 bytes
constexpr uint32_t kCacheable = 2u << 24;   // AXCACHE
constexpr uint32_t kValid = 1u << 25;

// The words of one stream, read in order. Every access is checked.
class Reader {
 public:
  Reader(const uint32_t* words, size_t count) : words_(words), count_(count) {}
  bool ended() const { return at_ == count_; }
  uint32_t peek() const { return need(1)[0]; }
  const uint32_t* take(size_t count) {
    const uint32_t* from = need(count);
    at_ += count;
    return from;
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorCode::kInvalidFile, "not a transaction stream: " + what + " at word " + std::to_string(at_));
  }

 private:
  const uint32_t* need(size_t count) const {
    if (count > count_ - at_) fail("it ends in an operation");
    return words_ + at_;
  }
  const uint32_t* words_;
  size_t count_, at_ = 0;
};

Operation read_operation(Reader& reader, bool compact) {
  const uint32_t code = reader.peek() & 0xff;
  const auto take = [&](const Length& length) { return reader.take(compact ? length.compact : length.plain); };
  const auto check_size = [&](uint32_t bytes, const Length& length) {
    if (!compact && bytes != length.plain * 4) reader.fail("an operation has an impossible size");
  };
  switch (code) {
    case kWrite: {
      const uint32_t* w = take(kWriteLength);
      check_size(compact ? 0 : w[5], kWriteLength);
      return compact ? Operation::write(w[1], w[2]) : Operation::write(w[2], w[4]);
    }
    case kMaskWrite: {
      const uint32_t* w = take(kMaskWriteLength);
      check_size(compact ? 0 : w[6], kMaskWriteLength);
      return compact ? Operation::mask_write(w[1], w[2], w[3]) : Operation::mask_write(w[2], w[4], w[5]);
    }
    case kBlockWrite: {
      const uint32_t head = compact ? kBlockWriteLength.compact : kBlockWriteLength.plain;
      const uint32_t* w = reader.take(head);
      const uint32_t bytes = w[head - 1];
      if (bytes % 4 != 0 || bytes / 4 < head) reader.fail("a block write has an impossible size");
      const uint32_t* payload = reader.take(bytes / 4 - head);
      return Operation::block_write(w[head - 2], {payload, payload + bytes / 4 - head});
    }
    case kPatch: {
      const uint32_t* w = take(kPatchLength);
      check_size(w[1], kPatchLength);
      if (compact) return Operation::patch(w[2], w[3] & 0xff, w[4] | uint64_t{w[5]} << 32);
      return Operation::patch(w[6], w[8], w[10] | uint64_t{w[11]} << 32);
    }
    case kTokenWait: {
      const uint32_t* w = take(kTokenWaitLength);
      const uint32_t direction = w[2] & 0xff, row = w[2] >> 8 & 0xff, column = w[2] >> 16 & 0xff;
      const uint32_t rows = w[3] >> 8 & 0xff, columns = w[3] >> 16 & 0xff, index = w[3] >> 24;
      if (direction > 1 || row != 0 || rows != 1 || columns != 1 || column >= overlay::kMaxColumns || index > 1) {
        reader.fail("a token wait is not for one channel of a shim");
      }
      return Operation::token_wait(
          {static_cast<int>(column), static_cast<overlay::Direction>(direction), static_cast<int>(index)});
    }
    default:
      reader.fail("unknown operation " + std::to_string(code));
  }
}

void append(std::vector<uint32_t>& words, std::initializer_list<uint32_t> more) {
  words.insert(words.end(), more);
}

void append(std::vector<uint32_t>& words, const Operation& o) {
  switch (o.kind) {
    case Operation::Kind::kWrite:
      return append(words, {kWrite, 0, o.address, 0, o.value, kWriteLength.plain * 4});
    case Operation::Kind::kMaskWrite:
      return append(words, {kMaskWrite, 0, o.address, 0, o.value, o.mask, kMaskWriteLength.plain * 4});
    case Operation::Kind::kBlockWrite:
      append(words, {kBlockWrite, 0, o.address,
                     (kBlockWriteLength.plain + static_cast<uint32_t>(o.payload.size())) * 4});
      words.insert(words.end(), o.payload.begin(), o.payload.end());
      return;
    case Operation::Kind::kPatch:
      return append(words, {kPatch, kPatchLength.plain * 4, 0, 0, 0, 0, o.address, 0, o.argument, 0,
                            static_cast<uint32_t>(o.offset), static_cast<uint32_t>(o.offset >> 32)});
    case Operation::Kind::kTokenWait:
      return append(words, {kTokenWait, kTokenWaitLength.plain * 4,
                            static_cast<uint32_t>(o.channel.direction) | static_cast<uint32_t>(o.channel.column) << 16,
                            1u << 8 | 1u << 16 | static_cast<uint32_t>(o.channel.index) << 24});
  }
}

bool is_step(uint64_t words) { return words >= 1 && words <= overlay::kMaxBdStep; }

}  // namespace

Operation Operation::write(uint32_t address, uint32_t value) {
  Operation o;
  o.kind = Kind::kWrite;
  o.address = address;
  o.value = value;
  return o;
}

Operation Operation::mask_write(uint32_t address, uint32_t value, uint32_t mask) {
  Operation o = write(address, value);
  o.kind = Kind::kMaskWrite;
  o.mask = mask;
  return o;
}

Operation Operation::block_write(uint32_t address, std::vector<uint32_t> payload) {
  Operation o;
  o.kind = Kind::kBlockWrite;
  o.address = address;
  o.payload = std::move(payload);
  return o;
}

Operation Operation::patch(uint32_t address, uint32_t argument, uint64_t offset) {
  Operation o;
  o.kind = Kind::kPatch;
  o.address = address;
  o.argument = argument;
  o.offset = offset;
  return o;
}

Operation Operation::token_wait(const overlay::Channel& channel) {
  Operation o;
  o.kind = Kind::kTokenWait;
  o.channel = channel;
  return o;
}

bool Operation::operator==(const Operation& other) const {
  return kind == other.kind && address == other.address && value == other.value && mask == other.mask &&
         payload == other.payload && argument == other.argument && offset == other.offset &&
         channel.column == other.channel.column && channel.direction == other.channel.direction &&
         channel.index == other.channel.index;
}

std::vector<uint32_t> encode(const std::vector<Operation>& operations) {
  std::vector<uint32_t> words{overlay::kArrayRows << 24 | overlay::kDeviceGeneration << 16 | 1u << 8,
                              overlay::kMemtileRows << 8 | overlay::kMaxColumns,
                              static_cast<uint32_t>(operations.size()), 0};
  for (const Operation& o : operations) append(words, o);
  words[3] = static_cast<uint32_t>(words.size() * 4);
  return words;
}

std::vector<Operation> decode(const uint32_t* words, size_t count) {
  Reader reader(words, count);
  const uint32_t* header = reader.take(kHeaderWords);
  const uint32_t major = header[0] & 0xff, minor = header[0] >> 8 & 0xff;
  const bool compact = major == 1 && minor == 0;
  if (!compact && !(major == 0 && minor == 1)) reader.fail("neither version 0.1 nor 1.0");
  if ((header[0] >> 16 & 0xff) != overlay::kDeviceGeneration) reader.fail("made for another kind of NPU");
  if (header[3] != count * 4) reader.fail("its size is not the one in its header");
  std::vector<Operation> operations;
  while (!reader.ended()) operations.push_back(read_operation(reader, compact));
  if (operations.size() != header[2]) reader.fail("the number of operations is not the one in its header");
  return operations;
}

bool fits(const ShimWalk& w) {
  const bool sizes = w.size0 <= overlay::kMaxBdSize && w.size1 <= overlay::kMaxBdSize;
  const bool steps = is_step(w.step0) && is_step(w.step1) && is_step(w.step2);
  // A repeat without a step is the queue entry's; with one it is the descriptor's iteration as well.
  const uint64_t most_runs = w.run_step == 0 ? overlay::kMaxRepeat : overlay::kMaxIterations;
  const bool runs = w.runs >= 1 && w.runs <= most_runs && (w.run_step == 0 || is_step(w.run_step));
  return w.length >= 1 && w.length <= UINT32_MAX && sizes && steps && runs;
}

std::array<uint32_t, overlay::kBdWords> descriptor(const ShimWalk& w) {
  const auto step = [](uint64_t words) { return static_cast<uint32_t>(words - 1); };
  const auto size = [](uint64_t n) { return static_cast<uint32_t>(n) << 20; };
  const bool iterates = w.runs > 1 && w.run_step > 0;
  return {static_cast<uint32_t>(w.length),
          0,
          0,
          size(w.size0) | step(w.step0),
          kBurst512 | size(w.size1) | step(w.step1),
          kCacheable | step(w.step2),
          iterates ? size(w.runs - 1) | step(w.run_step) : 0,
          kValid};
}

uint32_t queue_entry(int bd, uint64_t runs, bool token) {
  return static_cast<uint32_t>(bd) | static_cast<uint32_t>(runs - 1) << 16 | (token ? 1u << 31 : 0);
}

}  // namespace whisperxdna2::npu
