#include "engine/sampling/logits_processors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace treeline {
namespace {

using ::testing::ElementsAre;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(LogitsProcessorsTest, AddsBiasToNamedTokens) {
  std::vector<float> logits = {1, 2, 3};
  const std::vector<std::pair<int32_t, float>> bias = {{0, 5}, {2, -100}};
  AddLogitBias(bias, logits);
  EXPECT_THAT(logits, ElementsAre(6, 2, -97));
}

TEST(LogitsProcessorsTest, BannedTokensGetMinusInfinity) {
  std::vector<float> logits = {1, 2, 3};
  BanTokens(std::vector<int32_t>{1, 1}, logits);
  EXPECT_THAT(logits, ElementsAre(1, -kInfinity, 3));
}

class PenaltiesTest : public testing::Test {
 protected:
  std::vector<float> Apply(const SamplingParams& params) {
    std::vector<float> logits = {4, -4, 2, -2, 0};
    penalties_.Apply(params, prompt_, generated_, logits);
    return logits;
  }

  const std::vector<int32_t> prompt_ = {0, 1, 0};
  const std::vector<int32_t> generated_ = {1, 2, 2, 2};
  Penalties penalties_;
};

TEST_F(PenaltiesTest, RepetitionCountsPromptAndOutputOnceEach) {
  EXPECT_THAT(Apply({.repetition_penalty = 2}), ElementsAre(2, -8, 1, -2, 0));
}

TEST_F(PenaltiesTest, FrequencyCountsEachGeneratedToken) {
  EXPECT_THAT(Apply({.frequency_penalty = 0.5}), ElementsAre(4, -4.5, 0.5, -2, 0));
}

TEST_F(PenaltiesTest, PresenceCountsGeneratedTokensOnce) {
  EXPECT_THAT(Apply({.presence_penalty = 1.5}), ElementsAre(4, -5.5, 0.5, -2, 0));
}

TEST_F(PenaltiesTest, RepetitionComesBeforeTheOthers) {
  const SamplingParams params{
      .presence_penalty = 1, .frequency_penalty = 0.5, .repetition_penalty = 2};
  EXPECT_THAT(Apply(params), ElementsAre(2, -8 - 1.5, 1 - 2.5, -2, 0));
}

TEST_F(PenaltiesTest, OneCallLeavesNothingBehindForTheNext) {
  const SamplingParams params{
      .presence_penalty = 1, .frequency_penalty = 0.5, .repetition_penalty = 2};
  const std::vector<float> first = Apply(params);
  EXPECT_EQ(Apply(params), first);
}

TEST_F(PenaltiesTest, NeutralParametersChangeNothing) {
  EXPECT_THAT(Apply({}), ElementsAre(4, -4, 2, -2, 0));
}

}  // namespace
}  // namespace treeline
