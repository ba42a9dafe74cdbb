#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/vocabulary.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h:
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <algorithm>
#include <limits>

#include "kernels/cpu/vocabulary.h"

HWY_BEFORE_NAMESPACE();
namespace treeline::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// A block is 4 steps of 16 lanes, however many vectors hold them.
constexpr int32_t kLanes = 16;
constexpr int32_t kSteps = kVocabularyBlock / kLanes;
using Tag = hn::CappedTag<float, kLanes>;
constexpr int32_t kVectors = kLanes / static_cast<int32_t>(hn::MaxLanes(Tag()));

// Calls function(block, values) for every block of x; the values of a short one are
// filled up with -infinity.
template <class Function>
void ForEachBlock(const float* x, int32_t n, const Function& function) {
  const int32_t whole = n / kVocabularyBlock, rest = n % kVocabularyBlock;
  for (int32_t block = 0; block < whole; ++block) function(block, x + block * kVocabularyBlock);
  if (rest == 0) return;
  float padded[kVocabularyBlock];
  std::fill_n(padded, kVocabularyBlock, -std::numeric_limits<float>::infinity());
  std::copy_n(x + whole * kVocabularyBlock, rest, padded);
  function(whole, padded);
}

void BlockMaxima(const BlockMaximaParams& params) {
  const Tag d;
  ForEachBlock(params.x, params.n, [&](int32_t block, const float* values) {
    auto maximum = hn::LoadU(d, values);
    auto is_nan = hn::IsNaN(maximum);
    for (int32_t i = hn::Lanes(d); i < kVocabularyBlock; i += hn::Lanes(d)) {
      const auto v = hn::LoadU(d, values + i);
      maximum = hn::Max(maximum, v);
      is_nan = hn::Or(is_nan, hn::IsNaN(v));
    }
    params.maxima[block] = hn::AllFalse(d, is_nan) ? hn::GetLane(hn::MaxOfLanes(d, maximum))
                                                   : std::numeric_limits<float>::quiet_NaN();
  });
}

// The sum of 16 lanes in one order for every width.
double SumOfSixteen(const float* lanes) {
  double sums[4];
  for (int i = 0; i < 4; ++i) {
    sums[i] = (double{lanes[i]} + lanes[i + 4]) + (double{lanes[i + 8]} + lanes[i + 12]);
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

void BlockWeights(const BlockWeightsParams& params) {
  const Tag d;
  const auto max = hn::Set(d, params.max), scale = hn::Set(d, params.scale);
  ForEachBlock(params.x, params.n, [&](int32_t block, const float* values) {
    HWY_ALIGN float weights[kVocabularyBlock];
    HWY_ALIGN float lanes[kLanes];
    for (int32_t vector = 0; vector < kVectors; ++vector) {
      auto sum = hn::Zero(d);
      for (int32_t step = 0; step < kSteps; ++step) {
        const int32_t i = step * kLanes + vector * static_cast<int32_t>(hn::Lanes(d));
        const auto v = hn::LoadU(d, values + i);
        const auto weight = hn::Exp(d, hn::Mul(hn::Sub(v, max), scale));
        hn::Store(weight, d, weights + i);
        sum = hn::Add(sum, weight);
      }
      hn::Store(sum, d, lanes + vector * hn::Lanes(d));
    }
    params.sums[block] = SumOfSixteen(lanes);
    if (params.weights == nullptr) return;
    const int32_t first = block * kVocabularyBlock;
    std::copy_n(weights, std::min(kVocabularyBlock, params.n - first), params.weights + first);
  });
}

}  // namespace treeline::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace treeline::cpu {
namespace {

HWY_EXPORT(BlockMaxima);
HWY_EXPORT(BlockWeights);

}  // namespace

void BlockMaxima(const BlockMaximaParams& params) { HWY_DYNAMIC_DISPATCH(BlockMaxima)(params); }

void BlockWeights(const BlockWeightsParams& params) { HWY_DYNAMIC_DISPATCH(BlockWeights)(params); }

}  // namespace treeline::cpu
#endif  // HWY_ONCE
