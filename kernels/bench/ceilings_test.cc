#include "kernels/bench/ceilings.h"

#include <gtest/gtest.h>

#include <vector>

namespace treeline {
namespace {

// The yardstick is honest only if every value was read: small integers add up exactly.
TEST(Ceilings, ReadMemoryReadsEveryValueOnce) {
  ThreadPool pool(3);
  for (const size_t size : {size_t{1}, size_t{1000}, (size_t{1} << 20) + 7, size_t{3} << 20}) {
    std::vector<float> data(size, 0.0f);
    EXPECT_EQ(ReadMemory(data, pool), 0);
    data[0] = 1;
    data[size / 2] += 2;
    data[size - 1] += 4;
    EXPECT_EQ(ReadMemory(data, pool), 7) << size;
  }
}

TEST(Ceilings, MultiplyAddsGrowWithTheThreads) {
  ThreadPool one(1), three(3);
  const double operations = MultiplyAddRegisters(one);
  EXPECT_GT(operations, 1e6);
  EXPECT_EQ(MultiplyAddRegisters(three), operations * three.num_threads());
}

}  // namespace
}  // namespace treeline
