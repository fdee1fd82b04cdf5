// Who asks first is served first.
#include "npu/fair_mutex.h"

#include <check.h>

#include <chrono>
#include <thread>
#include <vector>

using whisperxdna2::npu::FairMutex;

START_TEST(threads_are_served_in_the_order_in_which_they_asked) {
  constexpr int kThreads = 8;
  FairMutex mutex;
  std::vector<int> order;
  std::vector<std::thread> threads;
  mutex.lock();
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      std::lock_guard<FairMutex> lock(mutex);
      order.push_back(i);
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(50));  // so that it waits before the next one asks
  }
  mutex.unlock();
  mutex.lock();  // after all that waited
  ck_assert_uint_eq(order.size(), kThreads);
  for (int i = 0; i < kThreads; ++i) ck_assert_int_eq(order[i], i);
  mutex.unlock();
  for (std::thread& thread : threads) thread.join();
}
END_TEST

START_TEST(one_holds_it_at_a_time) {
  FairMutex mutex;
  int inside = 0, rounds = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 500; ++round) {
        std::lock_guard<FairMutex> lock(mutex);
        ck_assert_int_eq(++inside, 1);
        ++rounds;
        --inside;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ck_assert_int_eq(rounds, 2000);
}
END_TEST

int main() {
  Suite* suite = suite_create("fair_mutex");
  TCase* tests = tcase_create("fair_mutex");
  tcase_add_test(tests, threads_are_served_in_the_order_in_which_they_asked);
  tcase_add_test(tests, one_holds_it_at_a_time);
  suite_add_tcase(suite, tests);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
