#include "whisper/slotted_encoder.h"

#include <new>

namespace whisperxdna2 {

void SlottedEncoder::submit(int slot, const float* mel, int positions) {
  std::lock_guard<std::mutex> lock(mutex_);
  Slot& s = slots_.at(slot);
  if (s.state != State::kFree) throw Error(ErrorCode::kInvalidUse, "this encoder slot is in use");
  if (positions < 1 || positions > most_positions_) {
    throw Error(ErrorCode::kInvalidUse, "an encoder window has 1 to " + std::to_string(most_positions_) + " positions");
  }
  s.state = State::kQueued;
  s.mel = mel;
  s.positions = positions;
  s.order = next_order_++;
  changed_.notify_all();
}

const float* SlottedEncoder::wait(int slot, std::chrono::steady_clock::time_point deadline) {
  std::unique_lock<std::mutex> lock(mutex_);
  Slot& s = slots_.at(slot);
  if (s.state == State::kFree) throw Error(ErrorCode::kInvalidUse, "nothing was submitted to this encoder slot");
  const unsigned seen = interruptions_;
  const auto interrupted = [&] { return interrupted_ || interruptions_ != seen; };
  const bool in_time = changed_.wait_until(lock, deadline, [&] { return s.state >= State::kDone || interrupted(); });
  if (s.state == State::kRunning) {
    s.abandoned = true;
    changed_.wait(lock, [&] { return s.state >= State::kDone; });
  }
  const State ended = s.state;
  s.state = State::kFree;
  if (ended == State::kQueued) changed_.notify_all();  // it is no longer in the way of later ones
  if (interrupted() || (in_time && ended == State::kAbandoned)) throw Error(ErrorCode::kInterrupted, "interrupted");
  if (!in_time) throw Error(ErrorCode::kDevice, who_ + " did not encode the window in time");
  if (ended == State::kFailed) throw Error(s.code, s.what);
  return s.features.data();
}

void SlottedEncoder::set_interrupted(bool value) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    interrupted_ = value;
    if (value) {
      ++interruptions_;
      for (Slot& s : slots_) s.abandoned = true;
    }
  }
  changed_.notify_all();
}

void SlottedEncoder::stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    for (Slot& s : slots_) s.abandoned = true;
  }
  changed_.notify_all();
}

void SlottedEncoder::serve(int slot, const Encode& encode) {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    Slot* next = nullptr;
    changed_.wait(lock, [&] {
      next = nullptr;
      for (Slot& s : slots_) {
        if (s.state == State::kQueued && (!next || s.order < next->order)) next = &s;
      }
      if (slot != kEverySlot && next != &slots_[slot]) next = nullptr;
      return stopping_ || (next && !interrupted_);
    });
    if (stopping_) return;
    Slot& s = *next;
    s.state = State::kRunning;
    s.abandoned = false;
    changed_.notify_all();  // the next one may begin, too
    lock.unlock();
    State end = State::kDone;
    try {
      s.features.resize(static_cast<size_t>(s.positions) * d_model_);
      if (!encode({s.mel, s.positions, s.features.data(), s.abandoned})) end = State::kAbandoned;
    } catch (const Error& e) {
      end = State::kFailed;
      s.code = e.code();
      s.what = e.what();
    } catch (const std::bad_alloc&) {
      end = State::kFailed;
      s.code = ErrorCode::kNoResource;
      s.what = "out of memory while encoding a window";
    }
    lock.lock();
    s.state = end;
    changed_.notify_all();
  }
}

}  // namespace whisperxdna2
