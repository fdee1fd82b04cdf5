#include "tests/device/array.h"

#include <algorithm>

#include "kernels/overlay.h"
#include "tests/device/fabric.h"
#include "tests/device/shim.h"
#include "tests/device/transactions.h"

namespace emulated_npu {
namespace {

namespace overlay = whisperxdna2::overlay;

std::unique_ptr<Fabric> make_fabric(const std::string& name) {
  for (const overlay::Variant& variant : {overlay::kGemm8, overlay::kGemm1}) {
    if (name == variant.name) return make_gemm(variant);
  }
  if (name == "vadd" || name == "vmul") return make_elementwise(name == "vmul");
  return nullptr;
}

}  // namespace

Array::Array() = default;
Array::~Array() = default;

std::string Array::load(const std::string& pdi) {
  const std::string key = "overlay=";
  const size_t at = pdi.find(key);
  if (at == std::string::npos) return "the PDI is not one for the emulated NPU: it has no line \"overlay=NAME\"";
  overlay_ = pdi.substr(at + key.size(), pdi.find('\n', at) - at - key.size());
  reset();
  return fabric_ ? "" : "the emulated NPU knows no overlay \"" + overlay_ + "\"";
}

void Array::reset() {
  fabric_ = make_fabric(overlay_);
  passed_.clear();
  broken_ = false;
}

Outcome Array::run(const Command& command, const Memory& memory, Mode mode) {
  if (mode != Mode::kDelay || !command.arguments || broken_) return walk(command, memory, mode);
  const std::pair key(command.words, *command.arguments);
  const auto known = passed_.find(key);
  if (known != passed_.end() && std::equal(known->second.words.begin(), known->second.words.end(), command.words,
                                           command.words + command.word_count)) {
    Outcome outcome;
    outcome.mmac = known->second.mmac;
    return outcome;
  }
  const Outcome outcome = walk(command, memory, mode);
  if (outcome.kind == Outcome::kDone) {
    passed_[key] = {{command.words, command.words + command.word_count}, outcome.mmac};
  }
  return outcome;
}

Outcome Array::walk(const Command& command, const Memory& memory, Mode mode) {
  Outcome outcome;
  const auto end = [&](Outcome::Kind kind, const std::string& message) {
    outcome.kind = kind;
    outcome.message = message;
    return outcome;
  };
  if (broken_) {
    return end(Outcome::kFailed,
               "an earlier command stopped in the middle, and its data is still in the fifos and cores: "
               "make a new context");
  }
  uint64_t products = 0;
  try {
    const std::vector<Operation> operations = decode(command.words, command.word_count);
    if (!operations.empty() && operations[0].kind == Operation::kLoadPdi) {
      const Operation& load_pdi = operations[0];
      // XRT fills in the address and not the size.
      constexpr size_t kLongest = 4096;
      std::string pdi;
      while (const uint8_t* const next = memory.at(load_pdi.offset + pdi.size(), 1)) {
        if (*next == 0 || pdi.size() == kLongest) break;
        pdi += static_cast<char>(*next);
      }
      const std::string trouble = load(pdi);
      if (!trouble.empty()) throw Violation(trouble);
    }
    if (!fabric_) throw Violation("no overlay is loaded");

    broken_ = true;
    // Nothing of the registers outlives a stream here: after a suspend it would not on silicon either.
    Shim shim(fabric_->columns(), [this](const Channel& channel) { return fabric_->object_size(channel); });
    for (const Operation& operation : operations) {
      const auto where = [&] { return "word " + std::to_string(operation.at) + " of the stream: "; };
      switch (operation.kind) {
        case Operation::kWrite:
          shim.write(operation, memory, command.arguments == nullptr);
          break;
        case Operation::kBlockWrite:
          shim.block_write(operation);
          break;
        case Operation::kMaskWrite:
          shim.mask_write(operation);
          break;
        case Operation::kPatch:
          if (command.arguments) shim.patch(operation, *command.arguments);
          break;
        case Operation::kTokenWait: {
          if (operation.rows != 1 || operation.columns != 1)
            throw Violation(where() + "a wait for tokens of several tiles");
          if (operation.row != 0 || operation.column >= fabric_->columns() || operation.direction > 1 ||
              operation.channel > 1) {
            throw Violation(where() + "a wait for a token of a channel that does not exist");
          }
          const Channel channel{operation.column, static_cast<Direction>(operation.direction), operation.channel};
          products += fabric_->run(shim, mode);
          if (!shim.take_token(channel)) {
            std::string reason = fabric_->unfinished();
            if (reason.empty()) reason = "nothing under way will send it";
            outcome.mmac = static_cast<double>(products) / 1e6;
            return end(Outcome::kHung, where() + "waits for ever for a token of " + describe(channel) + ": " + reason);
          }
          shim.retire([&](const Channel& ended) { return fabric_->proves(channel, ended); });
          break;
        }
        case Operation::kLoadPdi:
          if (&operation != &operations[0]) throw Violation(where() + "a configuration is loaded in mid-stream");
          break;
        case Operation::kNothing:
          break;
      }
    }
    const std::string left = shim.leftovers();
    if (!left.empty()) throw Violation("at the end of the stream: " + left);
    const std::string unfinished = fabric_->unfinished();
    if (!unfinished.empty()) throw Violation("at the end of the stream: " + unfinished);
    broken_ = false;
  } catch (const Violation& violation) {
    outcome.mmac = static_cast<double>(products) / 1e6;
    return end(Outcome::kFailed, violation.what());
  }
  outcome.mmac = static_cast<double>(products) / 1e6;
  return outcome;
}

}  // namespace emulated_npu
