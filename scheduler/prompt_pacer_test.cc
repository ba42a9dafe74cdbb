#include "scheduler/prompt_pacer.h"

#include <gtest/gtest.h>

#include <limits>

namespace treeline {
namespace {

using std::chrono::milliseconds;

constexpr int32_t kNoLimit = std::numeric_limits<int32_t>::max();

// A machine whose steps take 5 ms for the decodes and 0.5 ms a prompt token.
Duration StepTime(int32_t prompt_tokens, int32_t num_decoding) {
  return milliseconds(num_decoding > 0 ? 5 : 0) + std::chrono::microseconds(500) * prompt_tokens;
}

TEST(PromptPacer, WithoutABudgetOrAReaderNothingIsLimited) {
  EXPECT_EQ(PromptPacer(Duration(0)).MaxPromptTokens(10), kNoLimit);
  EXPECT_EQ(PromptPacer(milliseconds(50)).MaxPromptTokens(0), kNoLimit);
}

TEST(PromptPacer, StepsSettleWithinTheBudget) {
  PromptPacer pacer(milliseconds(50));
  Duration took{};
  for (int i = 0; i < 10; ++i) {
    pacer.Observe(0, 4, StepTime(0, 4));
    const int32_t tokens = pacer.MaxPromptTokens(4);
    took = StepTime(tokens, 4);
    EXPECT_LE(took, milliseconds(50)) << "step " << i;
    pacer.Observe(tokens, 4, took);
  }
  // And use it: (50 - 5) / 0.5 tokens.
  EXPECT_NEAR(pacer.MaxPromptTokens(4), 90, 1);
}

TEST(PromptPacer, FollowsAMachineThatSlowsDown) {
  PromptPacer pacer(milliseconds(50));
  for (int i = 0; i < 10; ++i) {
    pacer.Observe(0, 4, StepTime(0, 4));
    pacer.Observe(90, 4, StepTime(90, 4));
  }
  for (int i = 0; i < 30; ++i) pacer.Observe(90, 4, 2 * StepTime(90, 4));
  EXPECT_LE(pacer.MaxPromptTokens(4), 50);
}

// Bug: where a step of decodes took longer than the budget, prompts got on by a token a step.
TEST(PromptPacer, SlowDecodesDoNotStarvePrompts) {
  PromptPacer pacer(milliseconds(100));
  pacer.Observe(0, 1, milliseconds(400));
  pacer.Observe(16, 1, milliseconds(400 + 16 * 10));
  EXPECT_NEAR(pacer.MaxPromptTokens(1), 40, 1);  // As long as the decodes.
}

TEST(PromptPacer, PromptsGetOnHoweverSlowTheMachine) {
  PromptPacer pacer(milliseconds(1));
  pacer.Observe(0, 1, milliseconds(400));
  pacer.Observe(1, 1, milliseconds(4000));
  EXPECT_EQ(pacer.MaxPromptTokens(1), 1);
}

}  // namespace
}  // namespace treeline
