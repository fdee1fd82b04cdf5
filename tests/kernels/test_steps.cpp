// Chains of parallel steps: order, completeness, and what becomes of threads that come late or sleep.
#include "kernels/cpu/steps.h"

#include <check.h>

#include <chrono>
#include <numeric>
#include <thread>
#include <vector>

using namespace whisperxdna2;

namespace {

// Each item adds to what the step before has left, so that any step that began too early shows in the result.
class Sums : public StepWork {
 public:
  Sums(int steps, int most_items) : most_items_(most_items), values_(most_items, 1), finished(steps, 0) {}
  int items(int step) const noexcept override { return 1 + step * 7 % most_items_; }
  void item(int step, int i) noexcept override {
    if (delay && (step + i) % 5 == 0) std::this_thread::sleep_for(std::chrono::microseconds(*delay));
    values_[i] = values_[i] * 3 + total_ + static_cast<unsigned>(step);
    ++ran;
  }
  void finish(int step) noexcept override {
    ++finished[step];
    total_ = std::accumulate(values_.begin(), values_.end(), 0u);
  }
  unsigned result() const { return total_; }

  const int* delay = nullptr;  // microseconds
  std::atomic<int> ran{0};

 private:
  const int most_items_;
  std::vector<unsigned> values_;
  unsigned total_ = 0;

 public:
  std::vector<int> finished;
};

}  // namespace

START_TEST(each_step_sees_all_of_the_one_before) {
  for (int items : {1, 3, 40}) {
    Sums alone(60, items);
    run_steps(1, 60, &alone);
    for (int threads : {2, 3, 8}) {
      for (int round = 0; round < 50; ++round) {
        Sums work(60, items);
        run_steps(threads, 60, &work);
        ck_assert_uint_eq(work.result(), alone.result());
        ck_assert_int_eq(work.ran, alone.ran);
        for (int n : work.finished) ck_assert_int_eq(n, 1);
      }
    }
  }
}
END_TEST

START_TEST(threads_that_sleep_meanwhile_are_woken) {
  const int longer_than_they_look = 300;
  Sums alone(40, 4), work(40, 4);
  run_steps(1, 40, &alone);
  work.delay = &longer_than_they_look;
  run_steps(3, 40, &work);
  ck_assert_uint_eq(work.result(), alone.result());
}
END_TEST

START_TEST(chains_of_several_threads_do_not_disturb_each_other) {
  Sums alone(50, 9);
  run_steps(1, 50, &alone);
  std::atomic<int> right{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 3; ++c) {
    callers.emplace_back([&] {
      for (int round = 0; round < 50; ++round) {
        Sums work(50, 9);
        run_steps(3, 50, &work);
        right += work.result() == alone.result();
      }
    });
  }
  for (std::thread& t : callers) t.join();
  ck_assert_int_eq(right, 150);
}
END_TEST

START_TEST(no_steps_are_no_work) {
  Sums work(1, 1);
  run_steps(2, 0, &work);
  ck_assert_int_eq(work.ran, 0);
}
END_TEST

int main() {
  Suite* suite = suite_create("steps");
  TCase* steps = tcase_create("steps");
  tcase_add_test(steps, each_step_sees_all_of_the_one_before);
  tcase_add_test(steps, threads_that_sleep_meanwhile_are_woken);
  tcase_add_test(steps, chains_of_several_threads_do_not_disturb_each_other);
  tcase_add_test(steps, no_steps_are_no_work);
  suite_add_tcase(suite, steps);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
