// Who goes first, how long the others may be kept waiting, and what earlier sequences
// spare later ones. Time is a FakeClock that moves as the engine works.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "scheduler/scheduler_fixture.h"

namespace treeline {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Not;
using Chain = FakeEngine::Chain;
using Tokens = std::vector<int32_t>;

Tokens Join(Tokens a, const Tokens& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// ---- Prefixes ----

class PrefixTest : public SchedulerTest {
 protected:
  PrefixTest() { Create({.max_batch_tokens = 100, .prefix_interval = 64}); }

  // Tokens computed, by the engine's own record.
  int32_t Computed() const {
    int32_t count = 0;
    for (const auto& step : engine_.steps()) {
      for (const Chain& chain : step) count += chain.num_tokens;
    }
    return count;
  }
  void RunAlone(const Tokens& prompt, int32_t max_tokens = 1) {
    Reader reader = Submit(MakeRequest(prompt, max_tokens));
    RunToEnd();
    EXPECT_EQ(reader.choice().tokens, engine_.Continuation(prompt, max_tokens));
  }

  const Tokens system_ = Prompt(100, 50);
};

TEST_F(PrefixTest, ATurnGoesOnWhereTheLastOneEnded) {
  const Tokens first = Prompt(100, 40);
  Reader turn = Submit(MakeRequest(first, 5));
  RunToEnd();
  const Tokens second = Join(Join(first, turn.choice().tokens), Prompt(300, 10));
  Reader reader = Submit(MakeRequest(second, 3));
  RunToEnd();
  EXPECT_EQ(reader.choice().tokens, engine_.Continuation(second, 3));
  // Of the 45 tokens before, the last one generated was never run.
  EXPECT_EQ(reader.stream().usage().cached_tokens, 44);
  EXPECT_EQ(engine_.steps()[5], std::vector<Chain>({{100, 44, 11}}));
}

TEST_F(PrefixTest, WherePromptsPartAStateIsKeptForTheThird) {
  RunAlone(Join(system_, Prompt(200, 10)));
  RunAlone(Join(system_, Prompt(300, 10)));
  EXPECT_EQ(Computed(), 120);
  EXPECT_THAT(engine_.kept(), Contains(system_));
  RunAlone(Join(system_, Prompt(400, 10)));
  EXPECT_EQ(Computed(), 130);
}

// The end of a prompt is seldom what the next one goes on from.
TEST_F(PrefixTest, APromptIsKeptALittleBeforeItsEnd) {
  FakeEngine engine({.vocab_size = 5000, .max_context = 3000, .num_slots = 1});
  FakeTokenizer tokenizer(5000);
  const auto scheduler = Scheduler::Create({.max_batch_tokens = 4000, .prefix_interval = 3000},
                                           engine, tokenizer, clock_, observer_)
                             .value();
  const auto stream = scheduler->Submit(MakeRequest(Prompt(100, 1300), 2)).value();
  while (!scheduler->Idle()) scheduler->Step();
  EXPECT_THAT(engine.kept().front(), Prompt(100, 1024));
  EXPECT_EQ(engine.kept().size(), 2u);  // And after the answer.
}

TEST_F(PrefixTest, TheSamePromptAgainComputesItsLastTokenOnly) {
  RunAlone(system_);
  RunAlone(system_);  // Keeps all but the last: a whole prompt's state draws nothing.
  const int32_t before = Computed();
  RunAlone(system_);
  EXPECT_EQ(Computed(), before + 1);
}

TEST_F(PrefixTest, LongPromptsAreKeptAtIntervals) {
  RunAlone(Prompt(100, 80));
  EXPECT_THAT(engine_.kept(), ElementsAre(Prompt(100, 64), Prompt(100, 80)));  // And at its end.
  // They part at 70, before which only the interval's state lies.
  RunAlone(Join(Prompt(100, 70), Prompt(300, 5)));
  EXPECT_EQ(Computed(), 80 + 11);
}

TEST_F(PrefixTest, AStateThatAppearsWhileAPromptRunsIsTakenOver) {
  Create({.max_batch_tokens = 10, .prefix_interval = 64});
  RunAlone(Join(system_, Prompt(200, 10)));
  const int32_t before = Computed();
  // Both begin; the second finds the first one's state at 50 and skips the rest of them.
  Reader a = Submit(MakeRequest(Join(system_, Prompt(300, 9)), 2));
  Reader b = Submit(MakeRequest(Join(system_, Prompt(400, 9)), 2));
  RunToEnd();
  EXPECT_EQ(b.choice().tokens, engine_.Continuation(Join(system_, Prompt(400, 9)), 2));
  EXPECT_GE(b.stream().usage().cached_tokens, 40);
  EXPECT_LE(Computed() - before, 59 + 20 + 2);
}

TEST_F(PrefixTest, ChoicesShareTheirPrompt) {
  Request request = MakeRequest(system_, 2);
  request.num_choices = 3;
  Reader reader = Submit(request);
  RunToEnd();
  EXPECT_EQ(observer_.queried_tokens, 150);
  EXPECT_EQ(observer_.cached_tokens, 49 + 49);
  for (int32_t choice = 0; choice < 3; ++choice) {
    EXPECT_EQ(reader.choice(choice).tokens, engine_.Continuation(system_, 2, choice));
  }
  EXPECT_EQ(Computed(), 50 + 1 + 1 + 3);
}

TEST_F(PrefixTest, PromptLogprobsNeedEveryToken) {
  RunAlone(system_);
  Request request = MakeRequest(system_, 1);
  request.prompt_logprobs = true;
  Reader reader = Submit(request);
  RunToEnd();
  EXPECT_EQ(reader.choice().prompt_logprobs.size(), system_.size() - 1);
  EXPECT_EQ(reader.stream().usage().cached_tokens, 0);
}

TEST_F(PrefixTest, WithoutAnIntervalNothingIsKept) {
  Create(100);
  RunAlone(system_);
  RunAlone(system_);
  EXPECT_THAT(engine_.kept(), IsEmpty());
  EXPECT_EQ(Computed(), 100);
}

TEST_F(PrefixTest, AFailedStepKeepsNothing) {
  engine_.FailNextStep(MakeStatus(StatusCode::kInternal, "broken"));
  Reader reader = Submit(MakeRequest(system_, 1));
  RunToEnd();
  EXPECT_EQ(reader.code(), StatusCode::kInternal);
  EXPECT_THAT(engine_.kept(), IsEmpty());
}

// Whatever is kept or dropped in between, outputs are those of a cache that is off.
TEST_F(PrefixTest, OutputsDoNotDependOnWhatIsKept) {
  std::mt19937 rng(11);
  std::vector<std::pair<Tokens, Reader>> readers;
  for (int i = 0; i < 300; ++i) {
    Tokens prompt = Prompt(100, 30 + static_cast<int32_t>(rng() % 40));
    for (size_t n = rng() % 20; n > 0; --n) prompt.push_back(200 + static_cast<int32_t>(rng() % 2));
    readers.emplace_back(prompt, Submit(MakeRequest(prompt, 1 + static_cast<int32_t>(rng() % 4))));
    for (size_t n = rng() % 12; n > 0; --n) scheduler_->Step();
    while (engine_.kept().size() > 5) engine_.kept().erase(engine_.kept().begin());
    if (i % 6 == 5) RunToEnd();
  }
  RunToEnd();
  for (auto& [prompt, reader] : readers) {
    const Tokens& tokens = reader.choice().tokens;
    EXPECT_EQ(tokens, engine_.Continuation(prompt, static_cast<int32_t>(tokens.size())));
    EXPECT_EQ(reader.code(), StatusCode::kOk);
  }
  EXPECT_LT(Computed(), 300 * 50);
}

// ---- Steps that leave those who decode their pace ----

class PacingTest : public SchedulerTest {
 protected:
  PacingTest() {
    // 2 ms a step and 1 ms a token.
    engine_.set_on_step([this](const Batch& batch) {
      clock_.Advance(milliseconds(2) + milliseconds(1) * batch.num_tokens());
    });
  }
  Duration LongestWait() const {
    return *std::max_element(observer_.next_tokens.begin(), observer_.next_tokens.end());
  }
};

TEST_F(PacingTest, RunningStreamsKeepTheirPaceBesideLongPrompts) {
  Create({.max_batch_tokens = 90, .step_time = milliseconds(25)});
  Submit(MakeRequest({20}, 60));
  Steps(5);
  Submit(MakeRequest(Prompt(100, 90), 5));
  Submit(MakeRequest(Prompt(200, 90), 5));
  RunToEnd();
  EXPECT_LE(LongestWait(), milliseconds(25));
  // Prompts use the time there is: 180 tokens in steps of 15 to 22.
  EXPECT_LE(observer_.first_tokens.back(), milliseconds(300));
}

TEST_F(PacingTest, WithoutABudgetTheyWaitForTheWholePrompt) {
  Create({.max_batch_tokens = 91});
  Submit(MakeRequest({20}, 20));
  Steps(5);
  Submit(MakeRequest(Prompt(100, 90), 5));
  RunToEnd();
  EXPECT_EQ(LongestWait(), milliseconds(2 + 91));
}

TEST_F(PacingTest, APromptAloneIsNotHeldBack) {
  Create({.max_batch_tokens = 90, .step_time = milliseconds(10)});
  Submit(MakeRequest(Prompt(100, 90), 1));
  Steps(1);
  EXPECT_EQ(engine_.steps()[0], std::vector<Chain>({{100, 0, 90}}));
}

// A burst of ten times what runs at once: those who were admitted keep their pace.
TEST_F(PacingTest, ABurstDoesNotSlowThoseWhoRun) {
  const auto longest_wait = [&](int burst) {
    Create({.max_batch_tokens = 64, .max_queued_requests = 1000, .step_time = milliseconds(30)});
    observer_.next_tokens.clear();
    for (int i = 0; i < 40 + burst; ++i) {
      Submit(MakeRequest(Prompt(20 + i, 40), 20));
      if (i >= burst) {
        for (int n = 0; n < 12; ++n) scheduler_->Step();
      }
    }
    RunToEnd();
    std::vector<Duration>& waits = observer_.next_tokens;
    std::sort(waits.begin(), waits.end());
    return waits[waits.size() * 99 / 100];
  };
  const Duration steady = longest_wait(0);
  EXPECT_LE(longest_wait(30), steady * 3 / 2);
}

// ---- Priorities and the queue's limits ----

class QueueTest : public SchedulerTest {
 protected:
  void Fill() {
    for (const int32_t first : {20, 30, 40}) Submit(MakeRequest({first}, 5));
    Steps(1);
  }
  Reader SubmitWith(int32_t first, int32_t priority) {
    Request request = MakeRequest({first}, 1);
    request.priority = priority;
    return Submit(request);
  }
  // The order in which sequences got their first step.
  Tokens Order() const {
    Tokens order;
    for (const auto& step : engine_.steps()) {
      for (const Chain& chain : step) {
        if (chain.position == 0) order.push_back(chain.first_token);
      }
    }
    return order;
  }
};

TEST_F(QueueTest, TheMostUrgentGoesFirstAndEqualsInTheOrderTheyCame) {
  Create({.max_batch_tokens = 8});
  Fill();
  SubmitWith(50, 1);
  SubmitWith(60, -1);
  SubmitWith(70, 0);
  SubmitWith(80, -1);
  RunToEnd();
  EXPECT_THAT(Order(), ElementsAre(20, 30, 40, 60, 80, 70, 50));
}

TEST_F(QueueTest, WhoHasWaitedLongGoesBeforeTheMoreUrgent) {
  Create({.max_batch_tokens = 8, .priority_ageing = seconds(10)});
  Fill();
  SubmitWith(50, 2);
  clock_.Advance(seconds(25));
  for (const int32_t first : {60, 70, 80}) SubmitWith(first, 0);
  RunToEnd();
  EXPECT_EQ(Order()[3], 50);
}

TEST_F(QueueTest, WithoutAgeingPriorityDecides) {
  Create({.max_batch_tokens = 8, .priority_ageing = seconds(0)});
  Fill();
  SubmitWith(50, 2);
  clock_.Advance(seconds(1000));
  for (const int32_t first : {60, 70, 80}) SubmitWith(first, 0);
  RunToEnd();
  EXPECT_EQ(Order().back(), 50);
}

TEST_F(QueueTest, TheQueueIsBoundedByPromptTokensToo) {
  Create({.max_batch_tokens = 8, .max_queued_tokens = 100});
  Submit(MakeRequest(Prompt(100, 60), 1));
  EXPECT_EQ(scheduler_->Submit(MakeRequest(Prompt(200, 60), 1)).status().code(),
            StatusCode::kResourceExhausted);
  EXPECT_THAT(observer_.rejected, ElementsAre("queue_full"));
  Submit(MakeRequest(Prompt(200, 40), 1));
  RunToEnd();
  // Alone, a request may wait whatever its size.
  Create({.max_batch_tokens = 8, .max_queued_tokens = 10});
  Submit(MakeRequest(Prompt(300, 60), 1));
  RunToEnd();
}

TEST_F(QueueTest, WhatLeavesTheQueueMakesRoom) {
  Create({.max_batch_tokens = 8, .max_queued_tokens = 100});
  Fill();
  Reader cancelled = Submit(MakeRequest(Prompt(100, 90), 1));
  cancelled.stream().Cancel();
  Steps(1);
  Submit(MakeRequest(Prompt(200, 90), 1));
  RunToEnd();
  Submit(MakeRequest(Prompt(300, 90), 1));
  RunToEnd();
}

TEST_F(QueueTest, TheWaitIsEstimatedFromThePaceOfEnds) {
  engine_.set_on_step([this](const Batch&) { clock_.Advance(seconds(1)); });
  Create({.max_batch_tokens = 8, .max_queued_requests = 1000});
  EXPECT_EQ(scheduler_->EstimatedWait(), Duration(0));
  // 3 slots, 6 steps a request: one ends every 2 s.
  for (int i = 0; i < 200; ++i) Submit(MakeRequest({20 + i}, 6));
  for (int i = 0; i < 200; ++i) scheduler_->Step();
  const int waiting = observer_.gauges.waiting;
  EXPECT_GT(waiting, 50);
  EXPECT_NEAR(ToSeconds(scheduler_->EstimatedWait()), 2.0 * (waiting + 1), 0.4 * waiting);
  RunToEnd();
}

}  // namespace
}  // namespace treeline
