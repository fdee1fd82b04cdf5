// How a matrix product is divided between threads.
#pragma once

#include <algorithm>

#include "kernels/cpu/thread_pool.h"

namespace whisperxdna2 {

// Columns of a task: a window makes some dozens of tasks, so that two threads end together, and the weights of one stay
// in the second cache.
constexpr int kTaskColumns = 256;

// Calls task(first row, rows, first panel, end of panels) for blocks of at most `task_rows` rows and `task_columns`
// columns, which make up `rows` rows and `columns` columns in panels of `panel`. On the process-wide pool, as `workers`
// say.
template <class Task>
void for_gemm_tasks(const Workers& workers, int rows, int task_rows, int columns, int task_columns, int panel,
                    const Task& task) {
  const int panels = (columns + panel - 1) / panel;
  const int panels_per_task = task_columns / panel;
  const int row_tasks = (rows + task_rows - 1) / task_rows;
  const int column_tasks = (panels + panels_per_task - 1) / panels_per_task;
  ThreadPool::instance().parallel_for(workers, row_tasks * column_tasks, [&](int i) {
    const int row = i / column_tasks * task_rows, first_panel = i % column_tasks * panels_per_task;
    task(row, std::min(task_rows, rows - row), first_panel, std::min(panels, first_panel + panels_per_task));
  });
}

}  // namespace whisperxdna2
