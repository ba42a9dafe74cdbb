// Speculation through the whole scheduler: whatever the guesses, requests are given what
// plain decoding gives them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "scheduler/scheduler_fixture.h"

namespace treeline {
namespace {

using ::testing::ElementsAre;
using Chain = FakeEngine::Chain;
using Tokens = std::vector<int32_t>;

class SpeculationTest : public SchedulerTest {
 protected:
  SpeculationTest() { Create({.max_batch_tokens = 64, .max_draft_nodes = 16}); }

  // A model that counts up from its last token and starts again after 29, or, where it is not to
  // be guessed, does what HashToken does one time in `surprise`.
  void CountUp(int surprise = 0) {
    engine_.set_next_token([this, surprise](std::span<const int32_t> prefix, uint32_t choice) {
      const int32_t hash = engine_.HashToken(prefix, choice);
      if (surprise > 0 && hash % surprise == 0) return hash;
      return prefix.back() >= 29 || prefix.back() < 20 ? 20 : prefix.back() + 1;
    });
  }
  Tokens Repeating() const { return {20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 20, 21, 22}; }
  int NumSteps() const { return static_cast<int>(engine_.steps().size()); }
};

TEST_F(SpeculationTest, ARepetitionTakesFewerSteps) {
  CountUp();
  Reader reader = Submit(MakeRequest(Repeating(), 30));
  RunToEnd();
  EXPECT_EQ(reader.choice().tokens, engine_.Continuation(Repeating(), 30));
  EXPECT_LE(NumSteps(), 6);
  const Usage& usage = reader.stream().usage();
  EXPECT_EQ(usage.completion_tokens, 30);
  EXPECT_EQ(usage.accepted_draft_tokens, 30 - NumSteps());
  EXPECT_EQ(observer_.num_accepted, usage.accepted_draft_tokens);
  EXPECT_EQ(observer_.num_guesses, usage.accepted_draft_tokens + usage.rejected_draft_tokens);
}

TEST_F(SpeculationTest, ARequestMayDoWithout) {
  CountUp();
  Request request = MakeRequest(Repeating(), 30);
  request.drafting = Drafting::kNone;
  Reader reader = Submit(request);
  RunToEnd();
  EXPECT_EQ(NumSteps(), 30);
  EXPECT_EQ(observer_.num_guesses, 0);
}

TEST_F(SpeculationTest, OrWithSmallerTrees) {
  CountUp();
  Request request = MakeRequest(Repeating(), 30);
  request.max_draft_nodes = 3;
  Reader reader = Submit(request);
  RunToEnd();
  for (const auto& step : engine_.steps()) EXPECT_LE(step[0].num_tokens, 13);
  EXPECT_EQ(engine_.steps()[1], std::vector<Chain>({{20, 13, 3}}));
}

TEST_F(SpeculationTest, EndsExactlyAtMaxTokensAndAtTheContext) {
  CountUp();
  for (int32_t max_tokens = 1; max_tokens <= 20; ++max_tokens) {
    Reader reader = Submit(MakeRequest(Repeating(), max_tokens));
    RunToEnd();
    EXPECT_EQ(reader.choice().tokens, engine_.Continuation(Repeating(), max_tokens));
    EXPECT_EQ(reader.choice().finish, FinishReason::kLength);
  }
  Reader reader = Submit(MakeRequest(Repeating(), 500));
  RunToEnd();
  EXPECT_EQ(reader.choice().tokens.size(), 100 - Repeating().size());
}

TEST_F(SpeculationTest, StopsInsideAnAcceptedPath) {
  CountUp();
  for (int32_t stop = 20; stop < 30; ++stop) {
    Request request = MakeRequest(Repeating(), 40);
    request.stop.stop_token_ids = {stop};
    Reader reader = Submit(request);
    RunToEnd();
    EXPECT_EQ(reader.choice().tokens.back(), stop);
    EXPECT_EQ(std::count(reader.choice().tokens.begin(), reader.choice().tokens.end(), stop), 1);
    EXPECT_EQ(reader.choice().finish, FinishReason::kStop);
  }
}

TEST_F(SpeculationTest, MinTokensBanStopTokensAtEveryDepth) {
  CountUp();
  Request request = MakeRequest(Repeating(), 12);
  request.stop.stop_token_ids = {25};
  request.stop.min_tokens = 10;
  Reader with = Submit(request);
  RunToEnd();
  request.drafting = Drafting::kNone;
  Reader without = Submit(request);
  RunToEnd();
  EXPECT_EQ(with.choice().tokens, without.choice().tokens);
}

TEST_F(SpeculationTest, LogprobsBelongToTheirTokens) {
  CountUp(/*surprise=*/7);
  Request request = MakeRequest(Repeating(), 40);
  request.logprobs = true;
  request.top_logprobs = 2;
  Reader reader = Submit(request);
  RunToEnd();
  Tokens prefix = Repeating();
  ASSERT_EQ(reader.choice().logprobs.size(), reader.choice().tokens.size());
  for (const TokenLogprob& entry : reader.choice().logprobs) {
    EXPECT_EQ(entry.logprob, FakeEngine::Logprob(prefix, entry.token));
    EXPECT_EQ(entry.top, FakeEngine::TopLogprobs(prefix, 2));
    prefix.push_back(entry.token);
  }
}

TEST_F(SpeculationTest, GuessesStayWithinTheStep) {
  Create({.max_batch_tokens = 5, .max_draft_nodes = 64});
  CountUp();
  for (int i = 0; i < 3; ++i) Submit(MakeRequest(Repeating(), 30));
  for (int i = 0; i < 60; ++i) scheduler_->Step();
  for (const auto& step : engine_.steps()) {
    int32_t tokens = 0;
    for (const Chain& chain : step) tokens += chain.num_tokens;
    EXPECT_LE(tokens, 5);
  }
  RunToEnd();
}

TEST_F(SpeculationTest, NothingIsGuessedWhereItDoesNotPay) {
  Create({.max_batch_tokens = 64,
          .max_draft_nodes = 16,
          .step_costs = StepCosts({{1, 0.01}, {64, 0.64}})});
  CountUp();
  Submit(MakeRequest(Repeating(), 30));
  RunToEnd();
  EXPECT_EQ(observer_.num_guesses, 0);
}

// A text that repeats its phrases but never goes on as before: after a few wrong guesses there are
// fewer of them, yet they do not stop for ever.
TEST_F(SpeculationTest, WrongGuessesCostTrust) {
  Create({.max_batch_tokens = 64,
          .max_draft_nodes = 16,
          .step_costs = StepCosts({{1, 1.0}, {64, 20.0}})});
  engine_.set_next_token([](std::span<const int32_t> prefix, uint32_t) {
    const auto n = static_cast<int32_t>(prefix.size());
    return n % 3 == 2 ? 100 + n : 20 + n % 3;
  });
  Submit(MakeRequest({20, 21}, 90));
  RunToEnd();
  EXPECT_EQ(observer_.num_accepted, 0);
  EXPECT_GT(observer_.num_guesses, 0);
  EXPECT_LT(observer_.num_guesses, 40);
}

// Prompts, plain decodes, drafts and prefixes side by side, with cancellations, against plain
// decoding of each alone.
TEST_F(SpeculationTest, OutputsAreThoseOfPlainDecoding) {
  Create({.max_batch_tokens = 40,
          .max_queued_requests = 1000,
          .max_draft_nodes = 16,
          .prefix_interval = 64});
  CountUp(/*surprise=*/6);
  std::mt19937 rng(21);
  std::vector<std::pair<Request, Reader>> readers;
  for (int i = 0; i < 300; ++i) {
    Tokens prompt(1 + rng() % 50);
    for (int32_t& token : prompt) token = 20 + static_cast<int32_t>(rng() % 10);
    Request request = MakeRequest(prompt, 1 + static_cast<int32_t>(rng() % 40));
    request.num_choices = 1 + static_cast<int32_t>(rng() % 2);
    if (rng() % 4 == 0) request.drafting = Drafting::kNone;
    readers.emplace_back(request, Submit(request));
    if (rng() % 8 == 0) readers.back().second.stream().Cancel();
    for (size_t n = rng() % 10; n > 0; --n) scheduler_->Step();
  }
  RunToEnd();
  for (auto& [request, reader] : readers) {
    if (reader.code() == StatusCode::kCancelled) continue;
    ASSERT_EQ(reader.code(), StatusCode::kOk);
    for (int32_t choice = 0; choice < request.num_choices; ++choice) {
      const Tokens& tokens = reader.choice(choice).tokens;
      EXPECT_EQ(tokens, engine_.Continuation(request.prompt, static_cast<int32_t>(tokens.size()),
                                             static_cast<uint32_t>(choice)));
      EXPECT_EQ(tokens.size(),
                std::min<size_t>(request.stop.max_tokens, 100 - request.prompt.size()));
    }
  }
  EXPECT_GT(observer_.num_accepted, 500);
}

}  // namespace
}  // namespace treeline
