#include "tests/device/shim.h"

#include <algorithm>
#include <cstring>

namespace emulated_npu {
namespace {

namespace overlay = whisperxdna2::overlay;
constexpr uint64_t kWord = sizeof(uint32_t);

[[noreturn]] void fail(const Operation& operation, const std::string& why) {
  throw Violation("word " + std::to_string(operation.at) + " of the stream: " + why);
}

constexpr uint32_t bits(uint32_t word, int low, int count) { return word >> low & ((1u << count) - 1); }

std::string hex(uint64_t value) {
  char text[20];
  snprintf(text, sizeof text, "0x%lx", value);
  return text;
}

}  // namespace

std::string describe(const Channel& channel) {
  return "shim " + std::to_string(channel.column) + (channel.direction == Direction::kMm2s ? " MM2S " : " S2MM ") +
         std::to_string(channel.index);
}

uint8_t* ShimTask::next(uint64_t* contiguous_words) const {
  const uint64_t run = done / run_words, in_run = done % run_words;
  uint64_t at = run * run_step, contiguous = run_words - in_run;
  if (size0 == 0) {
    at += in_run;
  } else {
    const uint64_t i0 = in_run % size0, row = in_run / size0;
    const uint64_t i1 = size1 ? row % size1 : row, i2 = size1 ? row / size1 : 0;
    at += i0 * step0 + i1 * step1 + i2 * step2;
    contiguous = step0 == 1 ? size0 - i0 : 1;
  }
  *contiguous_words = contiguous;
  return base + at * kWord;
}

template <class Visit>
void Shim::for_each_channel(Visit visit) {
  for (int column = 0; column < columns_; ++column) {
    for (const Direction direction : {Direction::kS2mm, Direction::kMm2s}) {
      for (int index = 0; index < 2; ++index) visit(Channel{column, direction, index});
    }
  }
}

Shim::Bd& Shim::bd_of(const Operation& operation, uint32_t address, uint32_t* word) {
  const uint32_t column = address >> 25, row = address >> 20 & 31, offset = address & 0xfffff;
  const uint32_t at = offset - overlay::kShimBdBase;
  if (row != 0 || column >= static_cast<uint32_t>(columns_) || offset < overlay::kShimBdBase ||
      at >= overlay::kShimBds * overlay::kShimBdSize) {
    fail(operation, "register " + hex(address) + " is not of a shim buffer descriptor of this overlay");
  }
  *word = at % overlay::kShimBdSize / kWord;
  Bd& bd = column_[column].bd[at / overlay::kShimBdSize];
  if (bd.users) {
    fail(operation, "BD " + std::to_string(at / overlay::kShimBdSize) + " of shim " + std::to_string(column) +
                        " is changed while a task uses it; first take the token that proves the task's end");
  }
  return bd;
}

void Shim::block_write(const Operation& operation) {
  uint32_t word = 0;
  Bd& bd = bd_of(operation, operation.address, &word);
  if (word != 0 || operation.payload_words != overlay::kBdWords) {
    fail(operation, "a block write that is not one whole buffer descriptor");
  }
  std::copy_n(operation.payload, overlay::kBdWords, bd.words.begin());
  bd.patched = false;
}

void Shim::mask_write(const Operation& operation) {
  bool known = false;
  for_each_channel([&](const Channel& channel) {
    if (operation.address != overlay::control_address(channel)) return;
    known = true;
    if (operation.mask != overlay::kControllerMask) {
      fail(operation, "a masked write to the control register of " + describe(channel) + " with mask " +
                          hex(operation.mask) + ": only the controller id is the stream's");
    }
    uint32_t& control = queue(channel).control;
    control = (control & ~operation.mask) | (operation.value & operation.mask);
  });
  if (!known) fail(operation, "a masked write to register " + hex(operation.address));
}

void Shim::patch(const Operation& operation, const std::vector<uint64_t>& arguments) {
  uint32_t word = 0;
  Bd& bd = bd_of(operation, operation.address, &word);
  if (word != 1) fail(operation, "an address patch of a word that is not a descriptor's address");
  if (operation.argument >= arguments.size()) {
    fail(operation, "an address patch with argument " + std::to_string(operation.argument) + " of " +
                        std::to_string(arguments.size()));
  }
  if (bd.words[1] || bits(bd.words[2], 0, 16)) {
    fail(operation, "an address patch of a descriptor that has an address already");
  }
  const uint64_t address = arguments[operation.argument] + operation.offset;
  bd.words[1] = static_cast<uint32_t>(address);
  bd.words[2] |= static_cast<uint32_t>(address >> 32) & 0xffff;
  bd.patched = true;
}

void Shim::write(const Operation& operation, const Memory& memory, bool patched) {
  bool known = false;
  for_each_channel([&](const Channel& channel) {
    if (operation.address != overlay::queue_address(channel)) return;
    known = true;
    push(operation, channel, memory, patched);
  });
  if (!known) fail(operation, "a write to register " + hex(operation.address) + ", which is not of a task queue");
}

void Shim::push(const Operation& operation, const Channel& channel, const Memory& memory, bool patched) {
  const std::string where = describe(channel) + ": ";
  const uint64_t object = object_size_(channel);
  if (!object) fail(operation, where + "the channel leads nowhere in this overlay");
  Queue& queue = this->queue(channel);
  if (queue.tasks.size() >= overlay::kQueueDepth) {
    fail(operation, where + "a fifth task in the queue; hardware drops it without a word");
  }
  if (operation.value & ~(1u << 31 | 0xffu << 16 | 0xfu)) fail(operation, where + "unknown bits in the task");
  ShimTask task;
  task.bd = static_cast<int>(operation.value & 0xf);
  task.token = operation.value >> 31;
  task.runs = bits(operation.value, 16, 8) + 1;
  task.pushed_at = operation.at;
  if (task.token && (queue.control & overlay::kControllerMask) != overlay::kController << 8) {
    fail(operation, where + "a token is asked for, but the control register does not name controller " +
                        std::to_string(overlay::kController));
  }

  Bd& bd = column_[channel.column].bd[task.bd];
  const auto& w = bd.words;
  const std::string which = where + "BD " + std::to_string(task.bd) + ": ";
  if (bd.users) fail(operation, which + "a task uses it already");
  if (!(w[7] >> 25 & 1)) fail(operation, which + "it is not valid");
  if (w[7] & ~(1u << 25)) fail(operation, which + "next descriptors and locks are not used by this overlay");
  if (w[2] >> 16) fail(operation, which + "packets are not used by this overlay");
  if (!patched && !bd.patched) fail(operation, which + "its address was not patched");

  task.run_words = w[0];
  task.size0 = bits(w[3], 20, 10);
  task.step0 = bits(w[3], 0, 20) + 1;
  task.size1 = bits(w[4], 20, 10);
  task.step1 = bits(w[4], 0, 20) + 1;
  task.step2 = bits(w[5], 0, 20) + 1;
  const uint64_t iterations = bits(w[6], 20, 6) + 1;
  task.run_step = iterations > 1 ? bits(w[6], 0, 20) + 1 : 0;
  if (w[3] >> 30 || bits(w[5], 20, 4) || bits(w[5], 28, 4)) {
    fail(operation, which + "bits outside of the known fields");
  }
  if (w[6] >> 26) fail(operation, which + "its iteration does not begin at 0");
  if (iterations > 1 && iterations != task.runs) {
    fail(operation, which + std::to_string(iterations) + " iterations, but " + std::to_string(task.runs) + " runs");
  }
  if (task.run_words == 0) fail(operation, which + "its length is 0");
  if (task.size0 == 0 && (task.size1 || w[3] || bits(w[4], 0, 30))) {
    fail(operation, which + "steps or sizes in a linear transfer");
  }
  uint64_t last = task.run_words - 1;  // word offset of one run's last word
  if (task.size0) {
    const uint64_t plane = task.size0 * std::max<uint64_t>(task.size1, 1);
    if (task.size1 == 0 || task.run_words % plane) {
      fail(operation, which + "its length of " + std::to_string(task.run_words) +
                          " words is not a multiple of its sizes' product");
    }
    last = (task.size0 - 1) * task.step0 + (task.size1 - 1) * task.step1 + (task.run_words / plane - 1) * task.step2;
  }
  last += (task.runs - 1) * task.run_step;
  if (task.words() * kWord % object) {
    fail(operation, which + "the task moves " + std::to_string(task.words() * kWord) +
                        " bytes, which is no whole number of the fifo's objects of " + std::to_string(object) +
                        "; the array would wait for ever");
  }

  task.address = w[1] | uint64_t{bits(w[2], 0, 16)} << 32;
  if (patched) task.address -= overlay::kDdrAperture;
  task.extent = (last + 1) * kWord;
  if (task.address % kWord) fail(operation, which + "address " + hex(task.address) + " is not a word's");
  task.base = memory.at(task.address, task.extent);
  if (!task.base) {
    fail(operation, which + hex(task.address) + " to " + hex(task.address + task.extent) +
                        " is not inside one buffer of the command");
  }
  // The stream's own data dependencies: what is read must have been written, and the other way round, before the push.
  for_each_channel([&](const Channel& other) {
    if (other.direction == channel.direction) return;
    for (const ShimTask& earlier : this->queue(other).tasks) {
      if (task.address < earlier.address + earlier.extent && earlier.address < task.address + task.extent) {
        fail(operation, which + "it touches what the task pushed to " + describe(other) + " at word " +
                            std::to_string(earlier.pushed_at) +
                            " still moves; first take the token that proves its end");
      }
    }
  });
  ++bd.users;
  queue.tasks.push_back(task);
}

ShimTask* Shim::moving(const Channel& channel) {
  for (ShimTask& task : queue(channel).tasks) {
    if (!task.ended()) return &task;
  }
  return nullptr;
}

bool Shim::ready(const Channel& channel) const { return const_cast<Shim*>(this)->moving(channel) != nullptr; }

const uint8_t* Shim::peek(const Channel& channel) const {
  const ShimTask* const task = const_cast<Shim*>(this)->moving(channel);
  uint64_t contiguous = 0;
  const uint8_t* const at = task->next(&contiguous);
  return contiguous * kWord >= object_size_(channel) ? at : nullptr;
}

void Shim::take(const Channel& channel, uint8_t* object) { move(channel, object, nullptr); }
void Shim::give(const Channel& channel, const uint8_t* object) { move(channel, nullptr, object); }

void Shim::move(const Channel& channel, uint8_t* to, const uint8_t* from) {
  ShimTask& task = *moving(channel);
  uint64_t left = object_size_(channel) / kWord;
  if (!to && !from) {
    task.done += left;
    left = 0;
  }
  while (left) {
    uint64_t contiguous = 0;
    uint8_t* const at = task.next(&contiguous);
    const uint64_t words = std::min(contiguous, left), bytes = words * kWord;
    if (to) {
      memcpy(to, at, bytes);
      to += bytes;
    } else {
      memcpy(at, from, bytes);
      from += bytes;
    }
    task.done += words;
    left -= words;
  }
  if (task.ended() && task.token) ++queue(channel).tokens;
}

bool Shim::take_token(const Channel& channel) {
  Queue& queue = this->queue(channel);
  if (!queue.tokens) return false;
  --queue.tokens;
  return true;
}

void Shim::retire(const std::function<bool(const Channel&)>& proves) {
  for_each_channel([&](const Channel& channel) {
    if (!proves(channel)) return;
    auto& tasks = queue(channel).tasks;
    while (!tasks.empty() && tasks.front().ended()) {
      --column_[channel.column].bd[tasks.front().bd].users;
      tasks.pop_front();
    }
  });
}

std::string Shim::leftovers() const {
  std::string text;
  const_cast<Shim*>(this)->for_each_channel([&](const Channel& channel) {
    const Queue& queue = this->queue(channel);
    if (!text.empty()) return;
    if (queue.tokens) {
      text = describe(channel) + ": " + std::to_string(queue.tokens) + " tokens that no wait has taken";
    } else if (!queue.tasks.empty() && !queue.tasks.front().ended()) {
      text = describe(channel) + ": the task pushed at word " + std::to_string(queue.tasks.front().pushed_at) +
             " has moved " + std::to_string(queue.tasks.front().done) + " of " +
             std::to_string(queue.tasks.front().words()) + " words";
    } else if (!queue.tasks.empty()) {
      text = describe(channel) + ": no token proves the end of the task pushed at word " +
             std::to_string(queue.tasks.front().pushed_at);
    }
  });
  return text;
}

}  // namespace emulated_npu
