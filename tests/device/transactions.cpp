#include "tests/device/transactions.h"

#include "kernels/overlay.h"

namespace emulated_npu {
namespace {

namespace overlay = whisperxdna2::overlay;

enum Code : uint32_t {
  kWriteCode = 0,
  kBlockWriteCode = 1,
  kMaskWriteCode = 3,
  kNoopCode = 5,
  kPreemptCode = 6,
  kLoadPdiCode = 8,
  kTokenWaitCode = 0x80,
  kPatchCode = 0x81,
};
constexpr uint32_t kHeaderWords = 4;

[[noreturn]] void fail(uint64_t at, const std::string& why) {
  throw Violation("word " + std::to_string(at) + " of the stream: " + why);
}

}  // namespace

std::vector<Operation> decode(const uint32_t* words, uint64_t count) {
  if (count < kHeaderWords) fail(0, "shorter than its header");
  const uint32_t major = words[0] & 0xff, minor = words[0] >> 8 & 0xff;
  const bool compact = major == 1 && minor == 0;
  if (!compact && !(major == 0 && minor == 1)) {
    fail(0, "version " + std::to_string(major) + "." + std::to_string(minor) + " (known are 0.1 and 1.0)");
  }
  if ((words[0] >> 16 & 0xff) != overlay::kDeviceGeneration || words[0] >> 24 != overlay::kArrayRows ||
      (words[1] >> 8 & 0xff) != overlay::kMemtileRows || (words[1] & 0xff) > overlay::kMaxColumns ||
      (words[1] & 0xff) == 0) {
    fail(0, "the header is not for an NPU2 (generation 4, 6 rows, 1 row of memory tiles, 1 to 8 columns)");
  }
  if (words[3] % sizeof(uint32_t) || words[3] / sizeof(uint32_t) > count ||
      words[3] < kHeaderWords * sizeof(uint32_t)) {
    fail(3, "the header's size, " + std::to_string(words[3]) + " bytes, is not that of whole words inside the " +
                std::to_string(count) + " words of the instruction buffer");
  }
  const uint64_t end = words[3] / sizeof(uint32_t);

  std::vector<Operation> operations;
  for (uint64_t at = kHeaderWords; at < end;) {
    const uint32_t* const w = words + at;
    const uint64_t rest = end - at;
    const auto need = [&](uint64_t size) {
      if (size > rest) fail(at, "the operation goes beyond the end");
    };
    const auto says = [&](uint64_t stated, uint64_t size) {
      if (stated != size * sizeof(uint32_t))
        fail(at, "the operation's size field is " + std::to_string(stated) + " bytes");
    };
    Operation operation{};
    operation.at = at;
    operation.rows = operation.columns = 1;
    uint64_t size = 0;
    switch (w[0] & 0xff) {
      case kWriteCode:
        need(size = compact ? 3 : 6);
        operation.kind = Operation::kWrite;
        operation.address = compact ? w[1] : w[2];
        operation.value = compact ? w[2] : w[4];
        if (!compact) says(w[5], size);
        break;
      case kBlockWriteCode: {
        const uint64_t head = compact ? 3 : 4;
        need(head);
        const uint32_t bytes = w[head - 1];
        size = bytes / sizeof(uint32_t);
        if (bytes % sizeof(uint32_t) || size <= head) fail(at, "a block write of " + std::to_string(bytes) + " bytes");
        need(size);
        operation.kind = Operation::kBlockWrite;
        operation.address = compact ? w[1] : w[2];
        operation.payload = w + head;
        operation.payload_words = static_cast<uint32_t>(size - head);
        break;
      }
      case kMaskWriteCode:
        need(size = compact ? 4 : 7);
        operation.kind = Operation::kMaskWrite;
        operation.address = compact ? w[1] : w[2];
        operation.value = compact ? w[2] : w[4];
        operation.mask = compact ? w[3] : w[5];
        if (!compact) says(w[6], size);
        break;
      case kTokenWaitCode:
        need(size = 4);
        says(w[1], size);
        operation.kind = Operation::kTokenWait;
        operation.direction = static_cast<int>(w[2] & 0xff);
        operation.row = static_cast<int>(w[2] >> 8 & 0xff);
        operation.column = static_cast<int>(w[2] >> 16 & 0xff);
        operation.rows = static_cast<int>(w[3] >> 8 & 0xff);
        operation.columns = static_cast<int>(w[3] >> 16 & 0xff);
        operation.channel = static_cast<int>(w[3] >> 24);
        break;
      case kPatchCode:
        need(size = compact ? 6 : 12);
        says(w[1], size);
        operation.kind = Operation::kPatch;
        operation.address = compact ? w[2] : w[6];
        operation.argument = compact ? w[3] & 0xff : w[8];
        operation.offset = compact ? w[4] | uint64_t{w[5]} << 32 : w[10] | uint64_t{w[11]} << 32;
        if (!compact && w[5] != 0) fail(at, "the address patch has an action other than 0");
        break;
      case kLoadPdiCode:
        need(size = 4);
        operation.kind = Operation::kLoadPdi;
        operation.value = w[1];
        operation.offset = w[2] | uint64_t{w[3]} << 32;
        break;
      case kNoopCode:
      case kPreemptCode:
        size = 1;
        operation.kind = Operation::kNothing;
        break;
      default:
        fail(at, "operation code " + std::to_string(w[0] & 0xff) + " is unknown");
    }
    operations.push_back(operation);
    at += size;
  }
  if (operations.size() != words[2]) {
    fail(2, "the header counts " + std::to_string(words[2]) + " operations, the stream has " +
                std::to_string(operations.size()));
  }
  return operations;
}

}  // namespace emulated_npu
