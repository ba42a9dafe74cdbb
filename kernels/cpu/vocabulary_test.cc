#include "kernels/cpu/vocabulary.h"

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/reference/vocabulary.h"

namespace treeline {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// Around whole blocks and whole vectors.
constexpr int32_t kSizes[] = {1, 5, 16, 63, 64, 65, 127, 128, 1000, 4099};

std::vector<float> RandomLogits(int32_t n, float scale) {
  std::mt19937 rng(n);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(n);
  for (float& value : values) value = normal(rng);
  return values;
}

std::vector<float> Maxima(const std::vector<float>& x) {
  std::vector<float> maxima(VocabularyBlocks(x.size()));
  cpu::BlockMaxima({x.data(), maxima.data(), static_cast<int32_t>(x.size())});
  return maxima;
}

struct Weights {
  std::vector<float> weights;
  std::vector<double> sums;
};

template <class Function>
Weights WeightsBy(const Function& function, const std::vector<float>& x, float max, float scale) {
  Weights result{std::vector<float>(x.size()), std::vector<double>(VocabularyBlocks(x.size()))};
  function(BlockWeightsParams{x.data(), max, scale, result.weights.data(), result.sums.data(),
                              static_cast<int32_t>(x.size())});
  return result;
}

TEST(BlockMaxima, AreTheReferences) {
  for (const int32_t n : kSizes) {
    std::vector<float> x = RandomLogits(n, 3);
    x[n / 2] = -kInfinity;
    std::vector<float> expected(VocabularyBlocks(n));
    reference::BlockMaxima({x.data(), expected.data(), n});
    EXPECT_EQ(Maxima(x), expected) << n;
  }
}

TEST(BlockMaxima, ANanShowsInItsBlockWhereverItStands) {
  for (int32_t at = 0; at < 130; ++at) {
    std::vector<float> x(130, 1.0f);
    x[at] = std::numeric_limits<float>::quiet_NaN();
    const std::vector<float> maxima = Maxima(x);
    for (int32_t block = 0; block < 3; ++block) {
      EXPECT_EQ(std::isnan(maxima[block]), block == at / kVocabularyBlock) << at;
    }
  }
}

TEST(BlockMaxima, InfinitiesAreValues) {
  EXPECT_EQ(Maxima({-kInfinity, -kInfinity}), std::vector<float>{-kInfinity});
  EXPECT_EQ(Maxima({1, kInfinity, 2}), std::vector<float>{kInfinity});
}

TEST(BlockWeights, MatchTheReference) {
  for (const int32_t n : kSizes) {
    for (const float scale : {0.01f, 1.0f, 7.0f}) {
      std::vector<float> x = RandomLogits(n, 4);
      x[n - 1] = 20;
      const auto actual = WeightsBy(cpu::BlockWeights, x, 20, scale);
      const auto expected = WeightsBy(reference::BlockWeights, x, 20, scale);
      for (int32_t i = 0; i < n; ++i) {
        // The argument is a float: its rounding grows with its size.
        const double tolerance = 1e-7 * (3 + (20 - x[i]) * scale);
        ASSERT_NEAR(actual.weights[i], expected.weights[i],
                    tolerance * expected.weights[i] + 1e-37);
      }
      for (size_t b = 0; b < actual.sums.size(); ++b) {
        ASSERT_NEAR(actual.sums[b], expected.sums[b],
                    1e-7 * (6 + 40 * scale) * expected.sums[b] + 1e-37);
      }
    }
  }
}

TEST(BlockWeights, TheBestHasWeightOneAndWhatIsOutOfReachNone) {
  const float largest = std::numeric_limits<float>::max();
  for (const float scale : {1e-38f, 1.0f, largest}) {
    EXPECT_EQ(WeightsBy(cpu::BlockWeights, {3, -kInfinity, 3}, 3, scale).weights,
              (std::vector<float>{1, 0, 1}));
  }
  EXPECT_EQ(WeightsBy(cpu::BlockWeights, {largest, -largest}, largest, 1).weights,
            (std::vector<float>{1, 0}));
  EXPECT_EQ(WeightsBy(cpu::BlockWeights, {0, -1}, 0, largest).weights, (std::vector<float>{1, 0}));
}

TEST(BlockWeights, SumsDoWithoutTheWeights) {
  const std::vector<float> x = RandomLogits(1000, 1);
  std::vector<double> sums(VocabularyBlocks(1000));
  cpu::BlockWeights({x.data(), 4, 1, nullptr, sums.data(), 1000});
  EXPECT_EQ(sums, WeightsBy(cpu::BlockWeights, x, 4, 1).sums);
}

// So that a seed draws the same tokens on each machine.
TEST(BlockWeights, VectorWidthDoesNotShow) {
  const std::vector<float> x = RandomLogits(4099, 4);
  std::vector<Weights> results;
  for (const int64_t target : {HWY_AVX3, HWY_AVX2}) {
    if ((hwy::SupportedTargets() & target) == 0) continue;
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(target);
    results.push_back(WeightsBy(cpu::BlockWeights, x, 20, 1.3f));
    hwy::SetSupportedTargetsForTest(0);
    hwy::GetChosenTarget().DeInit();
  }
  for (const Weights& result : results) {
    EXPECT_EQ(result.weights, results[0].weights);
    EXPECT_EQ(result.sums, results[0].sums);
  }
}

struct Top {
  std::vector<int32_t> ids;
  std::vector<float> logprobs;
};

template <class Function>
Top TopBy(const Function& function, const std::vector<float>& x, int32_t k) {
  Top top{std::vector<int32_t>(k, -7), std::vector<float>(k, 7)};
  function(TopTokensParams{x.data(), top.ids.data(), top.logprobs.data(), 1,
                           static_cast<int32_t>(x.size()), k});
  return top;
}

void ExpectTop(const std::vector<float>& x, int32_t k) {
  const Top actual = TopBy(cpu::TopTokens, x, k), expected = TopBy(reference::TopTokens, x, k);
  EXPECT_EQ(actual.ids, expected.ids);
  for (int32_t i = 0; i < k; ++i) {
    EXPECT_EQ(std::isnan(actual.logprobs[i]), std::isnan(expected.logprobs[i]));
    if (std::isfinite(expected.logprobs[i])) {
      EXPECT_NEAR(actual.logprobs[i], expected.logprobs[i], 1e-5);
    } else if (!std::isnan(expected.logprobs[i])) {
      EXPECT_EQ(actual.logprobs[i], expected.logprobs[i]);
    }
  }
}

TEST(TopTokens, AreTheReferences) {
  for (const int32_t n : kSizes) {
    for (const int32_t k : {1, 2, 10, kMaxTopTokens}) {
      std::vector<float> x = RandomLogits(n, 3);
      ExpectTop(x, k);
      for (float& value : x) value = std::round(value);  // Many equals.
      ExpectTop(x, k);
      for (int32_t i = 1; i < n; ++i) x[i] = -kInfinity;  // Fewer than are wanted.
      ExpectTop(x, k);
    }
  }
}

TEST(TopTokens, DamagedRowsShow) {
  for (const float damage : {kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
    for (const int32_t at : {0, 63, 64, 199}) {
      std::vector<float> x = RandomLogits(200, 3);
      x[at] = damage;
      ExpectTop(x, 3);
    }
  }
  ExpectTop({-kInfinity, -kInfinity}, 2);
}

}  // namespace
}  // namespace treeline
