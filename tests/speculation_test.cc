// Speculative against plain decoding, by the whole path below the server: scheduler,
// engine and small checkpoints of every attention form, whose groups are so short that draft trees
// cross their ends at every phase. Bits may differ where a fold falls inside an accepted path, so
// a draw may too, once in 10,000 tokens (docs/attention.md, "Numerics").

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "engine/base/clock.h"
#include "engine/base/file.h"
#include "scheduler/fake_tokenizer.h"
#include "scheduler/scheduler.h"
#include "tests/engine_driver.h"

namespace treeline {
namespace {

class DraftCounter : public SchedulerObserver {
 public:
  void OnStep(int32_t, int32_t, const SchedulerGauges&) override {}
  void OnPromptComputed(int32_t, int32_t) override {}
  void OnDraft(int32_t, int32_t num_accepted) override { accepted += num_accepted; }
  void OnFirstToken(Duration) override {}
  void OnNextTokens(Duration) override {}
  void OnFinished(const RequestTimes&) override {}
  void OnRejected(std::string_view) override {}

  int64_t accepted = 0;
};

class Speculation : public testing::TestWithParam<const char*> {
 protected:
  using Tokens = std::vector<int32_t>;

  Speculation() {
    ModelEngine::Options options;
    options.matmul_kernel = "fp32";
    options.max_slots = 8;
    const std::string folder = std::string("tests/testdata/checkpoints/") + GetParam();
    const std::string heads = folder + "/medusa_lm_head.safetensors";
    if (FileExists(heads)) options.medusa_heads = heads;
    engine_ = LoadEngine(folder, options);
  }

  // What each request is given, all of them at once.
  std::vector<Tokens> Run(const std::vector<Request>& requests, int32_t max_draft_nodes) {
    const FakeClock clock;
    const FakeTokenizer tokenizer(engine_->limits().vocab_size);
    Scheduler::Options options{.max_batch_tokens = 300, .max_draft_nodes = max_draft_nodes};
    const auto scheduler =
        Scheduler::Create(options, *engine_, tokenizer, clock, observer_).value();
    std::vector<std::shared_ptr<TokenStream>> streams;
    for (const Request& request : requests) {
      streams.push_back(scheduler->Submit(request).value());
    }
    while (!scheduler->Idle()) scheduler->Step();
    std::vector<Tokens> outputs;
    for (const auto& stream : streams) {
      Tokens& output = outputs.emplace_back();
      TokenEvent event;
      while (stream->Next(std::chrono::milliseconds(0), &event) == TokenStream::Wait::kEvent) {
        output.insert(output.end(), event.tokens.begin(), event.tokens.end());
      }
      EXPECT_TRUE(stream->status().ok()) << stream->status();
    }
    return outputs;
  }

  std::unique_ptr<ModelEngine> engine_;
  DraftCounter observer_;
};

TEST_P(Speculation, GivesWhatPlainDecodingGives) {
  ASSERT_NE(engine_, nullptr);
  std::mt19937 rng(31);
  std::vector<Request> requests;
  for (int i = 0; i < 24; ++i) {
    Request request;
    // Few words, so that there is something to guess.
    request.prompt.resize(1 + rng() % 40);
    for (int32_t& token : request.prompt) token = 3 + static_cast<int32_t>(rng() % 6);
    request.sampling.temperature = i % 2 == 0 ? 0.0f : 0.8f;
    request.sampling.seed = 100 + i;
    if (i % 2 == 1) request.sampling.logit_bias = {{3, 8.0f}, {4, 8.0f}, {5, 8.0f}, {6, 8.0f}};
    request.stop.max_tokens = 60;
    requests.push_back(request);
  }
  const std::vector<Tokens> plain = Run(requests, 0);
  EXPECT_EQ(observer_.accepted, 0);
  int64_t total = 0, different = 0;
  for (const int32_t nodes : {2, 8, 64}) {
    const std::vector<Tokens> drafted = Run(requests, nodes);
    for (size_t i = 0; i < requests.size(); ++i) {
      total += static_cast<int64_t>(plain[i].size());
      if (drafted[i] == plain[i]) continue;
      ++different;
      const auto at = std::mismatch(plain[i].begin(), plain[i].end(), drafted[i].begin()).first;
      fmt::print("{} nodes, request {}: differs from token {}\n", nodes, i, at - plain[i].begin());
    }
  }
  EXPECT_LE(different, total / 10'000) << "of " << total << " tokens";
  EXPECT_GT(observer_.accepted, total / 10);
}

INSTANTIATE_TEST_SUITE_P(All, Speculation,
                         testing::Values("softmax", "released_mha", "released_gqa", "hybrid",
                                         "window_equal", "window_wider", "window_narrower"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace treeline
