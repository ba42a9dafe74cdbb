// Speculation through the whole scheduler: whatever the guesses, requests are given what
// plain decoding gives them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <random>

#include "engine/sampling/sampler.h"
#include "scheduler/scheduler_fixture.h"

namespace treeline {
namespace {

using ::testing::ElementsAre;
using Chain = FakeEngine::Chain;
using Tokens = std::vector<int32_t>;

class SpeculationTest : public SchedulerTest {
 protected:
  explicit SpeculationTest(const EngineLimits& limits = kLimits) : SchedulerTest(limits) {
    Create({.max_batch_tokens = 64, .max_draft_nodes = 16});
  }

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
  request.drafters = kNoDrafters;
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
  request.drafters = kNoDrafters;
  Reader without = Submit(request);
  RunToEnd();
  EXPECT_EQ(with.choice().tokens, without.choice().tokens);
}

TEST_F(SpeculationTest, WhatCannotBeCommittedFailsItsRequestsAlone) {
  CountUp();
  Request without = MakeRequest(Repeating(), 30);
  without.drafters = kNoDrafters;
  Reader a = Submit(MakeRequest(Repeating(), 30)), b = Submit(without);
  Steps(2);
  engine_.FailNextCommit(MakeStatus(StatusCode::kInternal, "broken"));
  RunToEnd();
  EXPECT_EQ(a.code(), StatusCode::kInternal);
  EXPECT_EQ(b.choice().tokens, engine_.Continuation(Repeating(), 30));
}

TEST_F(SpeculationTest, ADeviceLostInACommitEndsEverything) {
  CountUp();
  Request without = MakeRequest(Repeating(), 30);
  without.drafters = kNoDrafters;
  Reader a = Submit(MakeRequest(Repeating(), 30)), b = Submit(without);
  Steps(2);
  engine_.FailNextCommit(MakeStatus(StatusCode::kUnavailable, "lost"));
  RunToEnd();
  EXPECT_EQ(a.code(), StatusCode::kUnavailable);
  EXPECT_EQ(b.code(), StatusCode::kUnavailable);
  EXPECT_EQ(scheduler_->Health().code(), StatusCode::kUnavailable);
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

// A model with heads of its own, three of them, that guess right but for the last one's best guess.
class DraftHeadsTest : public SpeculationTest {
 protected:
  static constexpr EngineLimits kWithHeads{
      .vocab_size = kVocabSize, .max_context = 100, .num_slots = 3, .num_draft_heads = 3};

  DraftHeadsTest() : SpeculationTest(kWithHeads) {
    engine_.set_head_guess([this](std::span<const int32_t> known, int32_t head) {
      Tokens prefix(known.begin(), known.end());
      for (int32_t i = 0; i < head; ++i) prefix.push_back(engine_.HashToken(prefix, 0));
      const int32_t next = engine_.HashToken(prefix, 0);
      std::vector<std::pair<int32_t, float>> guesses = {{next, std::log(0.8f)},
                                                        {1, std::log(0.1f)}};
      if (head == 2) std::swap(guesses[0].first, guesses[1].first);
      return guesses;
    });
    engine_.set_on_draft([this](std::span<const int32_t> rows) {
      asked_.push_back(static_cast<int32_t>(rows.size()));
    });
  }

  std::vector<int32_t> asked_;  // Rows, call by call.
};

TEST_F(DraftHeadsTest, RightGuessesTakeFewerSteps) {
  Reader reader = Submit(MakeRequest(Prompt(50, 5), 41));
  RunToEnd();
  EXPECT_EQ(reader.choice().tokens, engine_.Continuation(Prompt(50, 5), 41));
  // The prompt draws one token, and then each step four: the last heads' second guess is right.
  EXPECT_EQ(NumSteps(), 11);
  EXPECT_EQ(asked_, std::vector<int32_t>(10, 1));
  EXPECT_EQ(reader.stream().usage().accepted_draft_tokens, 30);
}

TEST_F(DraftHeadsTest, GuessForEverySequenceAtOnceAndNotForThoseThatDoWithout) {
  Request without = MakeRequest(Prompt(150, 5), 30);
  without.drafters.heads = false;
  Reader a = Submit(MakeRequest(Prompt(50, 5), 30));
  Reader b = Submit(MakeRequest(Prompt(100, 5), 30));
  Reader c = Submit(without);
  RunToEnd();
  EXPECT_EQ(a.choice().tokens, engine_.Continuation(Prompt(50, 5), 30));
  EXPECT_EQ(b.choice().tokens, engine_.Continuation(Prompt(100, 5), 30));
  EXPECT_EQ(c.choice().tokens, engine_.Continuation(Prompt(150, 5), 30));
  EXPECT_EQ(c.stream().usage().accepted_draft_tokens, 0);
  EXPECT_EQ(asked_, std::vector<int32_t>(asked_.size(), 2));
  EXPECT_LE(NumSteps(), 31);
}

// Whatever is drawn, typical guesses are taken, the longest path of them: here all that end in
// the digits 1 to 4, of which 1 and 2 lead further than 3.
TEST_F(DraftHeadsTest, TypicalAcceptanceTakesTheLongestPath) {
  engine_.set_head_guess([](std::span<const int32_t>, int32_t head) {
    std::vector<std::pair<int32_t, float>> guesses = {{203, std::log(0.5f)}, {201, std::log(0.4f)}};
    if (head > 0) guesses = {{202, std::log(0.6f)}, {209, std::log(0.3f)}};
    return guesses;
  });
  engine_.set_typical([](const RowRequest& request, std::span<const int32_t> prefix) {
    std::vector<bool> typical;
    for (const int32_t guess : request.guesses) {
      typical.push_back(guess == 203 || guess == 201 || (prefix.back() == 201 && guess == 202));
    }
    return typical;
  });
  Request request = MakeRequest(Prompt(50, 5), 4);
  request.typical_acceptance = true;
  request.logprobs = true;
  Reader reader = Submit(request);
  RunToEnd();
  const Tokens& tokens = reader.choice().tokens;
  const int32_t first = engine_.HashToken(Prompt(50, 5), 0);
  Tokens prefix = Prompt(50, 5);
  prefix.insert(prefix.end(), {first, 201, 202});
  EXPECT_EQ(tokens, Tokens({first, 201, 202, engine_.HashToken(prefix, 0)}));
  prefix.pop_back();
  EXPECT_EQ(reader.choice().logprobs[2].logprob, FakeEngine::Logprob(prefix, 202));
  EXPECT_EQ(NumSteps(), 2);
}

TEST_F(DraftHeadsTest, AreNotAskedForWhatIsOfNoUse) {
  Submit(MakeRequest(Prompt(50, 5), 2));  // The second token ends it: nothing follows it.
  RunToEnd();
  EXPECT_TRUE(asked_.empty());
}

TEST_F(DraftHeadsTest, AreSeldomAskedWhereTheyCostMoreThanTheyBring) {
  Create({.max_batch_tokens = 64,
          .max_draft_nodes = 16,
          .step_costs = StepCosts({{1, 1}, {64, 64}}, {{1, 0.5}, {64, 0.5}})});
  Reader reader = Submit(MakeRequest(Prompt(50, 5), 90));
  RunToEnd();
  EXPECT_EQ(reader.choice().tokens, engine_.Continuation(Prompt(50, 5), 90));
  EXPECT_LE(asked_.size(), 7u);
}

// Bug: what a tree costs where many sequences have one was taken from a single sequence's, so that
// guessing ahead made a GPU's batches slower.
TEST_F(SpeculationTest, StopsWhereRealStepsTakeLongerThanMeasured) {
  Create({.max_batch_tokens = 64,
          .max_draft_nodes = 16,
          .step_costs = StepCosts({{1, 0.001}, {64, 0.0012}})});
  CountUp();
  engine_.set_on_step([this](const Batch& batch) {
    int drafts = 0;
    for (const Acceptance acceptance : batch.acceptance) drafts += acceptance == Acceptance::kLater;
    clock_.Advance(std::chrono::milliseconds(1 + 40 * drafts));
  });
  std::vector<Reader> readers;
  for (int i = 0; i < 3; ++i) readers.push_back(Submit(MakeRequest(Repeating(), 80)));
  RunToEnd();
  for (Reader& reader : readers) {
    EXPECT_EQ(reader.choice().tokens, engine_.Continuation(Repeating(), 80));
  }
  int drafts = 0;
  for (const auto& step : engine_.steps()) {
    drafts += std::any_of(step.begin(), step.end(),
                          [](const Chain& c) { return c.position >= 13 && c.num_tokens > 1; });
  }
  EXPECT_LE(drafts, 5);
  EXPECT_GE(drafts, 1);
}

TEST_F(DraftHeadsTest, AFaultOfTheirsCostsNoAnswer) {
  int asked = 0;
  engine_.set_on_draft([&](std::span<const int32_t>) {
    ++asked;
    engine_.FailNextDraft(MakeStatus(StatusCode::kInternal, "broken"));
  });
  Reader reader = Submit(MakeRequest(Prompt(50, 5), 30));
  RunToEnd();
  EXPECT_EQ(reader.choice().tokens, engine_.Continuation(Prompt(50, 5), 30));
  EXPECT_EQ(NumSteps(), 30);
  EXPECT_LE(asked, 6);  // Not in each of 30 steps.
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
    if (rng() % 4 == 0) request.drafters = kNoDrafters;
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

// ---- The distribution of outputs ----

constexpr int32_t kWords = 5;
constexpr int32_t kLength = 4;

// Logits that depend on every token before.
std::vector<float> ToyLogits(std::span<const int32_t> prefix) {
  uint64_t hash = 7;
  for (const int32_t token : prefix) hash = (hash + token) * 0x9E3779B97F4A7C15 ^ hash >> 31;
  std::vector<float> logits(kWords);
  for (float& logit : logits) {
    hash = hash * 6364136223846793005 + 1442695040888963407;
    logit = static_cast<float>(hash >> 40) / (1 << 23);  // 0 to 2.
  }
  return logits;
}

// Softmax of the tempered logits, of the smallest set of best tokens that has top_p.
std::vector<double> ToyDistribution(std::span<const int32_t> prefix, double temperature,
                                    double top_p) {
  const std::vector<float> logits = ToyLogits(prefix);
  std::vector<double> weights;
  for (const float logit : logits) weights.push_back(std::exp(logit / temperature));
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<int32_t> order(kWords);
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int a, int b) { return weights[a] > weights[b]; });
  double mass = 0;
  for (const int32_t token : order) {
    if (mass >= top_p * total) weights[token] = 0;
    mass += weights[token];
  }
  const double kept = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (double& weight : weights) weight /= kept;
  return weights;
}

class DistributionTest : public SchedulerTest {
 protected:
  // A phrase book: any two words stand somewhere before, so that there are guesses at every step.
  const Tokens prompt_ = [] {
    std::mt19937 rng(17);
    Tokens prompt(60);
    for (int32_t& token : prompt) token = static_cast<int32_t>(rng() % kWords);
    return prompt;
  }();

  // Chi-squared of `samples` outputs against their exact probabilities, less its mean, in standard
  // deviations.
  double Deviation(const SamplingParams& sampling, int samples) {
    FakeEngine engine({.vocab_size = kWords, .max_context = 100, .num_slots = 16});
    engine.set_draw([&](const Batch&, const RowRequest& request, std::span<const int32_t> prefix) {
      return sampler_.Sample(ToyLogits(prefix), request).value().token;
    });
    engine.set_typical([&](const RowRequest& request, std::span<const int32_t> prefix) {
      return sampler_.Sample(ToyLogits(prefix), request).value().typical;
    });
    FakeTokenizer tokenizer(kWords);
    const Scheduler::Options options{
        .max_batch_tokens = 200, .max_queued_requests = 1 << 20, .max_draft_nodes = 12};
    const auto scheduler = Scheduler::Create(options, engine, tokenizer, clock_, observer_).value();
    std::map<Tokens, int> counts;
    std::vector<Reader> readers;
    for (int i = 0; i < samples; ++i) {
      Request request = MakeRequest(prompt_, kLength);
      request.sampling = sampling;
      request.sampling.seed = 1000 + i;
      request.stop.ignore_eos = true;
      request.typical_acceptance = typical_;
      if (i % 5 == 0) request.drafters = kNoDrafters;  // Mixed batches.
      readers.emplace_back(scheduler->Submit(std::move(request)).value());
      if (i % 400 != 399 && i + 1 != samples) continue;
      while (!scheduler->Idle()) scheduler->Step();
      for (Reader& reader : readers) ++counts[reader.choice().tokens];
      readers.clear();
    }

    double chi = 0, rare_expected = 0, rare_count = 0;
    int cells = 0;
    ForEachOutput({}, 1.0, sampling, [&](const Tokens& output, double probability) {
      const double expected = probability * samples;
      const double count = counts[output];
      if (expected < 5) {
        rare_expected += expected;
        rare_count += count;
        return;
      }
      chi += (count - expected) * (count - expected) / expected;
      ++cells;
    });
    if (rare_expected >= 5) {
      chi += (rare_count - rare_expected) * (rare_count - rare_expected) / rare_expected;
      ++cells;
    }
    return (chi - (cells - 1)) / std::sqrt(2.0 * (cells - 1));
  }

  template <class Function>
  void ForEachOutput(const Tokens& output, double probability, const SamplingParams& sampling,
                     const Function& function) {
    if (output.size() == kLength) return function(output, probability);
    Tokens prefix = prompt_;
    prefix.insert(prefix.end(), output.begin(), output.end());
    const auto next = ToyDistribution(prefix, sampling.temperature, sampling.top_p);
    for (int32_t token = 0; token < kWords; ++token) {
      Tokens longer = output;
      longer.push_back(token);
      ForEachOutput(longer, probability * next[token], sampling, function);
    }
  }

  Sampler sampler_;
  bool typical_ = false;
};

TEST_F(DistributionTest, IsTheModels) {
  for (const float temperature : {0.5f, 1.0f, 1.5f}) {
    EXPECT_LT(Deviation({.temperature = temperature}, 34'000), 5) << temperature;
  }
  EXPECT_LT(Deviation({.temperature = 1, .top_p = 0.8f}, 100'000), 5);
  EXPECT_GT(observer_.num_accepted, 20'000);
}

TEST_F(DistributionTest, ShowsThatTypicalAcceptanceIsNotLossless) {
  typical_ = true;
  EXPECT_GT(Deviation({.temperature = 1}, 10'000), 50);
}

}  // namespace
}  // namespace treeline
