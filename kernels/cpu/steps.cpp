#include "kernels/cpu/steps.h"

#include <chrono>
#include <condition_variable>
#include <mutex>

namespace whisperxdna2 {
namespace {

// How long a thread looks for the end of a step before it sleeps.
constexpr auto kSpin = std::chrono::microseconds(50);

// Items of all steps are numbered through. A thread takes the next number and waits until its step has begun.
struct Chain {
  Chain(StepWork* w, int n) : work(w), steps(n) {}

  StepWork* const work;
  const int steps;
  std::atomic<int> taken{0};  // items
  std::atomic<int> ended{0};  // items
  std::atomic<int> begun{0};  // the step whose items may run
  std::atomic<int> sleepers{0};
  std::mutex mutex;  // only for sleeping
  std::condition_variable changed;

  void take_part() {
    int step = 0, before = 0, count = work->items(0);  // `before`: items of the steps before `step`
    for (;;) {
      const int i = taken.fetch_add(1, std::memory_order_relaxed);
      while (i >= before + count) {
        if (++step == steps) return;
        before += count;
        count = work->items(step);
      }
      if (begun.load(std::memory_order_acquire) < step) wait_for(step);
      work->item(step, i - before);
      if (ended.fetch_add(1, std::memory_order_acq_rel) + 1 < before + count) continue;
      work->finish(step);
      begun = step + 1;
      if (sleepers > 0) {
        { std::lock_guard<std::mutex> lock(mutex); }  // who has counted itself sleeps by now, or sees `begun`
        changed.notify_all();
      }
    }
  }

  void wait_for(int step) {
    const auto has_begun = [&] { return begun.load(std::memory_order_acquire) >= step; };
    const auto end = std::chrono::steady_clock::now() + kSpin;
    do {
      for (int i = 0; i < 64; ++i) {
        if (has_begun()) return;
        __builtin_ia32_pause();
      }
    } while (std::chrono::steady_clock::now() < end);
    std::unique_lock<std::mutex> lock(mutex);
    ++sleepers;
    changed.wait(lock, [&] { return begun >= step; });
    --sleepers;
  }
};

}  // namespace

void run_steps(int threads, int steps, StepWork* work) {
  if (steps <= 0) return;
  Chain chain(work, steps);
  if (threads <= 1) {
    chain.take_part();
    return;
  }
  ThreadPool::instance().parallel_for(threads, threads, [&chain](int) { chain.take_part(); });
}

}  // namespace whisperxdna2
