#include "kernels/cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <vector>

namespace treeline {
namespace {

// Loops of every size after each other, so that late workers of one meet the next. Written
// without atomics: a task run twice, or after the loop returned, is a race that tsan sees.
TEST(ThreadPool, RunsEveryTaskOnceBeforeReturning) {
  for (const int32_t threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.num_threads(), threads);
    for (int round = 0; round < 300; ++round) {
      const int64_t tasks = round % 7;
      std::vector<int> runs(tasks, 0);
      pool.ParallelFor(tasks, [&](int64_t i, int32_t thread) {
        ++runs[i];
        if (thread < 0 || thread >= threads) runs[i] = -1;
      });
      EXPECT_EQ(runs, std::vector<int>(tasks, 1));
    }
  }
}

// Scratch memory is kept by thread number: no two tasks of one number at a time.
TEST(ThreadPool, AThreadNumberRunsOneTaskAtATime) {
  ThreadPool pool(4);
  std::vector<int64_t> sums(4, 0);  // Unprotected on purpose.
  pool.ParallelFor(1000, [&](int64_t i, int32_t thread) { sums[thread] += i; });
  EXPECT_EQ(sums[0] + sums[1] + sums[2] + sums[3], 499500);
}

}  // namespace
}  // namespace treeline
