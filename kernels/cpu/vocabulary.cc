#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/vocabulary.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h:
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <vector>

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

// The largest; NaN where one is.
float Largest(const std::vector<float>& maxima) {
  float largest = -std::numeric_limits<float>::infinity();
  for (const float maximum : maxima) {
    if (std::isnan(maximum)) return maximum;
    largest = std::max(largest, maximum);
  }
  return largest;
}

// REQUIRES: best, the largest of x, is finite.
double LogSumBelow(float best, const float* x, int32_t n) {
  std::vector<double> sums(VocabularyBlocks(n));
  BlockWeights({x, best, 1, nullptr, sums.data(), n});
  return best + std::log(std::accumulate(sums.begin(), sums.end(), 0.0));
}

}  // namespace

void BlockMaxima(const BlockMaximaParams& params) { HWY_DYNAMIC_DISPATCH(BlockMaxima)(params); }

void BlockWeights(const BlockWeightsParams& params) { HWY_DYNAMIC_DISPATCH(BlockWeights)(params); }

double LogSum(const float* x, int32_t n) {
  std::vector<float> maxima(VocabularyBlocks(n));
  BlockMaxima({x, maxima.data(), n});
  const float best = Largest(maxima);
  return std::isfinite(best) ? LogSumBelow(best, x, n) : std::numeric_limits<double>::quiet_NaN();
}

void TopTokens(const TopTokensParams& params) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const int32_t num_blocks = VocabularyBlocks(params.n);
  std::vector<float> maxima(num_blocks);
  BlockMaxima({params.logits, maxima.data(), params.n});
  const float best = Largest(maxima);
  std::fill_n(params.ids, params.k, -1);
  std::fill_n(params.logprobs, params.k, std::isfinite(best) ? -kInfinity : kNan);
  if (!std::isfinite(best)) return;
  const double log_sum = LogSumBelow(best, params.logits, params.n);

  // As many blocks as tokens are wanted have one at least this good: so is each that is wanted.
  float bound = std::numeric_limits<float>::lowest();
  if (params.k <= num_blocks) {
    std::vector<float> bounds = maxima;
    std::nth_element(bounds.begin(), bounds.begin() + (params.k - 1), bounds.end(),
                     std::greater<>());
    bound = std::max(bound, bounds[params.k - 1]);
  }
  std::vector<int32_t> candidates;
  for (int32_t block = 0; block < num_blocks; ++block) {
    if (maxima[block] < bound) continue;
    const int32_t end = std::min((block + 1) * kVocabularyBlock, params.n);
    for (int32_t id = block * kVocabularyBlock; id < end; ++id) {
      if (params.logits[id] >= bound) candidates.push_back(id);
    }
  }
  const size_t count = std::min<size_t>(params.k, candidates.size());
  const auto better = [&](int32_t a, int32_t b) {
    return params.logits[a] != params.logits[b] ? params.logits[a] > params.logits[b] : a < b;
  };
  std::partial_sort(candidates.begin(), candidates.begin() + count, candidates.end(), better);
  for (size_t rank = 0; rank < count; ++rank) {
    params.ids[rank] = candidates[rank];
    params.logprobs[rank] = static_cast<float>(params.logits[candidates[rank]] - log_sum);
  }
}

}  // namespace treeline::cpu
#endif  // HWY_ONCE
