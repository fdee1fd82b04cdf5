// The one pool of worker threads in the process, shared by every encoder and decoder instance.
#pragma once

#include <functional>

namespace whisperxdna2 {

class ThreadPool {
 public:
  // The process-wide pool. Threads are started on first use.
  static ThreadPool& instance();

  // Calls body(i) once for each i in [0, count), in any order, on the calling thread and at most `threads - 1` workers,
  // and returns when all have ended. Items are taken one by one from a shared counter, so that a thread which loses its
  // core delays one item only. Callable from several threads at once: callers share the workers. Must not be called
  // from inside a body. The result of a computation must not depend on `threads`: divide work by data, never by thread.
  void parallel_for(int threads, int count, const std::function<void(int)>& body);

  // Processors this process may run on (affinity and cgroup quota respected), at least 1: the meaning of n-threads = 0.
  static int available_processors();

 private:
  ThreadPool();
  ~ThreadPool();
  struct State;
  State* state_;
};

}  // namespace whisperxdna2
