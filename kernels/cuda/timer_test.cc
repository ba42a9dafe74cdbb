// Runs where a GPU is (tag "gpu").
#include "kernels/cuda/timer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

namespace treeline::cuda {
namespace {

TEST(TimerTest, TellsOfWorkOnTheGpusClock) {
  std::string error;
  const std::shared_ptr<Stream> stream = Stream::Open(0, error);
  ASSERT_NE(stream, nullptr) << error;
  constexpr size_t kBytes = size_t{256} << 20;
  void* from = stream->Allocate(kBytes);
  void* to = stream->Allocate(kBytes);
  EXPECT_GE(stream->PeakMemory(), 2 * kBytes);
  Timer timer(*stream);
  for (int repeat = 0; repeat < 2; ++repeat) {
    ASSERT_EQ(stream->Synchronize(), "");
    const auto start = std::chrono::steady_clock::now();
    timer.Mark();
    stream->Copy(to, from, kBytes);
    timer.Mark();
    timer.Mark();
    const std::vector<double> seconds = timer.Take();
    const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
    ASSERT_EQ(seconds.size(), 2);
    // No memory moves 100 TB a second.
    EXPECT_GE(seconds[0], 2.0 * kBytes / 1e14);
    EXPECT_LT(seconds[1], seconds[0]);
    EXPECT_LE(seconds[0] + seconds[1], wall.count());
  }
  EXPECT_TRUE(timer.Take().empty());
  stream->Free(from);
  stream->Free(to);
}

// Bug: what was marked after a failure was not counted, and who took the least of it found nothing.
TEST(TimerTest, AfterAFailureSecondsAreZero) {
  std::string error;
  const std::shared_ptr<Stream> stream = Stream::Open(0, error);
  ASSERT_NE(stream, nullptr) << error;
  Timer timer(*stream);
  stream->Fail("out of memory");
  timer.Mark();
  timer.Mark();
  EXPECT_EQ(stream->Synchronize(), "out of memory");
  timer.Mark();
  EXPECT_EQ(timer.Take(), (std::vector<double>{0, 0}));
  timer.Mark();
  timer.Mark();
  EXPECT_EQ(timer.Take().size(), 1);
}

}  // namespace
}  // namespace treeline::cuda
