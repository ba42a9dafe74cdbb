#include "server/work_queue.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <semaphore>

namespace treeline {
namespace {

TEST(WorkQueueTest, OneThreadRunsJobsInOrder) {
  std::string order;
  WorkQueue queue(1);
  for (const char c : std::string("abcdef")) queue.Run([&order, c] { order += c; });
  queue.Stop();
  EXPECT_EQ(order, "abcdef");
}

TEST(WorkQueueTest, AJobThatWaitsDoesNotHoldUpOthers) {
  std::binary_semaphore second_ran(0);
  WorkQueue queue(2);
  queue.Run([&] { second_ran.acquire(); });
  queue.Run([&] { second_ran.release(); });
  queue.Stop();  // Within the test's own time limit.
}

TEST(WorkQueueTest, JobsAfterStopAreDropped) {
  const auto held = std::make_shared<int>(0);
  WorkQueue queue(1);
  queue.Stop();
  queue.Run([held] { ++*held; });
  EXPECT_EQ(*held, 0);
  EXPECT_EQ(held.use_count(), 1);
}

}  // namespace
}  // namespace treeline
