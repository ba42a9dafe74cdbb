#include "engine/eval/perplexity.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>
#include <vector>

namespace treeline {
namespace {

constexpr int32_t kVocabSize = 50;

// A bigram model: log p(next | previous) is a table lookup, so that the expected sum can be
// written down. Checks that windows start empty and stay apart.
class BigramEngine : public Engine, private StateSlotOwner {
 public:
  explicit BigramEngine(int32_t num_slots) : num_slots_(num_slots) {}

  static float Logprob(int32_t previous, int32_t next) {
    return -0.01f * static_cast<float>(1 + (previous * 7 + next * 3) % 100);
  }

  EngineLimits limits() const override {
    return {.vocab_size = kVocabSize, .max_context = 64, .num_slots = num_slots_};
  }
  int32_t free_slots() const override { return num_slots_ - static_cast<int32_t>(lengths_.size()); }
  StatusOr<StateSlot> AcquireSlot() override {
    for (int32_t index = 0; index < num_slots_; ++index) {
      if (lengths_.try_emplace(index, 0).second) return StateSlot(this, index);
    }
    return ResourceExhausted("no slot");
  }
  StatusOr<std::vector<RowResult>> Step(const Batch& batch) override {
    if (fail_) return Internal("device lost");
    max_tokens_ = std::max(max_tokens_, batch.num_tokens());
    for (int32_t i = 0; i < batch.num_sequences(); ++i) {
      lengths_.at(batch.slots[i]) += batch.tree_offsets[i + 1] - batch.tree_offsets[i];
      longest_ = std::max(longest_, lengths_.at(batch.slots[i]));
    }
    std::vector<RowResult> results;
    for (const RowRequest& request : batch.requests) {
      RowResult& result = results.emplace_back();
      for (const int32_t next : request.score) {
        result.scores.push_back(Logprob(batch.token_ids[request.row], next));
      }
    }
    return results;
  }
  Status Commit(std::span<const AcceptedPath>) override { return OkStatus(); }
  PrefixMatch RestorePrefix(const StateSlot&, std::span<const int32_t>) override { return {}; }
  void KeepPrefix(const StateSlot&, std::span<const int32_t>) override {}

  int32_t max_tokens_ = 0;  // Of any step.
  int32_t longest_ = 0;     // Tokens any sequence held.
  bool fail_ = false;

 private:
  void ReleaseSlot(int32_t index) override { lengths_.erase(index); }

  const int32_t num_slots_;
  std::map<int32_t, int32_t> lengths_;
};

std::vector<int32_t> Tokens(int32_t count) {
  std::vector<int32_t> tokens(count);
  for (int32_t i = 0; i < count; ++i) tokens[i] = (i * i + 3 * i) % kVocabSize;
  return tokens;
}

TEST(PerplexityTest, SumsEveryTokenButTheFirstOfEachWindow) {
  const std::vector<int32_t> tokens = Tokens(107);  // 10 windows of 10; 7 dropped.
  double expected = 0;
  for (int32_t i = 0; i < 100; ++i) {
    if (i % 10 != 0) expected -= BigramEngine::Logprob(tokens[i - 1], tokens[i]);
  }
  for (const int32_t num_slots : {1, 3, 8}) {
    for (const int32_t max_batch_tokens : {1, 4, 25, 512}) {
      BigramEngine engine(num_slots);
      PerplexityOptions options;
      options.context = 10;
      options.max_batch_tokens = max_batch_tokens;
      std::vector<int64_t> progress;
      options.progress = [&](const PerplexityResult& so_far, int64_t total) {
        EXPECT_EQ(total, 10);
        progress.push_back(so_far.num_windows);
      };
      const auto result = MeasurePerplexity(tokens, options, engine);
      ASSERT_EQ(result.status(), OkStatus());
      EXPECT_EQ(result->num_windows, 10);
      EXPECT_EQ(result->num_scored, 90);
      EXPECT_NEAR(result->negative_log_likelihood, expected, 1e-4);
      EXPECT_NEAR(result->Perplexity(), std::exp(expected / 90), 1e-4);
      EXPECT_EQ(progress.back(), 10);
      EXPECT_LE(engine.max_tokens_, max_batch_tokens);
      EXPECT_EQ(engine.longest_, 9);  // The last token of a window predicts nothing.
      EXPECT_EQ(engine.free_slots(), num_slots);
    }
  }
}

TEST(PerplexityTest, ImpossibleWindowsAreRefused) {
  BigramEngine engine(2);
  PerplexityOptions options;
  for (const int32_t context : {0, 1, 65}) {
    options.context = context;
    EXPECT_EQ(MeasurePerplexity(Tokens(200), options, engine).status().code(),
              StatusCode::kInvalidArgument);
  }
  options.context = 20;
  EXPECT_EQ(MeasurePerplexity(Tokens(19), options, engine).status().code(),
            StatusCode::kInvalidArgument);
}

TEST(PerplexityTest, TheEnginesErrorsComeOutAndSlotsGoBack) {
  BigramEngine engine(2);
  engine.fail_ = true;
  PerplexityOptions options;
  options.context = 10;
  EXPECT_EQ(MeasurePerplexity(Tokens(50), options, engine).status().code(), StatusCode::kInternal);
  EXPECT_EQ(engine.free_slots(), 2);
}

}  // namespace
}  // namespace treeline
