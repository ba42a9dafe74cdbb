#include "scheduler/speculation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

namespace treeline {
namespace {

using ::testing::ElementsAre;
using Probabilities = std::vector<std::vector<float>>;

TEST(StepCosts, LieOnStraightLinesBetweenWhatWasMeasured) {
  const StepCosts costs({{1, 5}, {8, 12}, {64, 68}});
  EXPECT_DOUBLE_EQ(costs.Seconds(1), 5);
  EXPECT_DOUBLE_EQ(costs.Seconds(4), 8);
  EXPECT_DOUBLE_EQ(costs.Seconds(8), 12);
  EXPECT_DOUBLE_EQ(costs.Seconds(100), 104);
}

TEST(ChooseGuesses, TakesAllWhereRowsAreFree) {
  EXPECT_THAT(ChooseGuesses(Probabilities{{0.9f, 0.1f}, {0.5f}}, 2, 63, StepCosts()),
              ElementsAre(2, 1));
}

TEST(ChooseGuesses, TakesNoneWhereEveryRowCostsAStep) {
  const StepCosts costs({{1, 1}, {64, 64}});
  EXPECT_THAT(ChooseGuesses(Probabilities{{0.9f, 0.8f}}, 1, 63, costs), ElementsAre(0));
}

TEST(ChooseGuesses, TakesThoseThatPay) {
  // A row more costs a quarter of the first: guesses pay while they are surer than
  // 0.25 * (tokens so far) / (cost so far).
  const StepCosts costs({{1, 1}, {65, 17}});
  EXPECT_THAT(ChooseGuesses(Probabilities{{0.9f, 0.8f, 0.5f, 0.2f, 0.1f}}, 1, 63, costs),
              ElementsAre(3));
}

TEST(ChooseGuesses, KeepsToItsLimitAndPrefersTheSurest) {
  EXPECT_THAT(ChooseGuesses(Probabilities{{0.5f, 0.4f}, {0.9f, 0.1f}, {}}, 3, 2, StepCosts()),
              ElementsAre(1, 1, 0));
  EXPECT_THAT(ChooseGuesses(Probabilities{{0.5f}}, 1, 0, StepCosts()), ElementsAre(0));
}

// Against every way to choose.
TEST(ChooseGuesses, NoOtherChoiceIsFaster) {
  std::mt19937 rng(2);
  std::uniform_real_distribution<float> uniform;
  for (int round = 0; round < 200; ++round) {
    Probabilities probabilities(2);
    for (auto& of : probabilities) {
      for (int i = 0; i < 4; ++i) of.push_back(uniform(rng));
      std::sort(of.rbegin(), of.rend());
    }
    const double slope = 0.3 * uniform(rng), knee = 2 + 6 * uniform(rng);
    std::vector<StepCosts::Point> points;
    for (int rows = 1; rows <= 10; ++rows) {
      points.push_back({rows, 1 + slope * std::max(0.0, rows - knee)});
    }
    const StepCosts costs(points);
    const auto rate = [&](int a, int b) {
      double tokens = 2;
      for (int i = 0; i < a; ++i) tokens += probabilities[0][i];
      for (int i = 0; i < b; ++i) tokens += probabilities[1][i];
      return tokens / costs.Seconds(2 + a + b);
    };
    double best = 0;
    for (int a = 0; a <= 4; ++a) {
      for (int b = 0; b <= 4; ++b) best = std::max(best, rate(a, b));
    }
    const auto chosen = ChooseGuesses(probabilities, 2, 63, costs);
    EXPECT_NEAR(rate(chosen[0], chosen[1]), best, 1e-6 * best);
  }
}

}  // namespace
}  // namespace treeline
