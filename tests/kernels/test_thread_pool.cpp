#include <check.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <ctime>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "kernels/cpu/thread_pool.h"

using namespace whisperxdna2;

namespace {

using Clock = std::chrono::steady_clock;

// Waits for what another thread is about to do.
template <class Condition>
bool soon(const Condition& condition) {
  const auto end = Clock::now() + std::chrono::seconds(20);
  while (!condition()) {
    if (Clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

void run_each_item_once() {
  for (int threads : {1, 2, 3, 8}) {
    for (int count : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> calls(count);
      ThreadPool::instance().parallel_for(threads, count, [&](int i) { ++calls[i]; });
      for (int i = 0; i < count; ++i) ck_assert_int_eq(calls[i], 1);
    }
  }
}

START_TEST(each_item_runs_once) { run_each_item_once(); }
END_TEST

START_TEST(as_many_threads_work_as_asked_for) {
  // Each item waits until three threads are inside.
  std::atomic<int> inside{0};
  ThreadPool::instance().parallel_for(3, 3, [&](int) {
    ++inside;
    ck_assert(soon([&] { return inside == 3; }));
  });
}
END_TEST

START_TEST(no_more_threads_work_than_asked_for) {
  ThreadPool::instance().parallel_for(8, 8, [](int) {});  // there are workers enough
  for (int round = 0; round < 200; ++round) {
    std::atomic<int> inside{0}, most{0};
    ThreadPool::instance().parallel_for(2, 16, [&](int) {
      const int now = ++inside;
      for (int seen = most; now > seen && !most.compare_exchange_weak(seen, now);) {
      }
      std::this_thread::yield();
      --inside;
    });
    ck_assert_int_le(most, 2);
  }
}
END_TEST

START_TEST(one_thread_is_the_caller) {
  std::set<std::thread::id> ids;
  ThreadPool::instance().parallel_for(1, 5, [&](int) { ids.insert(std::this_thread::get_id()); });
  ck_assert_uint_eq(ids.size(), 1);
  ck_assert(*ids.begin() == std::this_thread::get_id());
}
END_TEST

START_TEST(callers_in_several_threads_share_the_workers) {
  std::vector<std::thread> callers;
  std::atomic<int> total{0};
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&] {
      for (int round = 0; round < 500; ++round) {
        std::atomic<int> mine{0};
        ThreadPool::instance().parallel_for(3, 20, [&](int) { ++mine; });
        if (mine == 20) ++total;
      }
    });
  }
  for (std::thread& t : callers) t.join();
  ck_assert_int_eq(total, 2000);
}
END_TEST

START_TEST(second_caller_gets_a_worker_while_the_first_goes_on) {
  // Two callers, each with one helper wanted: both must have two threads inside at the same time.
  std::atomic<int> inside{0};
  const auto meet = [&] {
    ThreadPool::instance().parallel_for(2, 2, [&](int) {
      ++inside;
      ck_assert(soon([&] { return inside == 4; }));
    });
  };
  ThreadPool::instance().parallel_for(3, 3, [](int) {});  // two workers
  std::thread other(meet);
  meet();
  other.join();
}
END_TEST

START_TEST(work_after_a_pause_finds_the_workers_again) {
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // longer than they look for work
    std::atomic<int> inside{0};
    ThreadPool::instance().parallel_for(2, 2, [&](int) {
      ++inside;
      ck_assert(soon([&] { return inside == 2; }));
    });
  }
}
END_TEST

START_TEST(exception_of_an_item_reaches_the_caller) {
  for (int threads : {1, 2, 3}) {
    for (int culprit : {0, 50, 99}) {
      std::atomic<int> calls{0};
      bool thrown = false;
      try {
        ThreadPool::instance().parallel_for(threads, 100, [&](int i) {
          ++calls;
          if (i == culprit) throw std::runtime_error("item");
        });
      } catch (const std::runtime_error& e) {
        thrown = std::string(e.what()) == "item";
      }
      ck_assert(thrown);
      ck_assert_int_gt(calls, culprit);
    }
  }
  run_each_item_once();  // the pool is as before
}
END_TEST

START_TEST(abandoned_work_leaves_the_rest_out) {
  for (int threads : {1, 3}) {
    std::atomic<bool> abandoned{false};
    std::atomic<int> calls{0};
    ThreadPool::instance().parallel_for({threads, &abandoned}, 1000, [&](int) {
      if (++calls == 10) abandoned = true;
    });
    ck_assert_int_ge(calls, 10);
    ck_assert_int_le(calls, 10 + threads);
  }
}
END_TEST

START_TEST(idle_workers_sleep) {
  ThreadPool::instance().parallel_for(4, 64, [](int) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const auto processor_time = [] {
    timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec * 1e3 + t.tv_nsec * 1e-6;
  };
  const double before = processor_time();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  ck_assert_double_lt(processor_time() - before, 10.0);  // milliseconds
}
END_TEST

START_TEST(available_processors_are_those_of_the_affinity_mask) {
  cpu_set_t all, one;
  ck_assert_int_eq(sched_getaffinity(0, sizeof all, &all), 0);
  const int before = ThreadPool::available_processors();
  ck_assert_int_ge(before, 1);
  ck_assert_int_le(before, CPU_COUNT(&all));
  CPU_ZERO(&one);
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(i, &all)) {
      CPU_SET(i, &one);
      break;
    }
  }
  ck_assert_int_eq(sched_setaffinity(0, sizeof one, &one), 0);
  ck_assert_int_eq(ThreadPool::available_processors(), 1);
  ck_assert_int_eq(sched_setaffinity(0, sizeof all, &all), 0);
}
END_TEST

}  // namespace

int main() {
  Suite* suite = suite_create("thread_pool");
  TCase* pool = tcase_create("pool");
  tcase_add_test(pool, each_item_runs_once);
  tcase_add_test(pool, as_many_threads_work_as_asked_for);
  tcase_add_test(pool, no_more_threads_work_than_asked_for);
  tcase_add_test(pool, one_thread_is_the_caller);
  tcase_add_test(pool, callers_in_several_threads_share_the_workers);
  tcase_add_test(pool, second_caller_gets_a_worker_while_the_first_goes_on);
  tcase_add_test(pool, work_after_a_pause_finds_the_workers_again);
  tcase_add_test(pool, exception_of_an_item_reaches_the_caller);
  tcase_add_test(pool, abandoned_work_leaves_the_rest_out);
  tcase_add_test(pool, idle_workers_sleep);
  tcase_add_test(pool, available_processors_are_those_of_the_affinity_mask);
  suite_add_tcase(suite, pool);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
