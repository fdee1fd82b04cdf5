#include "kernels/cpu/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <fstream>
#include <mutex>
#include <string>
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
  std::atomic<int> next{0};
  int helpers = 0;  // inside work(); guarded by the pool's mutex

  Job(const std::function<void(int)>& b, int c, int h) : body(b), count(c), most_helpers(h) {}
  bool exhausted() const { return next.load(std::memory_order_relaxed) >= count; }
  void work() {
    for (int i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) body(i);
  }
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

}  // namespace

// `mutex` guards `jobs`, `workers`, `stopping` and every Job::helpers. Workers take the job that has the fewest helpers,
// so that concurrent callers share them evenly.
struct ThreadPool::State {
  std::mutex mutex;
  std::condition_variable work_added, helper_left;
  std::vector<Job*> jobs;
  std::vector<std::thread> workers;
  bool stopping = false;
  std::atomic<unsigned> announced{0};  // jobs ever added; lets idle workers spin without the mutex
  std::atomic<unsigned> departures{0};  // helpers that ever left a job; lets a caller spin without the mutex

  Job* choose() {
    Job* best = nullptr;
    for (Job* job : jobs) {
      if (job->exhausted() || job->helpers >= job->most_helpers) continue;
      if (!best || job->helpers < best->helpers) best = job;
    }
    return best;
  }

  void run() {
    std::unique_lock<std::mutex> lock(mutex);
    while (!stopping) {
      Job* job = choose();
      if (!job) {
        const unsigned seen = announced;
        lock.unlock();
        spin_until([&] { return announced.load(std::memory_order_relaxed) != seen; });
        lock.lock();
        if (announced == seen && !stopping) work_added.wait(lock);
        continue;
      }
      ++job->helpers;
      lock.unlock();
      job->work();
      lock.lock();
      --job->helpers;
      ++departures;
      helper_left.notify_all();
    }
  }

  void ensure_workers(int wanted) {
    while (static_cast<int>(workers.size()) < wanted) workers.emplace_back([this] { run(); });
  }
};

ThreadPool& ThreadPool::instance() {
  static ThreadPool pool;
  return pool;
}

ThreadPool::ThreadPool() : state_(new State) {}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(state_->mutex);
    state_->stopping = true;
    ++state_->announced;
  }
  state_->work_added.notify_all();
  for (std::thread& t : state_->workers) t.join();
  delete state_;
}

void ThreadPool::parallel_for(int threads, int count, const std::function<void(int)>& body) {
  constexpr int kMostThreads = 64;
  const int helpers = std::min({threads - 1, count - 1, kMostThreads});
  if (helpers <= 0) {
    for (int i = 0; i < count; ++i) body(i);
    return;
  }
  State& s = *state_;
  Job job(body, count, helpers);
  {
    std::lock_guard<std::mutex> lock(s.mutex);
    s.ensure_workers(helpers);
    s.jobs.push_back(&job);
    ++s.announced;
  }
  s.work_added.notify_all();
  job.work();

  std::unique_lock<std::mutex> lock(s.mutex);
  s.jobs.erase(std::find(s.jobs.begin(), s.jobs.end(), &job));
  while (job.helpers > 0) {
    const unsigned seen = s.departures;
    lock.unlock();
    spin_until([&] { return s.departures.load(std::memory_order_relaxed) != seen; });
    lock.lock();
    if (job.helpers > 0 && s.departures == seen) s.helper_left.wait(lock);
  }
}

int ThreadPool::available_processors() {
  int count = static_cast<int>(std::thread::hardware_concurrency());
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) count = CPU_COUNT(&set);
  std::ifstream quota("/sys/fs/cgroup/cpu.max");  // "max 100000" or "200000 100000"
  std::string limit;
  double period = 0;
  if (quota >> limit >> period && limit != "max" && period > 0) {
    count = std::min(count, static_cast<int>(std::stod(limit) / period + 0.5));
  }
  return std::max(count, 1);
}

}  // namespace whisperxdna2
