#include "engine/backend/timed_backend.h"

#include <gtest/gtest.h>

#include <memory>
#include <tuple>
#include <vector>

#include "engine/backend/fake_device.h"

namespace treeline {
namespace {

// Takes a second to tell the time.
class TickingClock : public Clock {
 public:
  TimePoint Now() const override { return now_ += std::chrono::seconds(1); }

 private:
  mutable TimePoint now_;
};

TEST(TimedBackendTest, ComputesAsItsBackendAndCountsTheProducts) {
  const TickingClock clock;
  TimedBackend backend(*CreateCpuBackend({.threads = 1, .matmul_kernel = "fp32"}), clock);
  const auto matrix = backend.CreateMatrix(WeightType::kF32, 3, 2, [](int32_t row, auto values) {
    values[0] = static_cast<float>(row);
    values[1] = 10;
  });
  ASSERT_TRUE(matrix.ok());
  const std::vector<float> x = {1, 2, 3, 4};
  std::vector<float> y(6);
  for (int i = 0; i < 2; ++i) {
    MatMulParams params;
    params.x = x.data();
    params.y = y.data();
    params.rows = 2;
    backend.MatMul(params, **matrix);
  }
  EXPECT_EQ(y, (std::vector<float>{20, 21, 22, 40, 43, 46}));

  const OperationTimes times = backend.Take();
  EXPECT_EQ(times.dense_seconds, 2);
  EXPECT_EQ(times.attention_seconds, 0);
  EXPECT_EQ(times.dense_operations, 2 * (2 * 2 * 3 * 2));
  EXPECT_EQ(times.dense_weight_bytes, 2.0 * static_cast<double>((*matrix)->bytes()));
  EXPECT_EQ(backend.Take().dense_seconds, 0);
}

// Bug: operations that run on after the call were timed until it returned.
TEST(TimedBackendTest, OfADeviceOperationsAreTimedByItsClockWhereThisIsAskedFor) {
  const TickingClock clock;
  TimedBackend backend(std::make_unique<FakeDevice>(*CreateCpuBackend({.threads = 1})), clock);
  ASSERT_TRUE(backend.is_asynchronous());
  const auto matrix =
      backend.CreateMatrix(WeightType::kF32, 1, 1, [](int32_t, auto values) { values[0] = 1; });
  ASSERT_TRUE(matrix.ok());
  const float x = 1;
  float y = 0;
  MatMulParams params;
  params.x = &x;
  params.y = &y;
  params.rows = 1;
  for (const auto& [is_timing, products, seconds] :
       {std::tuple(false, 2, 0), {true, 3, 1 + 3 + 5}, {true, 1, 1}, {false, 1, 0}}) {
    backend.set_is_timing(is_timing);
    for (int i = 0; i < products; ++i) backend.MatMul(params, **matrix);
    const OperationTimes times = backend.Take();
    EXPECT_EQ(times.dense_seconds, seconds);
    EXPECT_EQ(times.dense_operations, 2 * products);
  }
}

}  // namespace
}  // namespace treeline
