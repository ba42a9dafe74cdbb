// The host's time for a speculative step of one sequence but for the engine's own: with an engine
// that answers at once, what a GPU waits for between two steps. Every step asks Engine::Draft,
// which guesses a tree of the argument's nodes, finds out that the best path is right, and tells
// it.
#include <benchmark/benchmark.h>

#include <memory>
#include <utility>
#include <vector>

#include "engine/base/clock.h"
#include "engine/engine.h"
#include "scheduler/bench/no_observer.h"
#include "scheduler/fake_tokenizer.h"
#include "scheduler/scheduler.h"

namespace treeline {
namespace {

constexpr int32_t kVocabSize = 49'152;
constexpr int32_t kContext = 512;
constexpr int32_t kMaxTokens = 512;

// The next token follows from the last one, and no token comes twice. What follows a token it
// guesses to be one of three, the right one first.
class InstantEngine : public Engine, private StateSlotOwner {
 public:
  EngineLimits limits() const override {
    return {kVocabSize, kContext + kMaxTokens, 1, /*num_draft_heads=*/4};
  }
  int32_t free_slots() const override { return in_use_ ? 0 : 1; }
  StatusOr<StateSlot> AcquireSlot() override {
    in_use_ = true;
    return StateSlot(this, 0);
  }
  StatusOr<std::vector<RowResult>> Step(const Batch& batch) override {
    tokens_ = batch.token_ids;
    std::vector<RowResult> results(batch.requests.size());
    for (size_t i = 0; i < results.size(); ++i) {
      results[i].token = Next(tokens_[batch.requests[i].row]);
    }
    return results;
  }
  Status Commit(std::span<const AcceptedPath>) override { return OkStatus(); }
  StatusOr<std::vector<Guesses>> Draft(std::span<const int32_t> rows,
                                       int32_t max_guesses) override {
    Guesses guesses;
    for (int32_t i = 0; i < max_guesses; ++i) {
      const int32_t parent = i / 3 - 1, rank = i % 3;
      const int32_t before = parent < 0 ? Next(tokens_[rows[0]]) : guesses[parent].token;
      guesses.push_back({parent, (Next(before) + rank) % kVocabSize, 0.5f / (1 + rank)});
    }
    return std::vector<Guesses>{std::move(guesses)};
  }
  PrefixMatch RestorePrefix(const StateSlot&, std::span<const int32_t>) override { return {}; }
  void KeepPrefix(const StateSlot&, std::span<const int32_t>) override {}

 private:
  static int32_t Next(int32_t token) { return (token * 13 + 7) % kVocabSize; }
  void ReleaseSlot(int32_t) override { in_use_ = false; }

  bool in_use_ = false;
  std::vector<int32_t> tokens_;  // Of the last step's batch.
};

void SpeculativeStep(benchmark::State& state) {
  Scheduler::Options options;
  options.max_draft_nodes = static_cast<int32_t>(state.range(0));
  options.drafters.draft_model = false;
  InstantEngine engine;
  const FakeTokenizer tokenizer(kVocabSize);
  NoObserver observer;
  const auto scheduler = *Scheduler::Create(options, engine, tokenizer, Clock::Real(), observer);
  std::vector<int32_t> prompt(kContext);
  for (int32_t i = 0; i < kContext; ++i) prompt[i] = i * i % kVocabSize;
  for (auto _ : state) {
    if (scheduler->Idle()) {
      state.PauseTiming();
      Request request;
      request.prompt = prompt;
      request.stop.max_tokens = kMaxTokens;
      request.stop.ignore_eos = true;
      benchmark::DoNotOptimize(*scheduler->Submit(std::move(request)));
      scheduler->Step();  // The prompt.
      state.ResumeTiming();
    }
    scheduler->Step();
  }
}
BENCHMARK(SpeculativeStep)->ArgName("nodes")->Arg(16)->Arg(64);

}  // namespace
}  // namespace treeline
