// The one pool of worker threads in the process, shared by every encoder and decoder instance.
#pragma once

#include <atomic>
#include <functional>

namespace whisperxdna2 {

// How a computation is to be run. Made of the number of threads alone where nobody will want to abandon it.
struct Workers {
  Workers(int number, const std::atomic<bool>* flag = nullptr) : threads(number), abandoned(flag) {}

  int threads;                         // the caller included
  const std::atomic<bool>* abandoned;  // once it is true items that were not begun are left out; may be null
};

class ThreadPool {
 public:
  // The process-wide pool. It is never destroyed: a thread of ours may still run while the process exits, and a child
  // of fork() has no workers that one could wait for.
  static ThreadPool& instance();

  // Calls body(i) once for each i in [0, count), in any order, on the calling thread and at most workers.threads - 1
  // others, and returns when all have ended; `body` is not called any more after one has thrown, and the first
  // exception is thrown on. Items are taken one by one from a shared counter, so that a thread which loses its core
  // delays one item only. Callable from several threads at once: callers share the pool evenly. Must not be called from
  // inside a body. The result of a computation must not depend on the number of threads: divide work by data, never by
  // thread.
  void parallel_for(const Workers& workers, int count, const std::function<void(int)>& body);

  // Processors this process may run on (affinity and cgroup quota respected), at least 1: the meaning of n-threads = 0.
  static int available_processors();

 private:
  ThreadPool();
  struct State;
  State* const state_;
};

}  // namespace whisperxdna2
