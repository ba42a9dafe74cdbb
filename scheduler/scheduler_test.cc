#include "scheduler/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <thread>

#include "scheduler/scheduler_fixture.h"

namespace treeline {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Chain = FakeEngine::Chain;
using Tokens = std::vector<int32_t>;

// ---- One request ----

TEST_F(SchedulerTest, RunsARequestToItsMaxTokens) {
  Reader reader = Submit(MakeRequest({20, 21, 22}, 5));
  EXPECT_FALSE(scheduler_->Idle());
  Steps(5);
  EXPECT_TRUE(reader.ended());
  EXPECT_EQ(reader.code(), StatusCode::kOk);
  EXPECT_EQ(reader.choice().tokens, engine_.Continuation({20, 21, 22}, 5));
  EXPECT_EQ(reader.choice().finish, FinishReason::kLength);
  EXPECT_EQ(reader.stream().usage().prompt_tokens, 3);
  EXPECT_EQ(reader.stream().usage().completion_tokens, 5);
  EXPECT_TRUE(scheduler_->Idle());
  EXPECT_FALSE(scheduler_->Step());
  EXPECT_EQ(scheduler_->steps(), 5);
  EXPECT_EQ(engine_.free_slots(), 3);
}

TEST_F(SchedulerTest, TokensArriveStepByStep) {
  const Tokens expected = engine_.Continuation({20}, 3);
  Reader reader = Submit(MakeRequest({20}, 3));
  for (int32_t count = 1; count <= 3; ++count) {
    EXPECT_FALSE(reader.ended());
    Steps(1);
    EXPECT_EQ(reader.choice().tokens.size(), count);
  }
  std::string text;
  for (const int32_t token : expected) text += std::to_string(token) + " ";
  EXPECT_EQ(reader.choice().text, text);
}

TEST_F(SchedulerTest, PromptsAreChunkedToTheBudget) {
  Reader reader = Submit(MakeRequest(Prompt(20, 20), 2));
  RunToEnd();
  EXPECT_THAT(engine_.steps(),
              ElementsAre(ElementsAre(Chain{20, 0, 8}), ElementsAre(Chain{20, 8, 8}),
                          ElementsAre(Chain{20, 16, 4}), ElementsAre(Chain{20, 20, 1})));
  EXPECT_EQ(reader.choice().tokens, engine_.Continuation(Prompt(20, 20), 2));
}

TEST_F(SchedulerTest, EndsAtTheContextLimit) {
  Reader reader = Submit(MakeRequest(Prompt(20, 95), 50));
  RunToEnd();
  EXPECT_EQ(reader.choice().tokens, engine_.Continuation(Prompt(20, 95), 5));
  EXPECT_EQ(reader.choice().finish, FinishReason::kLength);
}

// ---- Continuous batching ----

TEST_F(SchedulerTest, DecodesComeFirstAndPromptsFillTheBudget) {
  Reader a = Submit(MakeRequest({20}, 10));
  Steps(1);
  Reader b = Submit(MakeRequest(Prompt(100, 10), 10));
  Reader c = Submit(MakeRequest(Prompt(200, 6), 10));
  Steps(3);
  const std::vector<std::vector<Chain>> expected = {
      {{20, 0, 1}},
      {{20, 1, 1}, {100, 0, 7}},                // 7 of 8 tokens left for the first prompt.
      {{20, 2, 1}, {100, 7, 3}, {200, 0, 4}},   // It ends; the second begins.
      {{20, 3, 1}, {100, 10, 1}, {200, 4, 2}},  // Now b decodes.
  };
  EXPECT_EQ(engine_.steps(), expected);
  RunToEnd();
  EXPECT_EQ(a.choice().tokens, engine_.Continuation({20}, 10));
  EXPECT_EQ(b.choice().tokens, engine_.Continuation(Prompt(100, 10), 10));
  EXPECT_EQ(c.choice().tokens, engine_.Continuation(Prompt(200, 6), 10));
}

TEST_F(SchedulerTest, AFreedSlotGoesToTheNextInLine) {
  Submit(MakeRequest({20}, 2));
  Submit(MakeRequest({30}, 5));
  Submit(MakeRequest({40}, 5));
  Submit(MakeRequest({50}, 1));
  Submit(MakeRequest({60}, 1));
  Steps(4);
  const std::vector<std::vector<Chain>> expected = {
      {{20, 0, 1}, {30, 0, 1}, {40, 0, 1}},
      {{20, 1, 1}, {30, 1, 1}, {40, 1, 1}},
      {{30, 2, 1}, {40, 2, 1}, {50, 0, 1}},
      {{30, 3, 1}, {40, 3, 1}, {60, 0, 1}},
  };
  EXPECT_EQ(engine_.steps(), expected);
  RunToEnd();
}

TEST_F(SchedulerTest, APromptWaitsWhileDecodesTakeTheWholeBudget) {
  Create(/*max_batch_tokens=*/2);
  Submit(MakeRequest({20}, 3));
  Submit(MakeRequest({30}, 3));
  Submit(MakeRequest({40}, 1));
  Steps(4);
  const std::vector<std::vector<Chain>> expected = {
      {{20, 0, 1}, {30, 0, 1}},
      {{20, 1, 1}, {30, 1, 1}},
      {{20, 2, 1}, {30, 2, 1}},
      {{40, 0, 1}},
  };
  EXPECT_EQ(engine_.steps(), expected);
}

TEST_F(SchedulerTest, WhatARequestGetsDoesNotDependOnItsCompany) {
  Create(kBudget, /*max_queued_requests=*/100);
  std::mt19937 bits(7);
  struct Sent {
    Request request;
    Reader reader;
  };
  std::vector<Sent> sent;
  for (int i = 0; i < 60; ++i) {
    const Tokens prompt = Prompt(static_cast<int32_t>(10 + bits() % 300), 1 + bits() % 40);
    const Request request = MakeRequest(prompt, static_cast<int32_t>(1 + bits() % 20));
    sent.push_back({request, Submit(request)});
    if (bits() % 2 == 0) Steps(static_cast<int>(bits() % 6));
  }
  RunToEnd();
  for (Sent& s : sent) {
    EXPECT_EQ(s.reader.code(), StatusCode::kOk);
    EXPECT_EQ(s.reader.choice().tokens,
              engine_.Continuation(s.request.prompt, s.request.stop.max_tokens));
  }
  for (const auto& step : engine_.steps()) {
    int32_t tokens = 0;
    for (const Chain& chain : step) tokens += chain.num_tokens;
    EXPECT_LE(tokens, kBudget);
    EXPECT_LE(step.size(), 3);
  }
}

// ---- Choices ----

TEST_F(SchedulerTest, EveryChoiceIsASequenceOfItsOwn) {
  Request request = MakeRequest({20, 21}, 4);
  request.num_choices = 3;
  Reader reader = Submit(request);
  RunToEnd();
  for (uint32_t choice = 0; choice < 3; ++choice) {
    EXPECT_EQ(reader.choice(choice).tokens, engine_.Continuation({20, 21}, 4, choice)) << choice;
    EXPECT_EQ(reader.choice(choice).finish, FinishReason::kLength);
  }
  EXPECT_NE(reader.choice(0).tokens, reader.choice(1).tokens);
  EXPECT_EQ(reader.stream().usage().prompt_tokens, 2);
  EXPECT_EQ(reader.stream().usage().completion_tokens, 12);
}

TEST_F(SchedulerTest, ChoicesTakeSlotsOneByOne) {
  Request wide = MakeRequest({20}, 3);
  wide.num_choices = 3;
  Submit(MakeRequest({30}, 2));
  Submit(MakeRequest({31}, 2));
  Reader reader = Submit(wide);
  Reader last = Submit(MakeRequest({40}, 1));
  Steps(1);
  EXPECT_EQ(reader.choice(0).tokens.size(), 1) << "the first choice takes the free slot";
  EXPECT_EQ(observer_.gauges.waiting, 1);
  Steps(2);
  EXPECT_EQ(reader.choice(2).tokens.size(), 1) << "the others come before later requests";
  EXPECT_TRUE(last.choice().tokens.empty());
  RunToEnd();
  for (uint32_t choice = 0; choice < 3; ++choice) {
    EXPECT_EQ(reader.choice(choice).tokens, engine_.Continuation({20}, 3, choice));
  }
}

TEST_F(SchedulerTest, WideRequestsDoNotBlockEachOther) {
  Request wide = MakeRequest({20}, 5);
  wide.num_choices = 2;
  std::vector<Reader> readers;
  for (int i = 0; i < 4; ++i) readers.push_back(Submit(wide));
  RunToEnd();
  for (Reader& reader : readers) EXPECT_EQ(reader.code(), StatusCode::kOk);
}

// ---- Ends ----

TEST_F(SchedulerTest, EosEndsWithoutText) {
  Script(1, {100, 101, kEos});
  Request request = MakeRequest({20}, 10);
  request.skip_special_tokens = false;
  Reader reader = Submit(request);
  RunToEnd();
  EXPECT_THAT(reader.choice().tokens, ElementsAre(100, 101, kEos));
  EXPECT_EQ(reader.choice().text, "100 101 ");
  EXPECT_EQ(reader.choice().finish, FinishReason::kStop);
  EXPECT_EQ(reader.stream().usage().completion_tokens, 3);
}

TEST_F(SchedulerTest, StopTokenEndsWithoutText) {
  Script(1, {100, 101, 102});
  Request request = MakeRequest({20}, 10);
  request.stop.stop_token_ids = {300, 101};
  Reader reader = Submit(request);
  RunToEnd();
  EXPECT_THAT(reader.choice().tokens, ElementsAre(100, 101));
  EXPECT_EQ(reader.choice().text, "100 ");
  EXPECT_EQ(reader.choice().finish, FinishReason::kStop);
}

TEST_F(SchedulerTest, IgnoreEosGoesOn) {
  Script(1, {100, kEos, 101});
  Request request = MakeRequest({20}, 3);
  request.stop.ignore_eos = true;
  Reader reader = Submit(request);
  RunToEnd();
  EXPECT_THAT(reader.choice().tokens, ElementsAre(100, kEos, 101));
  EXPECT_EQ(reader.choice().text, "100 101 ");
  EXPECT_EQ(reader.choice().finish, FinishReason::kLength);
}

TEST_F(SchedulerTest, MinTokensBansEosAndStopTokensUntilThen) {
  // The model wants EOS (0), then the stop token 2, then EOS again. The fake engine answers a
  // banned token's wish with the next id that is not banned.
  Script(1, {kEos, 2, kEos, 100});
  Request request = MakeRequest({20}, 10);
  request.stop.min_tokens = 2;
  request.stop.stop_token_ids = {2};
  Reader reader = Submit(request);
  RunToEnd();
  EXPECT_THAT(reader.choice().tokens, ElementsAre(1, 3, kEos));
  EXPECT_EQ(reader.choice().finish, FinishReason::kStop);
}

TEST_F(SchedulerTest, StopStringAcrossTokens) {
  tokenizer_.SetPiece(101, "Hello\n");
  tokenizer_.SetPiece(102, "\nUs");
  tokenizer_.SetPiece(103, "er: hi");
  Script(1, {101, 102, 103, 104});
  Request request = MakeRequest({20}, 10);
  request.stop.stop_strings = {"nothing", "\n\nUser:"};
  Reader reader = Submit(request);
  Steps(2);
  EXPECT_EQ(reader.choice().text, "Hello") << "the rest may become a stop string";
  EXPECT_EQ(reader.choice().tokens.size(), 2);
  RunToEnd();
  EXPECT_EQ(reader.choice().text, "Hello");
  EXPECT_THAT(reader.choice().tokens, ElementsAre(101, 102, 103));
  EXPECT_EQ(reader.choice().finish, FinishReason::kStop);
}

TEST_F(SchedulerTest, HeldBackTextComesOutAtTheEnd) {
  tokenizer_.SetPiece(101, "one ST");
  tokenizer_.SetPiece(102, "O");
  Script(1, {101, 102});
  Request request = MakeRequest({20}, 2);
  request.stop.stop_strings = {"STOP"};
  Reader reader = Submit(request);
  Steps(1);
  EXPECT_EQ(reader.choice().text, "one ");
  Steps(1);
  EXPECT_EQ(reader.choice().text, "one STO");
  EXPECT_EQ(reader.choice().finish, FinishReason::kLength);
}

TEST_F(SchedulerTest, StopStringInTheLastTokenIsAStop) {
  tokenizer_.SetPiece(101, "oneSTOP");
  Script(1, {101});
  Request request = MakeRequest({20}, 1);
  request.stop.stop_strings = {"STOP"};
  Reader reader = Submit(request);
  RunToEnd();
  EXPECT_EQ(reader.choice().text, "one");
  EXPECT_EQ(reader.choice().finish, FinishReason::kStop);
}

TEST_F(SchedulerTest, StopStringsAreNotLookedForBeforeMinTokens) {
  for (const int32_t token : {101, 102, 103}) tokenizer_.SetPiece(token, "STOP");
  Script(1, {101, 102, 103});
  Request request = MakeRequest({20}, 10);
  request.stop.stop_strings = {"STOP"};
  request.stop.min_tokens = 2;
  Reader reader = Submit(request);
  RunToEnd();
  EXPECT_THAT(reader.choice().tokens, ElementsAre(101, 102));
  EXPECT_EQ(reader.choice().text, "STOP");
}

TEST_F(SchedulerTest, CharactersSplitAcrossTokensComeWhole) {
  tokenizer_.SetPiece(101, "caf\xC3");
  tokenizer_.SetPiece(102, "\xA9 \xE2\x82");
  Script(1, {101, 102});
  Reader reader = Submit(MakeRequest({20}, 2));
  Steps(1);
  EXPECT_EQ(reader.choice().text, "caf");
  Steps(1);
  EXPECT_EQ(reader.choice().text, "caf\u00E9 \uFFFD") << "an unfinished character at the end";
}

// ---- Log-probabilities ----

void ExpectLogprobs(const std::vector<TokenLogprob>& logprobs, const Tokens& known, size_t first,
                    size_t num_top) {
  for (size_t i = 0; i < logprobs.size(); ++i) {
    const std::span<const int32_t> prefix = std::span(known).first(first + i);
    EXPECT_EQ(logprobs[i].token, known[first + i]);
    EXPECT_EQ(logprobs[i].logprob, FakeEngine::Logprob(prefix, known[first + i]));
    EXPECT_EQ(logprobs[i].top, FakeEngine::TopLogprobs(prefix, num_top));
  }
}

TEST_F(SchedulerTest, LogprobsBelongToTheirTokens) {
  const Tokens prompt = Prompt(20, 19);
  Request request = MakeRequest(prompt, 4);
  request.logprobs = true;
  request.prompt_logprobs = true;
  request.top_logprobs = 2;
  request.num_choices = 2;
  Reader reader = Submit(request);
  RunToEnd();
  for (uint32_t index = 0; index < 2; ++index) {
    Choice& choice = reader.choice(index);
    Tokens known = prompt;
    known.insert(known.end(), choice.tokens.begin(), choice.tokens.end());
    ASSERT_EQ(choice.logprobs.size(), 4);
    ExpectLogprobs(choice.logprobs, known, prompt.size(), 2);
    ASSERT_EQ(choice.prompt_logprobs.size(), 18) << "from the second token on";
    ExpectLogprobs(choice.prompt_logprobs, known, 1, 2);
  }
}

TEST_F(SchedulerTest, LogprobsOnlyWhereAskedFor) {
  Request request = MakeRequest({20, 21}, 2);
  request.top_logprobs = 2;
  Reader reader = Submit(request);
  RunToEnd();
  EXPECT_THAT(reader.choice().logprobs, IsEmpty());
  EXPECT_THAT(reader.choice().prompt_logprobs, IsEmpty());
}

TEST_F(SchedulerTest, NoOutputWantedScoresThePrompt) {
  const Tokens prompt = Prompt(20, 100);  // As long as the context.
  Request request = MakeRequest(prompt, 0);
  request.prompt_logprobs = true;
  Reader reader = Submit(request);
  RunToEnd();
  EXPECT_EQ(reader.code(), StatusCode::kOk);
  EXPECT_THAT(reader.choice().tokens, IsEmpty());
  EXPECT_EQ(reader.choice().finish, FinishReason::kLength);
  ASSERT_EQ(reader.choice().prompt_logprobs.size(), 99);
  ExpectLogprobs(reader.choice().prompt_logprobs, prompt, 1, 0);
  ASSERT_EQ(observer_.finished.size(), 1);
  EXPECT_FALSE(observer_.finished[0].prefill) << "there was no first token";
}

// ---- Cancellation, deadlines, refusals ----

TEST_F(SchedulerTest, CancelledInTheQueue) {
  for (int32_t i = 0; i < 3; ++i) Submit(MakeRequest({20 + i}, 50));
  Reader reader = Submit(MakeRequest({40}, 5));
  Steps(1);
  EXPECT_EQ(observer_.gauges.waiting, 1);
  reader.stream().Cancel();
  Steps(1);
  EXPECT_EQ(reader.code(), StatusCode::kCancelled);
  EXPECT_EQ(observer_.gauges.waiting, 0);
  ASSERT_EQ(observer_.finished.size(), 1);
  EXPECT_EQ(observer_.finished[0].outcome, Outcome::kAbort);
}

TEST_F(SchedulerTest, CancelledBeforeTheFirstStepNeverRuns) {
  Reader reader = Submit(MakeRequest({40}, 5));
  reader.stream().Cancel();
  Steps(1);
  EXPECT_EQ(reader.code(), StatusCode::kCancelled);
  EXPECT_THAT(engine_.steps(), IsEmpty());
  EXPECT_TRUE(scheduler_->Idle());
}

TEST_F(SchedulerTest, CancelledInPrefillAndInDecode) {
  Request wide = MakeRequest(Prompt(100, 50), 5);
  wide.num_choices = 2;
  Reader decoding = Submit(MakeRequest({20}, 50));
  Reader prefilling = Submit(wide);
  Steps(2);
  EXPECT_EQ(engine_.free_slots(), 0);
  prefilling.stream().Cancel();
  Steps(1);
  EXPECT_EQ(prefilling.code(), StatusCode::kCancelled);
  EXPECT_EQ(engine_.free_slots(), 2);
  EXPECT_EQ(engine_.steps().back(), (std::vector<Chain>{{20, 2, 1}}));

  EXPECT_EQ(decoding.choice().tokens.size(), 3);
  decoding.stream().Cancel();
  Steps(1);
  EXPECT_EQ(decoding.code(), StatusCode::kCancelled);
  EXPECT_EQ(decoding.choice().tokens.size(), 3);
  EXPECT_EQ(decoding.stream().usage().completion_tokens, 3);
  EXPECT_EQ(engine_.free_slots(), 3);
  EXPECT_EQ(observer_.gauges.running, 0);
  EXPECT_EQ(observer_.gauges.slots_used, 0);
}

TEST_F(SchedulerTest, TheCancelledSlotIsReusedInTheSameStep) {
  std::vector<Reader> readers;
  for (int32_t i = 0; i < 3; ++i) readers.push_back(Submit(MakeRequest({20 + i}, 50)));
  Reader next = Submit(MakeRequest({40}, 1));
  Steps(1);
  readers[1].stream().Cancel();
  Steps(1);
  EXPECT_TRUE(next.ended());
}

TEST_F(SchedulerTest, DeadlinesEndWaitingAndRunningRequests) {
  Request slow = MakeRequest({20}, 50);
  slow.num_choices = 3;
  slow.deadline = clock_.Now() + seconds(10);
  Request waiting = MakeRequest({30}, 50);
  waiting.deadline = clock_.Now() + seconds(5);
  Reader running_reader = Submit(slow);
  Reader waiting_reader = Submit(waiting);
  Steps(1);
  clock_.Advance(seconds(5) - milliseconds(1));
  Steps(1);
  EXPECT_FALSE(waiting_reader.ended());
  clock_.Advance(milliseconds(1));
  Steps(1);
  EXPECT_EQ(waiting_reader.code(), StatusCode::kDeadlineExceeded);
  EXPECT_FALSE(running_reader.ended());
  clock_.Advance(seconds(5));
  Steps(1);
  EXPECT_EQ(running_reader.code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(observer_.finished[1].outcome, Outcome::kError);
  EXPECT_EQ(engine_.free_slots(), 3);
  EXPECT_TRUE(scheduler_->Idle());
}

TEST_F(SchedulerTest, AFullQueueRefuses) {
  Create(kBudget, /*max_queued_requests=*/4);
  for (int32_t i = 0; i < 4; ++i) Submit(MakeRequest({20 + i}, 2));
  const auto refused = scheduler_->Submit(MakeRequest({30}, 1));
  EXPECT_EQ(refused.status().code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(observer_.rejected, ElementsAre("queue_full"));
  Steps(1);
  Submit(MakeRequest({30}, 1));
  RunToEnd();
  EXPECT_EQ(observer_.finished.size(), 5);
}

TEST_F(SchedulerTest, DrainRefusesNewRequestsAndFinishesTheOthers) {
  Reader running = Submit(MakeRequest({20}, 5));
  Steps(1);
  Reader queued = Submit(MakeRequest({30}, 5));
  scheduler_->Drain();
  EXPECT_EQ(scheduler_->Submit(MakeRequest({40}, 1)).status().code(), StatusCode::kUnavailable);
  EXPECT_THAT(observer_.rejected, ElementsAre("draining"));
  RunToEnd();
  EXPECT_EQ(running.code(), StatusCode::kOk);
  EXPECT_EQ(queued.code(), StatusCode::kOk);
}

TEST_F(SchedulerTest, RefusesWhatCanNeverRun) {
  EXPECT_EQ(scheduler_->Submit(MakeRequest(Prompt(20, 100), 1)).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_THAT(observer_.rejected, ElementsAre("invalid"));
  EXPECT_TRUE(scheduler_->Idle());
}

TEST_F(SchedulerTest, DestructionCancelsWhatIsUnfinished) {
  Reader running = Submit(MakeRequest({20}, 50));
  Steps(1);
  Reader queued = Submit(MakeRequest({30}, 50));
  scheduler_.reset();
  EXPECT_EQ(running.code(), StatusCode::kCancelled);
  EXPECT_EQ(queued.code(), StatusCode::kCancelled);
  EXPECT_EQ(engine_.free_slots(), 3);
  EXPECT_EQ(observer_.finished.size(), 2);
}

TEST_F(SchedulerTest, OptionsOutOfRangeAreRefused) {
  for (const Scheduler::Options& options :
       {Scheduler::Options{.max_batch_tokens = 0, .eos_token_ids = {}},
        Scheduler::Options{.max_queued_requests = 0, .eos_token_ids = {}},
        Scheduler::Options{.eos_token_ids = {kVocabSize}},
        Scheduler::Options{.eos_token_ids = {-1}}}) {
    EXPECT_EQ(Scheduler::Create(options, engine_, tokenizer_, clock_, observer_).status().code(),
              StatusCode::kInvalidArgument);
  }
}

// ---- Faults ----

TEST_F(SchedulerTest, AFailedStepEndsOnlyTheRequestsInIt) {
  Reader a = Submit(MakeRequest({20}, 5));
  Reader b = Submit(MakeRequest(Prompt(100, 20), 5));
  Reader c = Submit(MakeRequest({30, 31}, 5));
  Reader d = Submit(MakeRequest({40}, 5));
  engine_.FailNextStep(Internal("the device is on fire"));
  Steps(1);  // a and 7 tokens of b; c holds a slot but waits for the budget, d waits for a slot.
  EXPECT_EQ(a.code(), StatusCode::kInternal);
  EXPECT_THAT(Message(a.stream().status()), HasSubstr("the device is on fire"));
  EXPECT_EQ(b.code(), StatusCode::kInternal);
  EXPECT_FALSE(c.ended());
  EXPECT_EQ(engine_.free_slots(), 2);
  EXPECT_EQ(scheduler_->steps(), 0);
  EXPECT_EQ(observer_.prompt_tokens, 0) << "a failed step computed nothing";
  RunToEnd();
  EXPECT_EQ(c.choice().tokens, engine_.Continuation({30, 31}, 5));
  EXPECT_EQ(d.choice().tokens, engine_.Continuation({40}, 5));
  EXPECT_EQ(observer_.finished[0].outcome, Outcome::kError);
}

TEST_F(SchedulerTest, AFailedStepEndsTheOtherChoicesToo) {
  Request wide = MakeRequest(Prompt(100, 20), 5);
  wide.num_choices = 3;
  Reader reader = Submit(wide);
  engine_.FailNextStep(MakeStatus(StatusCode::kUnavailable, "no device"));
  Steps(1);  // Only the first choice was in it.
  EXPECT_EQ(reader.code(), StatusCode::kUnavailable);
  EXPECT_EQ(engine_.free_slots(), 3);
}

TEST_F(SchedulerTest, AMalformedBatchIsNotTheClientsFault) {
  Reader reader = Submit(MakeRequest({20}, 5));
  engine_.FailNextStep(InvalidArgument("slot 7 appears twice"));
  Steps(1);
  EXPECT_EQ(reader.code(), StatusCode::kInternal);
}

TEST_F(SchedulerTest, ShortMemoryCostsItsStepAndIsNotTheClientsFault) {
  Reader large = Submit(MakeRequest(Prompt(100, 20), 5));
  engine_.FailNextStep(ResourceExhausted("cannot allocate 7 MiB"));
  Steps(1);
  EXPECT_EQ(large.code(), StatusCode::kInternal);  // No 429: that would be the client's.
  EXPECT_THAT(Message(large.stream().status()), HasSubstr("cannot allocate 7 MiB"));
  EXPECT_EQ(scheduler_->Health(), OkStatus());
  Reader next = Submit(MakeRequest({20}, 5));
  RunToEnd();
  EXPECT_EQ(next.choice().tokens, engine_.Continuation({20}, 5));
}

TEST_F(SchedulerTest, ALostDeviceEndsEverythingAndNothingBegins) {
  Reader running = Submit(MakeRequest({20}, 5));
  Steps(2);
  Reader prompt = Submit(MakeRequest(Prompt(100, 20), 5));
  Reader without_budget = Submit(MakeRequest({30, 31}, 5));
  Reader queued = Submit(MakeRequest({40}, 5));  // There are three slots.
  engine_.FailNextStep(MakeStatus(StatusCode::kUnavailable, "the device fell off the bus"));
  Steps(1);
  for (Reader* reader : {&running, &prompt, &without_budget, &queued}) {
    EXPECT_EQ(reader->code(), StatusCode::kUnavailable);
    EXPECT_THAT(Message(reader->stream().status()), HasSubstr("the device fell off the bus"));
  }
  EXPECT_EQ(running.choice().tokens, engine_.Continuation({20}, 2));
  EXPECT_TRUE(scheduler_->Idle());
  EXPECT_EQ(engine_.free_slots(), 3);
  EXPECT_EQ(observer_.gauges.running, 0);
  EXPECT_EQ(observer_.gauges.waiting, 0);
  ASSERT_EQ(observer_.finished.size(), 4u);
  for (const RequestTimes& times : observer_.finished) EXPECT_EQ(times.outcome, Outcome::kError);

  EXPECT_EQ(scheduler_->Health().code(), StatusCode::kUnavailable);
  const Status refused = scheduler_->Submit(MakeRequest({50}, 5)).status();
  EXPECT_EQ(refused.code(), StatusCode::kUnavailable);
  EXPECT_THAT(Message(refused), HasSubstr("must be restarted"));
  EXPECT_THAT(observer_.rejected, ElementsAre("device_lost"));
  EXPECT_FALSE(scheduler_->Step());
}

TEST_F(SchedulerTest, ARowWithoutResultEndsItsOwnRequest) {
  engine_.FailRowsOf(20, Internal("logits are not finite"));
  Request damaged = MakeRequest({20}, 5);
  damaged.num_choices = 2;
  Reader a = Submit(damaged);
  Reader b = Submit(MakeRequest({30}, 5));
  Steps(1);
  EXPECT_EQ(a.code(), StatusCode::kInternal);
  EXPECT_THAT(a.choice().tokens, IsEmpty());
  EXPECT_EQ(engine_.free_slots(), 2);
  RunToEnd();
  EXPECT_EQ(b.choice().tokens, engine_.Continuation({30}, 5));
}

TEST_F(SchedulerTest, ARefusedSlotEndsTheRequest) {
  engine_.FailNextAcquire(Internal("out of device memory"));
  Reader a = Submit(MakeRequest({20}, 5));
  Reader b = Submit(MakeRequest({30}, 5));
  RunToEnd();
  EXPECT_EQ(a.code(), StatusCode::kInternal);
  EXPECT_EQ(b.choice().tokens, engine_.Continuation({30}, 5));
}

// ---- What the observer is told ----

TEST_F(SchedulerTest, TimesAndCountsReachTheObserver) {
  for (int32_t i = 0; i < 2; ++i) Submit(MakeRequest({20 + i}, 50));
  Submit(MakeRequest({30}, 1));
  Request request = MakeRequest({40, 41}, 3);
  Submit(request);
  clock_.Advance(seconds(1));
  Steps(1);  // The third request is done, the fourth waits.
  EXPECT_EQ(observer_.gauges.running, 2);
  EXPECT_EQ(observer_.gauges.waiting, 1);
  EXPECT_EQ(observer_.gauges.slots_used, 2);
  EXPECT_EQ(observer_.gauges.slots_total, 3);
  EXPECT_EQ(observer_.prompt_tokens, 3);
  EXPECT_EQ(observer_.generated_tokens, 3);
  EXPECT_EQ(observer_.first_tokens, std::vector<Duration>(3, seconds(1)));

  observer_.first_tokens.clear();
  observer_.next_tokens.clear();
  clock_.Advance(seconds(1));
  Steps(1);
  EXPECT_EQ(observer_.first_tokens, std::vector<Duration>(1, seconds(2)));
  EXPECT_EQ(observer_.next_tokens, std::vector<Duration>(2, seconds(1)));
  clock_.Advance(seconds(2));
  Steps(1);
  clock_.Advance(seconds(3));
  Steps(1);
  ASSERT_EQ(observer_.finished.size(), 2);
  const RequestTimes& times = observer_.finished[1];
  EXPECT_EQ(times.outcome, Outcome::kLength);
  EXPECT_EQ(times.usage.prompt_tokens, 2);
  EXPECT_EQ(times.usage.completion_tokens, 3);
  EXPECT_EQ(times.max_tokens, 3);
  EXPECT_EQ(times.queue, seconds(2));
  EXPECT_EQ(times.prefill, seconds(0)) << "the clock stands still within a step";
  EXPECT_EQ(times.decode, seconds(5));
  EXPECT_EQ(times.inference, seconds(5));
  EXPECT_EQ(times.end_to_end, seconds(7));
  EXPECT_EQ(scheduler_->last_loop(), clock_.Now());
}

TEST_F(SchedulerTest, ARequestStoppedWhenAllItsChoicesDid) {
  engine_.set_next_token([](std::span<const int32_t> prefix, uint32_t choice) {
    return prefix.size() > 2 && choice == 0 ? kEos : 100;
  });
  Request request = MakeRequest({20}, 4);
  Submit(request);
  request.num_choices = 2;
  Submit(request);
  RunToEnd();
  ASSERT_EQ(observer_.finished.size(), 2);
  EXPECT_EQ(observer_.finished[0].outcome, Outcome::kStop);
  EXPECT_EQ(observer_.finished[1].outcome, Outcome::kLength);
}

// ---- The loop thread ----

TEST_F(SchedulerTest, ServesManyThreads) {
  constexpr int kThreads = 4;
  constexpr int kRequests = 25;
  Create(kBudget, /*max_queued_requests=*/kThreads);
  scheduler_->Start();
  std::vector<std::thread> clients;
  for (int t = 0; t < kThreads; ++t) {
    clients.emplace_back([&, t] {
      for (int i = 0; i < kRequests; ++i) {
        const Tokens prompt = Prompt(20 + 50 * t + i, 1 + (7 * i) % 30);
        Reader reader = Submit(MakeRequest(prompt, 1 + i % 9));
        if (i % 5 == 4) reader.stream().Cancel();
        reader.Read(std::chrono::hours(1));
        ASSERT_TRUE(reader.ended());
        const Tokens expected = engine_.Continuation(prompt, 1 + i % 9);
        if (reader.code() == StatusCode::kOk) {
          EXPECT_EQ(reader.choice().tokens, expected);
        } else {
          EXPECT_EQ(reader.code(), StatusCode::kCancelled);
          EXPECT_EQ(i % 5, 4);
        }
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_TRUE(scheduler_->Idle());
  scheduler_.reset();
  EXPECT_EQ(observer_.finished.size(), kThreads * kRequests);
  EXPECT_EQ(engine_.free_slots(), 3);
}

TEST_F(SchedulerTest, DestructionStopsTheLoopInTheMiddleOfWork) {
  Create(kBudget);
  scheduler_->Start();
  Reader reader = Submit(MakeRequest(Prompt(20, 90), 10));
  scheduler_.reset();
  EXPECT_TRUE(reader.ended());
}

TEST_F(SchedulerTest, AnIdleLoopStops) {
  scheduler_->Start();
  scheduler_.reset();
}

}  // namespace
}  // namespace treeline
