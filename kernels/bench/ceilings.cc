#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/bench/ceilings.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h:
#include <hwy/highway.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels/bench/ceilings.h"

HWY_BEFORE_NAMESPACE();
namespace treeline::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Chains of dependent additions enough to hide their latency, few enough for the registers of
// AVX2.
constexpr int kChains = 12;

float Sum(const float* values, size_t count) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  hn::Vec<decltype(d)> sums[kChains];
  for (auto& sum : sums) sum = hn::Zero(d);
  size_t i = 0;
  for (; i + kChains * lanes <= count; i += kChains * lanes) {
    for (int c = 0; c < kChains; ++c) {
      sums[c] = hn::Add(sums[c], hn::LoadU(d, values + i + c * lanes));
    }
  }
  float total = std::accumulate(values + i, values + count, 0.0f);
  for (const auto& sum : sums) total += hn::GetLane(hn::SumOfLanes(d, sum));
  return total;
}

// Leaves something of every chain in *result. Returns the operations done.
double MultiplyAdds(int64_t rounds, float* result) {
  const hn::ScalableTag<float> d;
  const auto factor = hn::Set(d, 0.5f), term = hn::Set(d, *result);
  hn::Vec<decltype(d)> sums[kChains];
  for (int c = 0; c < kChains; ++c) sums[c] = hn::Set(d, static_cast<float>(c));
  for (int64_t i = 0; i < rounds; ++i) {
    for (auto& sum : sums) sum = hn::MulAdd(sum, factor, term);
  }
  for (const auto& sum : sums) *result += hn::GetLane(hn::SumOfLanes(d, sum));
  return 2.0 * static_cast<double>(rounds) * kChains * static_cast<double>(hn::Lanes(d));
}

}  // namespace treeline::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace treeline {
namespace {

HWY_EXPORT(Sum);
HWY_EXPORT(MultiplyAdds);

}  // namespace

float ReadMemory(std::span<const float> data, ThreadPool& pool) {
  constexpr size_t kPart = size_t{1} << 20;
  const int64_t parts = static_cast<int64_t>((data.size() + kPart - 1) / kPart);
  std::vector<float> sums(parts);
  pool.ParallelFor(parts, [&](int64_t part, int32_t) {
    const size_t first = part * kPart;
    sums[part] =
        HWY_DYNAMIC_DISPATCH(Sum)(data.data() + first, std::min(kPart, data.size() - first));
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0f);
}

double MultiplyAddRegisters(ThreadPool& pool) {
  constexpr int64_t kRounds = 1'000'000;
  // A share for every thread that is there to take one.
  std::vector<double> operations(pool.num_threads());
  pool.ParallelFor(pool.num_threads(), [&](int64_t share, int32_t) {
    float result = 1.0f;
    operations[share] = HWY_DYNAMIC_DISPATCH(MultiplyAdds)(kRounds, &result);
    if (result == 0) operations[share] = 0;  // Never: the sums tend to 2. They are used, though.
  });
  return std::accumulate(operations.begin(), operations.end(), 0.0);
}

}  // namespace treeline
#endif  // HWY_ONCE
