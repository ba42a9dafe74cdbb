// Speculative against plain decoding, by the whole path below the server: scheduler,
// engine and small checkpoints of every attention form, whose groups are so short that draft trees
// cross their ends at every phase. Bits may differ where a fold falls inside an accepted path, so
// a draw may too, once in 10,000 tokens (docs/attention.md, "Numerics").

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "engine/draft_model_engine.h"
#include "tests/engine_driver.h"
#include "tests/scheduler_driver.h"

namespace treeline {
namespace {

// No group is longer, and every one divides it.
constexpr int32_t kPhases = 16;

std::string Folder(const std::string& name) { return "tests/testdata/checkpoints/" + name; }

// Counts the draft trees of which guesses were accepted, by where they stood in a group.
class PhaseCounter : public Engine {
 public:
  PhaseCounter(Engine& engine, StatePool& pool) : accepted(kPhases), engine_(engine), pool_(pool) {}

  EngineLimits limits() const override { return engine_.limits(); }
  int32_t free_slots() const override { return engine_.free_slots(); }
  StatusOr<StateSlot> AcquireSlot() override { return engine_.AcquireSlot(); }
  StatusOr<std::vector<RowResult>> Step(const Batch& batch) override { return engine_.Step(batch); }
  Status Commit(std::span<const AcceptedPath> paths) override {
    for (const AcceptedPath& path : paths) {
      if (path.nodes.size() > 1) ++accepted[pool_.length(path.slot) % kPhases];
    }
    return engine_.Commit(paths);
  }
  StatusOr<std::vector<Guesses>> Draft(std::span<const int32_t> rows,
                                       int32_t max_guesses) override {
    return engine_.Draft(rows, max_guesses);
  }
  PrefixMatch RestorePrefix(const StateSlot& slot, std::span<const int32_t> tokens) override {
    return engine_.RestorePrefix(slot, tokens);
  }
  void KeepPrefix(const StateSlot& slot, std::span<const int32_t> tokens) override {
    engine_.KeepPrefix(slot, tokens);
  }

  std::vector<int32_t> accepted;  // [kPhases]

 private:
  Engine& engine_;
  StatePool& pool_;
};

// A checkpoint, and who guesses: "ngram", "medusa", or the folder of a draft model.
class Speculation : public testing::TestWithParam<std::tuple<const char*, const char*>> {
 protected:
  void SetUp() override {
    const auto [model, drafter] = GetParam();
    ModelEngine::Options options;
    options.matmul_kernel = "fp32";
    options.max_slots = 8;
    if (drafter == std::string("medusa")) {
      options.medusa_heads = Folder(model) + "/medusa_lm_head.safetensors";
    }
    std::unique_ptr<ModelEngine> engine = LoadEngine(Folder(model), options);
    ASSERT_NE(engine, nullptr);
    pool_ = &engine->pool();
    engine_ = std::move(engine);
    drafters_.ngram = drafter == std::string("ngram");
    if (drafters_.ngram || drafter == std::string("medusa")) return;
    drafted_by_another_ = drafter != std::string(model);
    auto with_draft_model =
        DraftModelEngine::Create(std::move(engine_), LoadEngine(Folder(drafter), options), 4);
    ASSERT_TRUE(with_draft_model.ok()) << with_draft_model.status();
    engine_ = *std::move(with_draft_model);
  }

  std::unique_ptr<Engine> engine_;
  StatePool* pool_ = nullptr;  // The model's.
  Drafters drafters_{};
  bool drafted_by_another_ = false;  // A model that was not made for this one.
};

// Few words, so that there is something to guess.
std::vector<Request> Requests() {
  std::mt19937 rng(31);
  std::vector<Request> requests;
  for (int i = 0; i < 24; ++i) {
    Request request;
    request.prompt.resize(1 + rng() % 40);
    for (int32_t& token : request.prompt) token = 3 + static_cast<int32_t>(rng() % 6);
    request.sampling.temperature = i % 2 == 0 ? 0.0f : 0.8f;
    request.sampling.seed = 100 + i;
    if (i % 2 == 1) request.sampling.logit_bias = {{3, 8.0f}, {4, 8.0f}, {5, 8.0f}, {6, 8.0f}};
    request.stop.max_tokens = 60;
    request.logprobs = true;
    requests.push_back(request);
  }
  return requests;
}

TEST_P(Speculation, GivesWhatPlainDecodingGives) {
  const std::vector<Request> requests = Requests();
  const std::vector<Output> plain = RunRequests(*engine_, {.max_batch_tokens = 300}, requests);
  PhaseCounter phases(*engine_, *pool_);
  int64_t total = 0, different = 0;
  for (const int32_t nodes : {2, 8, 64}) {
    const std::vector<Output> drafted = RunRequests(
        phases, {.max_batch_tokens = 300, .max_draft_nodes = nodes, .drafters = drafters_},
        requests);
    for (size_t i = 0; i < requests.size(); ++i) {
      ASSERT_EQ(drafted[i].size(), plain[i].size());
      total += static_cast<int64_t>(plain[i].size());
      const auto [a, b] = std::mismatch(
          plain[i].begin(), plain[i].end(), drafted[i].begin(),
          [](const TokenLogprob& a, const TokenLogprob& b) { return a.token == b.token; });
      if (a == plain[i].end()) continue;
      ++different;
      fmt::print("{} nodes, request {}, temperature {}, token {}: {} ({:.5f}) became {} ({:.5f})\n",
                 nodes, i, requests[i].sampling.temperature, a - plain[i].begin(), a->token,
                 a->logprob, b->token, b->logprob);
    }
  }
  EXPECT_LE(different, total / 10'000) << "of " << total << " tokens";
  if (drafted_by_another_) {
    EXPECT_GT(std::accumulate(phases.accepted.begin(), phases.accepted.end(), 0), 0);
    return;  // It is seldom right.
  }
  for (int32_t phase = 0; phase < kPhases; ++phase) {
    EXPECT_GT(phases.accepted[phase], 0) << "at L mod " << kPhases << " = " << phase;
  }
}

INSTANTIATE_TEST_SUITE_P(Ngrams, Speculation,
                         testing::Combine(testing::Values("softmax", "released_mha", "released_gqa",
                                                          "hybrid", "window_equal", "window_wider",
                                                          "window_narrower"),
                                          testing::Values("ngram")),
                         [](const auto& info) { return std::string(std::get<0>(info.param)); });
INSTANTIATE_TEST_SUITE_P(MedusaHeads, Speculation,
                         testing::Combine(testing::Values("released_gqa", "hybrid"),
                                          testing::Values("medusa")),
                         [](const auto& info) { return std::string(std::get<0>(info.param)); });
// Itself, and another.
INSTANTIATE_TEST_SUITE_P(DraftModel, Speculation,
                         testing::Values(std::tuple("released_mha", "released_mha"),
                                         std::tuple("released_gqa", "released_gqa"),
                                         std::tuple("hybrid", "hybrid"),
                                         std::tuple("window_equal", "window_equal"),
                                         std::tuple("window_equal", "softmax"),
                                         std::tuple("released_mha", "window_wider")),
                         [](const auto& info) {
                           return fmt::format("{}_of_{}", std::get<0>(info.param),
                                              std::get<1>(info.param));
                         });

}  // namespace
}  // namespace treeline
