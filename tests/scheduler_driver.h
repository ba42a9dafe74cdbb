// Requests through a scheduler over any engine, stepped by hand: what tests of whole
// models share.
#ifndef TREELINE_TESTS_SCHEDULER_DRIVER_H_
#define TREELINE_TESTS_SCHEDULER_DRIVER_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/base/clock.h"
#include "engine/engine.h"
#include "scheduler/fake_tokenizer.h"
#include "scheduler/scheduler.h"

namespace treeline {

// What became of draft trees.
struct DraftCounts {
  int64_t drafts = 0, guesses = 0, accepted = 0;
};

class DraftObserver : public SchedulerObserver {
 public:
  void OnStep(int32_t, int32_t, const SchedulerGauges&) override {}
  void OnPromptComputed(int32_t, int32_t) override {}
  void OnDraft(int32_t num_guesses, int32_t num_accepted) override {
    ++counts.drafts;
    counts.guesses += num_guesses;
    counts.accepted += num_accepted;
  }
  void OnFirstToken(Duration) override {}
  void OnNextTokens(Duration) override {}
  void OnFinished(const RequestTimes&) override {}
  void OnRejected(std::string_view) override {}

  DraftCounts counts;
};

// The generated tokens, with their log-probabilities where the request asks for them.
using Output = std::vector<TokenLogprob>;

inline Output Read(TokenStream& stream) {
  Output output;
  TokenEvent event;
  while (stream.Next(std::chrono::milliseconds(0), &event) == TokenStream::Wait::kEvent) {
    for (size_t i = 0; i < event.tokens.size(); ++i) {
      output.push_back(event.logprobs.empty() ? TokenLogprob{event.tokens[i], 0, {}}
                                              : event.logprobs[i]);
    }
  }
  return output;
}

// What each request is given, all of them at once.
inline std::vector<Output> RunRequests(Engine& engine, const Scheduler::Options& options,
                                       const std::vector<Request>& requests,
                                       DraftCounts* counts = nullptr) {
  const FakeClock clock;
  const FakeTokenizer tokenizer(engine.limits().vocab_size);
  DraftObserver observer;
  const auto scheduler = Scheduler::Create(options, engine, tokenizer, clock, observer).value();
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (const Request& request : requests) streams.push_back(scheduler->Submit(request).value());
  while (!scheduler->Idle()) scheduler->Step();
  std::vector<Output> outputs;
  for (const auto& stream : streams) {
    outputs.push_back(Read(*stream));
    EXPECT_TRUE(stream->status().ok()) << stream->status();
  }
  if (counts != nullptr) *counts = observer.counts;
  return outputs;
}

inline std::vector<int32_t> TokensOf(const Output& output) {
  std::vector<int32_t> tokens;
  for (const TokenLogprob& token : output) tokens.push_back(token.token);
  return tokens;
}

}  // namespace treeline

#endif  // TREELINE_TESTS_SCHEDULER_DRIVER_H_
