#include "engine/sampling/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <set>

namespace treeline {
namespace {

using ::testing::ElementsAre;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The definition, by full sorts in double: the probability of each token that may be drawn.
std::map<int32_t, double> ReferenceDistribution(const std::vector<float>& logits,
                                                const SamplingParams& params) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  const double best = logits[order[0]];
  const auto weight = [&](int32_t id) {
    return std::exp((logits[id] - best) / params.temperature);
  };

  if (params.top_k > 0 && params.top_k < static_cast<int32_t>(order.size())) {
    order.resize(params.top_k);
  }
  double total = 0;
  for (const int32_t id : order) total += weight(id);
  if (params.top_p < 1) {
    double mass = 0;
    size_t kept = 0;
    while (kept < order.size() && mass < params.top_p * total) mass += weight(order[kept++]);
    order.resize(kept);
  }
  std::map<int32_t, double> distribution;
  total = 0;
  for (const int32_t id : order) {
    if (weight(id) < params.min_p) continue;
    distribution[id] = weight(id);
    total += weight(id);
  }
  for (auto& [id, probability] : distribution) probability /= total;
  return distribution;
}

std::vector<float> RandomLogits(size_t size, float scale, uint32_t seed) {
  std::mt19937 bits(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> logits(size);
  for (float& logit : logits) logit = normal(bits);
  return logits;
}

class SamplerTest : public testing::Test {
 protected:
  RowResult Sample(const std::vector<float>& logits, const RowRequest& request) {
    auto result = sampler_.Sample(logits, request);
    TREELINE_CHECK(result.ok(), "{}", Message(result.status()));
    return *std::move(result);
  }
  int32_t Draw(const std::vector<float>& logits, const SamplingParams& params,
               uint32_t position = 0) {
    return Sample(logits, {.sampling = &params,
                           .random = {.seed = params.seed, .choice = 0, .position = position}})
        .token;
  }
  // Draws `draws` tokens and compares with the reference: no token outside the kept set, and
  // Pearson's chi-square below the value that chance exceeds once in 10^4 (Wilson-Hilferty).
  void ExpectDistribution(const std::vector<float>& logits, const SamplingParams& params,
                          int draws) {
    const std::map<int32_t, double> expected = ReferenceDistribution(logits, params);
    std::map<int32_t, int> counts;
    for (int i = 0; i < draws; ++i) ++counts[Draw(logits, params, i)];
    double chi_square = 0;
    double rare_expected = 0, rare_count = 0;  // Tokens expected less than 5 times, pooled.
    int bins = 0;
    for (const auto& [token, probability] : expected) {
      const double mean = probability * draws;
      const double count = counts[token];
      if (mean < 5) {
        rare_expected += mean;
        rare_count += count;
        continue;
      }
      chi_square += (count - mean) * (count - mean) / mean;
      ++bins;
    }
    if (rare_expected >= 5) {
      chi_square += (rare_count - rare_expected) * (rare_count - rare_expected) / rare_expected;
      ++bins;
    }
    for (const auto& [token, count] : counts) {
      EXPECT_TRUE(expected.contains(token)) << "drew token " << token << ", which was cut";
    }
    if (bins < 2) return;
    const double freedom = bins - 1;
    const double deviation = 2.0 / (9 * freedom);
    const double critical = freedom * std::pow(1 - deviation + 3.719 * std::sqrt(deviation), 3);
    EXPECT_LT(chi_square, critical) << bins << " bins";
  }

  Sampler sampler_;
};

TEST_F(SamplerTest, LogprobsAreOfTheModelsOwnDistribution) {
  // Probabilities 1/8, 4/8, 2/8, 1/8, whatever the request does to the draw.
  const std::vector<float> logits = {0, std::log(4.0f), std::log(2.0f), 0};
  const SamplingParams params{.temperature = 0, .logit_bias = {{0, 100}}};
  const std::vector<int32_t> score = {3, 1};
  const RowResult result = Sample(logits, {.sampling = &params, .score = score, .top_logprobs = 3});
  EXPECT_EQ(result.token, 0);
  EXPECT_NEAR(result.logprob, std::log(1 / 8.0), 1e-6);
  ASSERT_EQ(result.scores.size(), 2);
  EXPECT_NEAR(result.scores[0], std::log(1 / 8.0), 1e-6);
  EXPECT_NEAR(result.scores[1], std::log(4 / 8.0), 1e-6);
  ASSERT_EQ(result.top_logprobs.size(), 3);
  EXPECT_EQ(result.top_logprobs[0].first, 1);
  EXPECT_NEAR(result.top_logprobs[0].second, std::log(4 / 8.0), 1e-6);
  EXPECT_EQ(result.top_logprobs[1].first, 2);
  EXPECT_EQ(result.top_logprobs[2].first, 0);  // The tie with 3 goes to the lower id.
}

TEST_F(SamplerTest, ScoresWithoutDrawing) {
  const std::vector<int32_t> score = {0};
  const RowResult result = Sample({0, 0}, {.score = score});
  EXPECT_EQ(result.token, -1);
  EXPECT_NEAR(result.scores.at(0), std::log(0.5), 1e-6);
}

TEST_F(SamplerTest, LogprobsStayExactForHugeLogits) {
  const std::vector<int32_t> score = {0, 1};
  const RowResult result = Sample({30000, 29999}, {.score = score});
  EXPECT_NEAR(result.scores[0], -std::log1p(std::exp(-1.0)), 1e-6);
  EXPECT_NEAR(result.scores[1], -1 - std::log1p(std::exp(-1.0)), 1e-6);
}

TEST_F(SamplerTest, TopLogprobsAgreeWithAFullSort) {
  std::vector<float> logits = RandomLogits(5000, 3, 11);
  for (size_t i = 0; i + 7 < logits.size(); i += 7) logits[i] = logits[i + 7];  // Ties.
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  const RowResult result = Sample(logits, {.top_logprobs = 200});
  ASSERT_EQ(result.top_logprobs.size(), 200);
  for (size_t i = 0; i < 200; ++i) EXPECT_EQ(result.top_logprobs[i].first, order[i]) << i;
}

TEST_F(SamplerTest, TemperatureZeroTakesTheBestAndTheLowestOfEquals) {
  EXPECT_EQ(Draw({1, 3, 2, 3}, {.temperature = 0}), 1);
  EXPECT_EQ(Draw({-5, -3, -3.5}, {.temperature = 0}), 1);
}

TEST_F(SamplerTest, TinyTemperatureIsGreedyAndHugeIsUniform) {
  for (uint32_t position = 0; position < 100; ++position) {
    EXPECT_EQ(Draw({1, 1.0001, 0}, {.temperature = 1e-30f}, position), 1);
  }
  ExpectDistribution({5, -5, 0, 1}, {.temperature = 1e30f, .seed = 1}, 10'000);
}

TEST_F(SamplerTest, DrawsFollowTheDistribution) {
  const std::vector<float> logits = RandomLogits(50, 2, 3);
  ExpectDistribution(logits, {.seed = 1}, 40'000);
  ExpectDistribution(logits, {.temperature = 0.6f, .seed = 2}, 40'000);
  ExpectDistribution(logits, {.temperature = 1.7f, .seed = 3}, 40'000);
  ExpectDistribution(logits, {.top_p = 0.8f, .seed = 4}, 40'000);
  ExpectDistribution(logits, {.top_k = 7, .seed = 5}, 40'000);
  ExpectDistribution(logits, {.min_p = 0.1f, .seed = 6}, 40'000);
  ExpectDistribution(
      logits, {.temperature = 1.3f, .top_p = 0.9f, .top_k = 20, .min_p = 0.05f, .seed = 7}, 40'000);
}

TEST_F(SamplerTest, MinusInfinityIsNeverDrawn) {
  const std::vector<float> logits = {-kInfinity, 0, -kInfinity, 0, -kInfinity};
  for (uint32_t position = 0; position < 1000; ++position) {
    const int32_t token = Draw(logits, {.top_k = 4, .seed = 5}, position);
    EXPECT_TRUE(token == 1 || token == 3) << token;
  }
}

// The kept set shows exactly through draws of every token in it: with the inverse of the
// distribution at hand, a draw for each u on a fine grid would find them all. Here many
// positions stand for the grid, over distributions small enough to be exhausted.
TEST_F(SamplerTest, KeptSetsAgreeWithFullSorts) {
  std::mt19937 bits(99);
  for (int round = 0; round < 300; ++round) {
    std::vector<float> logits = RandomLogits(1 + bits() % 40, 1, round);
    if (round % 3 == 0) {  // Many ties.
      for (float& logit : logits) logit = std::round(logit);
    }
    SamplingParams params;
    params.seed = round;
    params.temperature = 0.5f + 0.1f * static_cast<float>(bits() % 15);
    if (bits() % 2 == 0) params.top_k = static_cast<int32_t>(1 + bits() % logits.size());
    if (bits() % 2 == 0) params.top_p = 0.05f * static_cast<float>(1 + bits() % 19);
    if (bits() % 2 == 0) params.min_p = 0.05f * static_cast<float>(bits() % 10);
    const std::map<int32_t, double> expected = ReferenceDistribution(logits, params);
    const double rarest =
        std::min_element(expected.begin(), expected.end(), [](const auto& a, const auto& b) {
          return a.second < b.second;
        })->second;
    // Chance misses the rarest token once in e^12 rounds; the seeds are fixed.
    const int draws = static_cast<int>(std::min(12 / rarest, 20'000.0));
    std::set<int32_t> seen;
    for (int i = 0; i < draws; ++i) seen.insert(Draw(logits, params, i));
    for (const int32_t token : seen) {
      EXPECT_TRUE(expected.contains(token)) << "round " << round << ": " << token << " was cut";
    }
    if (12 / rarest < 20'000) {
      EXPECT_EQ(seen.size(), expected.size()) << "round " << round;
    }
  }
}

// Of a flat distribution thousands of candidates are left to choose among.
TEST_F(SamplerTest, TopPOfAFlatVocabularyKeepsTheRightTokens) {
  const std::vector<float> logits = RandomLogits(5'000, 0.2f, 5);
  const SamplingParams params{.top_p = 0.5f, .seed = 1};
  const std::map<int32_t, double> expected = ReferenceDistribution(logits, params);
  ASSERT_GT(expected.size(), 1000);
  std::set<int32_t> seen;
  for (int i = 0; i < 5'000; ++i) {
    const int32_t token = Draw(logits, params, i);
    ASSERT_TRUE(expected.contains(token));
    seen.insert(token);
  }
  EXPECT_GT(seen.size(), expected.size() * 3 / 4);
}

// A draw is the inverse of the kept distribution in id order: this finds the token by hand.
TEST_F(SamplerTest, DrawInvertsTheDistributionInIdOrder) {
  const std::vector<float> logits = RandomLogits(200, 2, 21);
  const SamplingParams params{.temperature = 0.9f, .top_p = 0.95f, .top_k = 60, .seed = 17};
  const std::map<int32_t, double> distribution = ReferenceDistribution(logits, params);
  for (uint32_t position = 0; position < 2000; ++position) {
    double u = Uniform({.seed = 17, .choice = 0, .position = position}, 0);
    int32_t expected = -1;
    for (const auto& [token, probability] : distribution) {
      expected = token;
      u -= probability;
      if (u < 0) break;
    }
    EXPECT_EQ(Draw(logits, params, position), expected) << position;
  }
}

// The same over a whole vocabulary, for each way to leave tokens out. Weights are floats there: a
// u this close to a token's edge may fall on its other side.
TEST_F(SamplerTest, DrawsOfALargeVocabularyInvertTheDistribution) {
  constexpr double kRounding = 2e-6;
  for (const float spread : {0.2f, 3.0f}) {
    std::vector<float> logits = RandomLogits(49'152 - 5, spread, 8);
    for (size_t i = 0; i + 300 < logits.size(); i += 50) logits[i] = logits[i + 300];  // Ties.
    for (size_t i = 1000; i < 1200; ++i) logits[i] = -kInfinity;
    for (const SamplingParams& params : std::vector<SamplingParams>{
             {},
             {.temperature = 0.7f},
             {.top_p = 0.95f},
             {.temperature = 1.5f, .top_p = 0.5f},
             {.top_k = 1},
             {.top_k = 50},
             {.top_k = 5000},
             {.top_k = 1 << 30},
             {.min_p = 0.05f},
             {.top_p = 0.9f, .min_p = 0.3f},
             {.temperature = 0.8f, .top_p = 0.9f, .top_k = 100, .min_p = 0.01f}}) {
      const std::map<int32_t, double> distribution = ReferenceDistribution(logits, params);
      std::map<int32_t, double> ends;
      double sum = 0;
      for (const auto& [token, probability] : distribution) ends[token] = sum += probability;
      for (uint32_t position = 0; position < 300; ++position) {
        const int32_t token = Draw(logits, params, position);
        const auto end = ends.find(token);
        ASSERT_NE(end, ends.end()) << "drew token " << token << ", which was cut";
        const double u = Uniform({.seed = 0, .choice = 0, .position = position}, 0);
        EXPECT_LT(u, end->second + kRounding);
        EXPECT_GT(u, end->second - distribution.at(token) - kRounding);
      }
    }
  }
}

TEST_F(SamplerTest, LogprobsOfALargeVocabularyAgreeWithDoubles) {
  const std::vector<float> logits = RandomLogits(49'152, 3, 4);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(double{logit});
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  const SamplingParams params{.temperature = 0};
  const RowResult result = Sample(logits, {.sampling = &params, .top_logprobs = 20});
  EXPECT_EQ(result.token, order[0]);
  EXPECT_NEAR(result.logprob, logits[order[0]] - std::log(sum), 1e-6);
  ASSERT_EQ(result.top_logprobs.size(), 20);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(result.top_logprobs[i].first, order[i]);
    EXPECT_NEAR(result.top_logprobs[i].second, logits[order[i]] - std::log(sum), 1e-6);
  }
}

TEST_F(SamplerTest, EqualsFarApartGoToTheLowestId) {
  std::vector<float> logits(1000, -1.0f);
  for (const int32_t best : {999, 700, 130, 129, 127, 64, 63, 0}) {
    logits[best] = 2;
    EXPECT_EQ(Draw(logits, {.temperature = 0}), best);
    EXPECT_EQ(Draw(logits, {.top_k = 1}), best);
    EXPECT_EQ(Sample(logits, {.top_logprobs = 1}).top_logprobs.at(0).first, best);
  }
}

TEST_F(SamplerTest, MoreTopLogprobsThanFiniteLogitsGivesThose) {
  const RowResult result = Sample({-kInfinity, 1, -kInfinity, 2}, {.top_logprobs = 3});
  ASSERT_EQ(result.top_logprobs.size(), 2);
  EXPECT_EQ(result.top_logprobs[0].first, 3);
  EXPECT_EQ(result.top_logprobs[1].first, 1);
}

TEST_F(SamplerTest, SeedPositionAndChoiceEachChangeTheDraws) {
  const std::vector<float> logits(1000, 0.0f);
  const SamplingParams params;
  const auto draws = [&](uint64_t seed, uint32_t choice, uint32_t first_position) {
    std::vector<int32_t> tokens;
    for (uint32_t i = 0; i < 8; ++i) {
      const RandomKey key{.seed = seed, .choice = choice, .position = first_position + i};
      tokens.push_back(Sample(logits, {.sampling = &params, .random = key}).token);
    }
    return tokens;
  };
  EXPECT_EQ(draws(1, 0, 0), draws(1, 0, 0));
  EXPECT_NE(draws(1, 0, 0), draws(2, 0, 0));
  EXPECT_NE(draws(1, 0, 0), draws(1, 1, 0));
  EXPECT_NE(draws(1, 0, 0), draws(1, 0, 8));
}

TEST_F(SamplerTest, BannedTokensAreNotDrawnEvenWithBias) {
  const SamplingParams params{.temperature = 0, .logit_bias = {{1, 100}}};
  const std::vector<int32_t> banned = {1, 3};
  EXPECT_EQ(Sample({0, 1, 2, 3}, {.sampling = &params, .banned = banned}).token, 2);
}

TEST_F(SamplerTest, PenaltiesUseTheRequestsTokens) {
  const SamplingParams params{.temperature = 0, .repetition_penalty = 2};
  const std::vector<int32_t> prompt = {0};
  const std::vector<int32_t> generated = {1};
  EXPECT_EQ(
      Sample({4, 3.9f, 3}, {.sampling = &params, .prompt = prompt, .generated = generated}).token,
      2);
}

// min(0.09, 0.3 exp(-entropy)) by its definition, flat rows to peaked ones.
TEST_F(SamplerTest, TypicalGuessesAreThoseAboveTheThreshold) {
  std::vector<int32_t> guesses(50);
  std::iota(guesses.begin(), guesses.end(), 0);
  int passed = 0, refused = 0;
  for (const float scale : {0.1f, 1.0f, 4.0f}) {
    for (const float temperature : {0.5f, 1.0f, 1.5f}) {
      for (uint32_t seed = 0; seed < 20; ++seed) {
        const std::vector<float> logits = RandomLogits(guesses.size(), scale, seed);
        const SamplingParams params{.temperature = temperature, .top_p = 0.5f};
        const auto distribution = ReferenceDistribution(logits, {.temperature = temperature});
        double entropy = 0;
        for (const auto& [id, probability] : distribution) {
          entropy -= probability * std::log(probability);
        }
        const double threshold = std::min(0.09, 0.3 * std::exp(-entropy));
        const std::vector<bool> typical =
            Sample(logits, {.sampling = &params, .guesses = guesses}).typical;
        ASSERT_EQ(typical.size(), guesses.size());
        for (const int32_t guess : guesses) {
          const double probability = distribution.at(guess);
          if (std::abs(probability / threshold - 1) < 1e-5) continue;  // Too close to call.
          EXPECT_EQ(typical[guess], probability > threshold);
          ++(typical[guess] ? passed : refused);
        }
      }
    }
  }
  EXPECT_GT(passed, 100);
  EXPECT_GT(refused, 100);
}

TEST_F(SamplerTest, OfTemperatureZeroTheBestGuessAloneIsTypical) {
  const SamplingParams params{.temperature = 0};
  const std::vector<int32_t> guesses = {0, 2, 1};
  EXPECT_EQ(Sample({1, 3, 2.9f}, {.sampling = &params, .guesses = guesses}).typical,
            std::vector<bool>({false, false, true}));
}

TEST_F(SamplerTest, DamagedLogitsAreAnError) {
  const SamplingParams params;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const std::vector<float>& logits :
       {std::vector<float>{0, nan, 1}, {nan, nan}, {0, kInfinity}, {-kInfinity, -kInfinity}}) {
    const auto result = sampler_.Sample(logits, {.sampling = &params});
    EXPECT_EQ(result.status().code(), StatusCode::kInternal);
    EXPECT_THAT(Message(result.status()), testing::HasSubstr("not finite"));
  }
}

TEST_F(SamplerTest, OneDamagedLogitIsSeenWhereverItStands) {
  for (size_t at = 0; at < 200; ++at) {
    std::vector<float> logits(200, 1.0f);
    logits[at] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_EQ(sampler_.Sample(logits, {}).status().code(), StatusCode::kInternal) << at;
  }
}

TEST_F(SamplerTest, BanningEveryTokenIsAnError) {
  const SamplingParams params;
  const std::vector<int32_t> banned = {0, 1};
  const auto result =
      sampler_.Sample(std::vector<float>{1, 2}, {.sampling = &params, .banned = banned});
  EXPECT_EQ(result.status().code(), StatusCode::kInternal);
  EXPECT_THAT(Message(result.status()), testing::HasSubstr("no token can be drawn"));
}

}  // namespace
}  // namespace treeline
