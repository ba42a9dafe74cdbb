// What the scheduler's tests share: a scheduler over a FakeEngine and a FakeClock,
// stepped by hand, and readers that check their streams' contract.
#ifndef TREELINE_SCHEDULER_SCHEDULER_FIXTURE_H_
#define TREELINE_SCHEDULER_SCHEDULER_FIXTURE_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "scheduler/fake_engine.h"
#include "scheduler/fake_tokenizer.h"
#include "scheduler/scheduler.h"

namespace treeline {

inline constexpr int32_t kEos = 0;
inline constexpr int32_t kVocabSize = 500;
inline constexpr EngineLimits kLimits{.vocab_size = kVocabSize, .max_context = 100, .num_slots = 3};
inline constexpr int32_t kBudget = 8;

// A prompt of `size` tokens; sequences are told apart by their first.
inline std::vector<int32_t> Prompt(int32_t first, int32_t size) {
  std::vector<int32_t> prompt(size);
  for (int32_t i = 0; i < size; ++i) prompt[i] = first + i;
  return prompt;
}

inline Request MakeRequest(const std::vector<int32_t>& prompt, int32_t max_tokens) {
  Request request;
  request.prompt = prompt;
  request.sampling.seed = 1234;
  request.stop.max_tokens = max_tokens;
  return request;
}

// Everything one choice was told.
struct Choice {
  std::vector<int32_t> tokens;
  std::string text;
  std::vector<TokenLogprob> logprobs;
  std::vector<TokenLogprob> prompt_logprobs;
  std::optional<FinishReason> finish;
};

// Reads a stream as it goes, checking its contract.
class Reader {
 public:
  explicit Reader(std::shared_ptr<TokenStream> stream) : stream_(std::move(stream)) {}

  // Takes what there is; waits `timeout` for more.
  void Read(std::chrono::milliseconds timeout = std::chrono::milliseconds(0)) {
    TokenEvent event;
    TokenStream::Wait wait;
    while ((wait = stream_->Next(timeout, &event)) == TokenStream::Wait::kEvent) Take(event);
    ended_ = wait == TokenStream::Wait::kEnd;
  }

  bool ended() { return Read(), ended_; }
  Choice& choice(int32_t index = 0) { return Read(), choices_[index]; }
  StatusCode code() { return ended() ? stream_->status().code() : StatusCode::kUnknown; }
  TokenStream& stream() { return *stream_; }

 private:
  void Take(const TokenEvent& event) {
    Choice& choice = choices_[event.choice];
    EXPECT_FALSE(choice.finish) << "an event after the choice's end";
    choice.tokens.insert(choice.tokens.end(), event.tokens.begin(), event.tokens.end());
    choice.text += event.text;
    choice.logprobs.insert(choice.logprobs.end(), event.logprobs.begin(), event.logprobs.end());
    if (!event.prompt_logprobs.empty()) {
      EXPECT_TRUE(choice.prompt_logprobs.empty()) << "prompt logprobs came twice";
      choice.prompt_logprobs = event.prompt_logprobs;
    }
    choice.finish = event.finish;
  }

  std::shared_ptr<TokenStream> stream_;
  bool ended_ = false;
  std::map<int32_t, Choice> choices_;
};

class RecordingObserver : public SchedulerObserver {
 public:
  void OnStep(int32_t prompt_tokens, int32_t generated_tokens,
              const SchedulerGauges& gauges) override {
    this->prompt_tokens += prompt_tokens;
    this->generated_tokens += generated_tokens;
    this->gauges = gauges;
  }
  void OnPromptComputed(int32_t prompt_tokens, int32_t cached_tokens) override {
    queried_tokens += prompt_tokens;
    this->cached_tokens += cached_tokens;
  }
  void OnDraft(int32_t num_guesses, int32_t num_accepted) override {
    this->num_guesses += num_guesses;
    this->num_accepted += num_accepted;
  }
  void OnFirstToken(Duration since_arrival) override { first_tokens.push_back(since_arrival); }
  void OnNextTokens(Duration since_previous) override { next_tokens.push_back(since_previous); }
  void OnFinished(const RequestTimes& times) override { finished.push_back(times); }
  void OnRejected(std::string_view reason) override {
    std::lock_guard lock(mutex_);
    rejected.emplace_back(reason);
  }

  int32_t prompt_tokens = 0;
  int32_t generated_tokens = 0;
  int32_t queried_tokens = 0;
  int32_t cached_tokens = 0;
  int32_t num_guesses = 0;
  int32_t num_accepted = 0;
  SchedulerGauges gauges;
  std::vector<Duration> first_tokens;
  std::vector<Duration> next_tokens;
  std::vector<RequestTimes> finished;
  std::vector<std::string> rejected;

 private:
  std::mutex mutex_;
};

class SchedulerTest : public testing::Test {
 protected:
  explicit SchedulerTest(const EngineLimits& limits = kLimits) : engine_(limits) {
    tokenizer_.SetSpecial(kEos);
    tokenizer_.SetPiece(kEos, "<eos>");
    Create(kBudget);
  }

  void Create(int32_t max_batch_tokens, int32_t max_queued_requests = 8) {
    Create({.max_batch_tokens = max_batch_tokens, .max_queued_requests = max_queued_requests});
  }
  void Create(Scheduler::Options options) {
    options.eos_token_ids = {kEos};
    auto scheduler = Scheduler::Create(options, engine_, tokenizer_, clock_, observer_);
    TREELINE_CHECK(scheduler.ok(), "{}", Message(scheduler.status()));
    scheduler_ = *std::move(scheduler);
  }

  Reader Submit(const Request& request) {
    Request arriving = request;
    arriving.arrival = clock_.Now();
    auto stream = scheduler_->Submit(std::move(arriving));
    TREELINE_CHECK(stream.ok(), "{}", Message(stream.status()));
    return Reader(*std::move(stream));
  }
  void Steps(int count) {
    for (int i = 0; i < count; ++i) EXPECT_TRUE(scheduler_->Step()) << "step " << i;
  }
  void RunToEnd() {
    for (int i = 0; i < 10'000 && !scheduler_->Idle(); ++i) scheduler_->Step();
    EXPECT_TRUE(scheduler_->Idle());
    EXPECT_EQ(engine_.free_slots(), kLimits.num_slots);
  }
  // Makes every sequence generate these tokens, then token 1.
  void Script(int32_t prompt_size, const std::vector<int32_t>& script) {
    engine_.set_next_token([prompt_size, script](std::span<const int32_t> prefix, uint32_t) {
      const size_t i = prefix.size() - prompt_size;
      return i < script.size() ? script[i] : 1;
    });
  }

  FakeClock clock_;
  FakeEngine engine_;
  FakeTokenizer tokenizer_{kVocabSize};
  RecordingObserver observer_;
  std::unique_ptr<Scheduler> scheduler_;
};

}  // namespace treeline

#endif  // TREELINE_SCHEDULER_SCHEDULER_FIXTURE_H_
