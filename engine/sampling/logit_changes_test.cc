#include "engine/sampling/logit_changes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <set>
#include <vector>

#include "kernels/cpu/token_drawer.h"

namespace treeline {
namespace {

using ::testing::ElementsAre;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class LogitChangesTest : public testing::Test {
 protected:
  // [size] logits after the changes.
  std::vector<float> Apply(const SamplingParams& params, std::vector<float> logits,
                           RowRequest request = {}) {
    request.sampling = &params;
    const std::vector<LogitChange> list = changes_.Of(request, static_cast<int32_t>(logits.size()));
    std::set<int32_t> ids;
    for (const LogitChange& change : list) {
      EXPECT_TRUE(ids.insert(change.id).second) << "two changes of token " << change.id;
    }
    cpu::ApplyChanges(list, logits);
    return logits;
  }

  LogitChanges changes_;
};

TEST_F(LogitChangesTest, AddsBiasToNamedTokens) {
  EXPECT_THAT(Apply({.logit_bias = {{0, 5}, {2, -100}}}, {1, 2, 3}), ElementsAre(6, 2, -97));
}

TEST_F(LogitChangesTest, BannedTokensGetMinusInfinity) {
  const std::vector<int32_t> banned = {1, 1};
  EXPECT_THAT(Apply({}, {1, 2, 3}, {.banned = banned}), ElementsAre(1, -kInfinity, 3));
}

TEST_F(LogitChangesTest, BansOutlastBiasAndPenalties) {
  const std::vector<int32_t> banned = {0, 1}, generated = {0, 1};
  const SamplingParams params{.frequency_penalty = -2,
                              .repetition_penalty = 0.5f,
                              .logit_bias = {{0, 100.0f}, {1, -100.0f}}};
  EXPECT_THAT(Apply(params, {1, -1}, {.generated = generated, .banned = banned}),
              ElementsAre(-kInfinity, -kInfinity));
}

TEST_F(LogitChangesTest, BiasComesBeforePenalties) {
  const std::vector<int32_t> generated = {0};
  const SamplingParams params{
      .presence_penalty = 0.5f, .repetition_penalty = 2, .logit_bias = {{0, 5.0f}}};
  EXPECT_THAT(Apply(params, {-1}, {.generated = generated}), ElementsAre(1.5f));
}

TEST_F(LogitChangesTest, AnotherVocabularyMayFollow) {
  const std::vector<int32_t> banned = {0};
  EXPECT_THAT(Apply({}, {1, 2, 3}, {.banned = banned}), ElementsAre(-kInfinity, 2, 3));
  EXPECT_THAT(Apply({}, {1}, {.banned = banned}), ElementsAre(-kInfinity));
  EXPECT_THAT(Apply({}, {1, 2, 3, 4, 5}, {.banned = banned}), ElementsAre(-kInfinity, 2, 3, 4, 5));
}

// One token of the output is a draft's.
class PenaltiesTest : public LogitChangesTest {
 protected:
  std::vector<float> Apply(const SamplingParams& params) {
    return LogitChangesTest::Apply(
        params, {4, -4, 2, -2, 0},
        {.prompt = prompt_, .generated = generated_, .drafted = drafted_});
  }

  const std::vector<int32_t> prompt_ = {0, 1, 0};
  const std::vector<int32_t> generated_ = {1, 2, 2};
  const std::vector<int32_t> drafted_ = {2};
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
