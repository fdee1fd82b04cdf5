// A chain of short parallel steps on the process-wide pool, cheaper than a parallel_for() for each: the threads stay in
// the chain, and a step follows the one before within a microsecond.
#pragma once

#include "kernels/cpu/thread_pool.h"

namespace whisperxdna2 {

// Steps 0, 1, ... of independent items. Calls may come from several threads, those of one step at the same time. What
// an item or finish() writes can be read by all later steps. Nothing may throw.
class StepWork {
 public:
  virtual ~StepWork() = default;
  virtual int items(int step) const noexcept = 0;  // at least 1; always the same for a step
  virtual void item(int step, int i) noexcept = 0;
  // Once after the last item of a step, before the first of the next one.
  virtual void finish(int step) noexcept = 0;
};

// Runs `steps` steps on the calling thread and up to threads - 1 workers of the pool, and returns when all is done. It
// waits for no worker that has not begun: a thread that loses its core delays one item, as in parallel_for(). No
// results may depend on `threads`.
void run_steps(int threads, int steps, StepWork* work);

}  // namespace whisperxdna2
