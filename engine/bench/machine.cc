#include "engine/bench/machine.h"

#include <algorithm>
#include <memory>
#include <new>
#include <random>
#include <vector>

#include "kernels/bench/ceilings.h"

namespace treeline {
namespace {

constexpr int kRuns = 5;

// The best rate of `kRuns` calls of run(), which returns how much it did.
template <typename Run>
double BestRate(const Clock& clock, const Run& run) {
  double best = 0;
  for (int i = 0; i < kRuns; ++i) {
    const TimePoint start = clock.Now();
    const double amount = run();
    best = std::max(best, amount / ToSeconds(clock.Now() - start));
  }
  return best;
}

// The best rate of `kRuns` times run(), which enqueues so much on the timer's device.
template <typename Run>
double BestDeviceRate(double amount, DeviceTimer& timer, const Run& run) {
  run();
  for (int i = 0; i < kRuns; ++i) {
    timer.Mark();
    run();
  }
  timer.Mark();
  const std::vector<double> seconds = timer.Take();
  const double least = *std::ranges::min_element(seconds);
  return least > 0 ? amount / least : 0;
}

}  // namespace

StatusOr<MachineCeilings> MeasureCeilings(size_t memory_bytes, const Clock& clock,
                                          ThreadPool& pool) {
  std::vector<float> data;
  try {
    data.assign(memory_bytes / sizeof(float), 1.0f);
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("cannot allocate {} MiB to measure memory with", memory_bytes >> 20);
  }
  MachineCeilings ceilings;
  ceilings.memory_bytes_per_second = BestRate(clock, [&] {
    ReadMemory(data, pool);
    return static_cast<double>(memory_bytes);
  });
  ceilings.fp32_operations_per_second = BestRate(clock, [&] { return MultiplyAddRegisters(pool); });
  return ceilings;
}

StatusOr<DeviceCeilings> MeasureDeviceCeilings(size_t memory_bytes, Backend& backend) {
  const std::unique_ptr<DeviceTimer> timer = backend.CreateTimer();
  TREELINE_CHECK(timer != nullptr);
  DeviceCeilings ceilings;
  {
    TREELINE_ASSIGN_OR_RETURN(const Buffer from, backend.Allocate(memory_bytes));
    TREELINE_ASSIGN_OR_RETURN(const Buffer to, backend.Allocate(memory_bytes));
    ceilings.copied_bytes_per_second =
        BestDeviceRate(2.0 * static_cast<double>(memory_bytes), *timer,
                       [&] { backend.Copy(to.get(), from.get(), memory_bytes); });
  }
  // Values as activations and weights have them: a GPU multiplies zeros faster.
  constexpr int32_t kSize = 8192;
  std::mt19937 random;
  std::normal_distribution<float> normal;
  std::vector<float> values(2 * kSize);
  for (float& value : values) value = normal(random);
  TREELINE_ASSIGN_OR_RETURN(
      const std::unique_ptr<Matrix> matrix,
      backend.CreateMatrix(WeightType::kBF16, kSize, kSize, [&](int32_t row, std::span<float> to) {
        std::copy_n(values.begin() + row, kSize, to.begin());
      }));
  constexpr size_t kBytes = size_t{kSize} * kSize * sizeof(float);
  TREELINE_ASSIGN_OR_RETURN(const Buffer x, backend.Allocate(kBytes));
  TREELINE_ASSIGN_OR_RETURN(const Buffer y, backend.Allocate(kBytes));
  for (int32_t row = 0; row < kSize; ++row) {
    backend.CopyToDevice(static_cast<float*>(x.get()) + size_t{kSize} * row,
                         values.data() + (row * 5) % kSize, kSize * sizeof(float));
  }
  MatMulParams params;
  params.x = static_cast<const float*>(x.get());
  params.y = static_cast<float*>(y.get());
  params.rows = kSize;
  ceilings.product_operations_per_second =
      BestDeviceRate(2.0 * kSize * kSize * kSize, *timer, [&] { backend.MatMul(params, *matrix); });
  TREELINE_RETURN_IF_ERROR(backend.Synchronize());
  return ceilings;
}

}  // namespace treeline
