#include "kernels/cpu/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <fstream>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace whisperxdna2 {
namespace {

// How long a thread looks for work before it sleeps. Longer than the gap between two products of a layer, far shorter
// than anything another program on the same core would notice.
constexpr auto kSpin = std::chrono::microseconds(20);

// One parallel_for(): lives on the caller's stack until the last helper has left it.
struct Job {
  const std::function<void(int)>& body;
  const int count;
  const int most_helpers;
  const std::atomic<bool>* const abandoned;
  std::atomic<int> next{0};
  int helpers = 0;               // inside work(); guarded by the pool's mutex
  std::exception_ptr exception = nullptr;  // the first one; guarded by the pool's mutex

  bool exhausted() const { return next.load(std::memory_order_relaxed) >= count; }

  void work() {
    for (int i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
      if (abandoned && abandoned->load(std::memory_order_relaxed)) break;
      body(i);
    }
    stop();
  }
  void stop() { next.store(count, std::memory_order_relaxed); }
};

template <class Condition>
bool spin_until(const Condition& condition) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 32; ++i) {
      if (condition()) return true;
      __builtin_ia32_pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

// "200000 100000" or "max 100000", microseconds of processor time in a period; infinite where there is no such file.
double quota_of_group(const std::string& path) {
  std::ifstream file("/sys/fs/cgroup" + path + "/cpu.max");
  double limit = 0, period = 0;
  return file >> limit >> period && limit > 0 && period > 0 ? limit / period : 1e9;
}

// Processors' worth of time that the control groups (version 2) of this process allow.
double cgroup_quota() {
  double least = quota_of_group("");
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    if (line.rfind("0::/", 0) != 0) continue;
    for (std::string path = line.substr(3); path.size() > 1; path.resize(path.rfind('/'))) {
      least = std::min(least, quota_of_group(path));
    }
  }
  return least;
}

}  // namespace

// `mutex` guards `jobs`, `workers` and what Job says. Workers take the job that has the fewest helpers, so that
// concurrent callers share them evenly.
struct ThreadPool::State {
  std::mutex mutex;
  std::condition_variable work_added, helper_left;
  std::vector<Job*> jobs;
  int workers = 0;
  std::atomic<unsigned> announced{0};   // jobs ever added; lets idle workers spin without the mutex
  std::atomic<unsigned> departures{0};  // helpers that ever left a job; lets a caller spin without the mutex

  Job* choose() {
    Job* best = nullptr;
    for (Job* job : jobs) {
      if (job->exhausted() || job->helpers >= job->most_helpers) continue;
      if (!best || job->helpers < best->helpers) best = job;
    }
    return best;
  }

  // `lock` is held before and after.
  void work(Job* job, std::unique_lock<std::mutex>* lock) {
    lock->unlock();
    std::exception_ptr exception;
    try {
      job->work();
    } catch (...) {
      exception = std::current_exception();
      job->stop();
    }
    lock->lock();
    if (exception && !job->exception) job->exception = exception;
  }

  void run() {
    std::unique_lock<std::mutex> lock(mutex);
    while (true) {
      Job* job = choose();
      if (!job) {
        const unsigned seen = announced;
        lock.unlock();
        spin_until([&] { return announced.load(std::memory_order_relaxed) != seen; });
        lock.lock();
        if (announced == seen) work_added.wait(lock);
        continue;
      }
      ++job->helpers;
      work(job, &lock);
      --job->helpers;
      ++departures;
      helper_left.notify_all();
    }
  }

  // As many as the system gives us: without workers the callers do the work alone.
  void ensure_workers(int wanted) {
    try {
      for (; workers < wanted; ++workers) {
        std::thread thread([this] { run(); });
        pthread_setname_np(thread.native_handle(), "whisper-worker");
        thread.detach();
      }
    } catch (const std::system_error&) {
    }
  }
};

ThreadPool& ThreadPool::instance() {
  static ThreadPool* const pool = new ThreadPool;
  return *pool;
}

ThreadPool::ThreadPool() : state_(new State) {}

void ThreadPool::parallel_for(const Workers& workers, int count, const std::function<void(int)>& body) {
  constexpr int kMostThreads = 64;
  const int helpers = std::min({workers.threads - 1, count - 1, kMostThreads});
  Job job{body, count, helpers, workers.abandoned};
  if (helpers <= 0) {
    job.work();
    return;
  }
  State& s = *state_;
  std::unique_lock<std::mutex> lock(s.mutex);
  s.ensure_workers(helpers);
  s.jobs.push_back(&job);
  ++s.announced;
  s.work_added.notify_all();
  s.work(&job, &lock);
  s.jobs.erase(std::find(s.jobs.begin(), s.jobs.end(), &job));
  while (job.helpers > 0) {
    const unsigned seen = s.departures;
    lock.unlock();
    spin_until([&] { return s.departures.load(std::memory_order_relaxed) != seen; });
    lock.lock();
    if (job.helpers > 0 && s.departures == seen) s.helper_left.wait(lock);
  }
  if (job.exception) std::rethrow_exception(job.exception);
}

int ThreadPool::available_processors() {
  double count = std::thread::hardware_concurrency();
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) count = CPU_COUNT(&set);
  return std::max(1, static_cast<int>(std::min(count, cgroup_quota() + 0.5)));
}

}  // namespace whisperxdna2
