// Drafting by a second model (engine/draft_model_engine.h), through the scheduler and
// small checkpoints, on each device.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/backend/backend_decorator.h"
#include "engine/backend/cuda_backend.h"
#include "engine/draft_model_engine.h"
#include "engine/model/checkpoint.h"
#include "engine/model_engine.h"
#include "tests/scheduler_driver.h"

namespace treeline {
namespace {

constexpr int32_t kDepth = 4;

// A draft engine that counts what it runs and fails on demand.
class WatchedEngine : public Engine {
 public:
  explicit WatchedEngine(std::unique_ptr<ModelEngine> engine) : engine_(std::move(engine)) {}

  EngineLimits limits() const override { return engine_->limits(); }
  int32_t free_slots() const override { return engine_->free_slots(); }
  StatusOr<StateSlot> AcquireSlot() override { return engine_->AcquireSlot(); }
  StatusOr<std::vector<RowResult>> Step(const Batch& batch) override {
    if (failures > 0 && failures-- > 0) return MakeStatus(StatusCode::kInternal, "broken");
    for (int32_t i = 0; i < batch.num_sequences(); ++i) {
      const int32_t size = batch.tree_offsets[i + 1] - batch.tree_offsets[i];
      if (batch.acceptance[i] == Acceptance::kKnown) caught_up.push_back(size);
    }
    return engine_->Step(batch);
  }
  Status Commit(std::span<const AcceptedPath> paths) override { return engine_->Commit(paths); }
  PrefixMatch RestorePrefix(const StateSlot& slot, std::span<const int32_t> tokens) override {
    return engine_->RestorePrefix(slot, tokens);
  }
  void KeepPrefix(const StateSlot& slot, std::span<const int32_t> tokens) override {
    engine_->KeepPrefix(slot, tokens);
  }
  const PrefixCache& prefix_cache() const { return engine_->prefix_cache(); }

  int failures = 0;                // Steps that fail from now on.
  std::vector<int32_t> caught_up;  // The sizes of chains of known tokens.

 private:
  const std::unique_ptr<ModelEngine> engine_;
};

ModelEngine::Options EngineOptions() {
  ModelEngine::Options options;
  options.matmul_kernel = "fp32";
  options.max_slots = 4;
  options.prefix_cache_memory = 64 << 20;
  return options;
}

// Counts the models' steps, and how often the host waits for the device.
class CountingBackend : public BackendDecorator {
 public:
  using BackendDecorator::BackendDecorator;
  void Embed(const Matrix& table, std::span<const int32_t> token_ids, float* y) override {
    ++steps;
    BackendDecorator::Embed(table, token_ids, y);
  }
  void CopyToHost(void* to, const void* from, size_t bytes,
                  const std::function<void()>& meanwhile) override {
    ++waits;
    BackendDecorator::CopyToHost(to, from, bytes, meanwhile);
  }
  Status Synchronize() override {
    ++waits;
    return BackendDecorator::Synchronize();
  }

  int steps = 0, waits = 0;
};

std::shared_ptr<CountingBackend> OpenDevice(const std::string& device) {
  auto backend = device == "cuda" ? CreateCudaBackend({})
                                  : CreateCpuBackend({.threads = 2, .matmul_kernel = "fp32"});
  return std::make_shared<CountingBackend>(std::move(backend).value());
}

std::unique_ptr<ModelEngine> Load(const std::string& name, std::shared_ptr<Backend> backend,
                                  const ModelEngine::Options& options = EngineOptions()) {
  const auto checkpoint = Checkpoint::Open("tests/testdata/checkpoints/" + name).value();
  return ModelEngine::Load(*checkpoint, options, std::move(backend)).value();
}

// All on one device, as the server has them. The parameter names it.
class DraftModelTest : public testing::TestWithParam<std::string> {
 protected:
  explicit DraftModelTest(const ModelEngine::Options& draft_options = EngineOptions())
      : device_(OpenDevice(GetParam())), plain_(Load("window_equal", device_)) {
    auto draft = std::make_unique<WatchedEngine>(Load("window_equal", device_, draft_options));
    draft_ = draft.get();
    engine_ =
        DraftModelEngine::Create(Load("window_equal", device_), std::move(draft), kDepth).value();
  }
  ~DraftModelTest() override {
    EXPECT_EQ(engine_->free_slots(), 4) << "slots were not returned";
    EXPECT_EQ(draft_->free_slots(), draft_->limits().num_slots);
  }

  std::vector<Output> Draft(const std::vector<Request>& requests) {
    return RunRequests(*engine_,
                       {.max_batch_tokens = 600,
                        .max_draft_nodes = 64,
                        .drafters = {.ngram = false},
                        .prefix_interval = 256},
                       requests, &counts_);
  }
  std::vector<Output> Plain(const std::vector<Request>& requests) {
    return RunRequests(*plain_, {.max_batch_tokens = 600}, requests);
  }

  const std::shared_ptr<CountingBackend> device_;
  const std::unique_ptr<Engine> plain_;
  std::unique_ptr<DraftModelEngine> engine_;
  WatchedEngine* draft_ = nullptr;  // engine_'s.
  DraftCounts counts_;              // Of the last Draft.
};

Request MakeRequest(int32_t seed, int32_t prompt_size, int32_t max_tokens) {
  std::mt19937 rng(seed);
  Request request;
  request.prompt.resize(prompt_size);
  for (int32_t& token : request.prompt) token = 3 + static_cast<int32_t>(rng() % 280);
  request.sampling.temperature = 0;
  request.stop.max_tokens = max_tokens;
  return request;
}

std::vector<std::vector<int32_t>> TokensOf(const std::vector<Output>& outputs) {
  std::vector<std::vector<int32_t>> tokens;
  for (const Output& output : outputs) tokens.push_back(TokensOf(output));
  return tokens;
}

// A model that guesses for itself is right: after the prompt's, each step brings kDepth + 1 tokens.
TEST_P(DraftModelTest, OfItselfEveryGuessIsRight) {
  constexpr int32_t kSteps = 12;
  std::vector<Request> requests;
  for (int i = 0; i < 8; ++i) {
    requests.push_back(MakeRequest(i, 1 + 9 * i, 1 + kSteps * (kDepth + 1)));
  }
  const auto drafted = Draft(requests);
  EXPECT_EQ(TokensOf(drafted), TokensOf(Plain(requests)));
  EXPECT_GE(counts_.accepted, 0.99 * 8 * kSteps * kDepth);
  EXPECT_LE(counts_.drafts, 8 * kSteps + 4);
}

TEST_P(DraftModelTest, ReadsLongPromptsInPiecesAndKeepsThem) {
  const Request first = MakeRequest(1, 700, 21);
  const auto output = Draft({first});
  EXPECT_EQ(TokensOf(output), TokensOf(Plain({first})));
  EXPECT_THAT(draft_->caught_up, testing::ElementsAre(512, 189));
  EXPECT_GE(counts_.accepted, 12);

  // What goes on from there does not read it again.
  draft_->caught_up.clear();
  Request second = MakeRequest(2, 40, 21);
  std::vector<int32_t> prompt = first.prompt, answer = TokensOf(output[0]);
  prompt.insert(prompt.end(), answer.begin(), answer.end());
  prompt.insert(prompt.end(), second.prompt.begin(), second.prompt.end());
  second.prompt = prompt;
  const auto again = Draft({second});
  EXPECT_EQ(TokensOf(again), TokensOf(Plain({second})));
  ASSERT_EQ(draft_->caught_up.size(), 1u);
  EXPECT_LE(draft_->caught_up[0], 40 + kDepth + 1);
}

// Prompts that begin alike: the second finds where they part, the third starts there.
TEST_P(DraftModelTest, KeepsWherePromptsPart) {
  const Request shared = MakeRequest(1, 300, 6);
  std::vector<int32_t> computed;
  for (int i = 0; i < 3; ++i) {
    Request request = MakeRequest(10 + i, 60, 6);
    request.prompt.insert(request.prompt.begin(), shared.prompt.begin(), shared.prompt.end());
    draft_->caught_up.clear();
    EXPECT_EQ(TokensOf(Draft({request})), TokensOf(Plain({request})));
    int32_t& sum = computed.emplace_back(0);
    for (const int32_t size : draft_->caught_up) sum += size;
  }
  // The second stops where they part, and its next token has come when it goes on.
  EXPECT_THAT(computed, testing::ElementsAre(360, 361, 60));
}

TEST_P(DraftModelTest, AFaultCostsGuessesButNoAnswer) {
  const std::vector<Request> requests = {MakeRequest(1, 100, 61), MakeRequest(2, 20, 61)};
  draft_->failures = 3;
  EXPECT_EQ(TokensOf(Draft(requests)), TokensOf(Plain(requests)));
  EXPECT_GT(counts_.accepted, 60);  // It starts anew, and soon guesses again.
}

// On a device, which a draft model shares with the model, waiting is what guesses cost.
TEST_P(DraftModelTest, GuessesForAllSequencesAtOnceAndWaitsOnceForEachTokenAhead) {
  std::vector<StateSlot> slots;
  const SamplingParams greedy{.temperature = 0};
  Batch prompts, decodes;
  for (const int32_t size : {1, 7, 30}) {
    slots.push_back(engine_->AcquireSlot().value());
    for (Batch* batch : {&prompts, &decodes}) {
      const int32_t tokens = batch == &prompts ? size : 1;
      RowRequest request;
      request.row =
          batch->AddChain(slots.back().index(), MakeRequest(size, tokens, 1).prompt) + tokens - 1;
      request.sampling = &greedy;
      batch->requests.push_back(request);
    }
  }
  for (const Batch& batch : {prompts, decodes, decodes}) {
    ASSERT_TRUE(engine_->Step(batch).ok());
    std::vector<int32_t> rows;
    for (const RowRequest& request : batch.requests) rows.push_back(request.row);
    device_->steps = device_->waits = 0;
    const auto guesses = engine_->Draft(rows, 63);
    ASSERT_TRUE(guesses.ok()) << guesses.status();
    EXPECT_THAT(*guesses, testing::Each(testing::Not(testing::IsEmpty())));
    EXPECT_EQ(device_->steps, kDepth);
    EXPECT_EQ(device_->waits, kDepth);
  }
}

TEST_P(DraftModelTest, RequestsMayDoWithout) {
  Request request = MakeRequest(1, 20, 30);
  request.drafters = {.draft_model = false};
  EXPECT_EQ(TokensOf(Draft({request})), TokensOf(Plain({request})));
  EXPECT_EQ(counts_.drafts, 0);
  EXPECT_EQ(draft_->free_slots(), 4);
}

// Requests that come and go, some cancelled while they run, with prefixes and several choices,
// against plain decoding of each.
TEST_P(DraftModelTest, SlotsFollowTheirSequences) {
  const FakeClock clock;
  const FakeTokenizer tokenizer(engine_->limits().vocab_size);
  DraftObserver observer;
  const auto scheduler = Scheduler::Create({.max_batch_tokens = 200,
                                            .max_queued_requests = 1000,
                                            .max_draft_nodes = 16,
                                            .prefix_interval = 64},
                                           *engine_, tokenizer, clock, observer)
                             .value();
  std::mt19937 rng(5);
  std::vector<Request> requests;
  std::vector<std::shared_ptr<TokenStream>> streams;
  const Request shared = MakeRequest(100, 80, 1);
  for (int i = 0; i < 60; ++i) {
    Request request = MakeRequest(i, 1 + rng() % 90, 1 + static_cast<int32_t>(rng() % 40));
    if (i % 3 == 0) {
      request.prompt.insert(request.prompt.begin(), shared.prompt.begin(), shared.prompt.end());
    }
    requests.push_back(request);
    streams.push_back(scheduler->Submit(request).value());
    for (size_t n = rng() % 8; n > 0; --n) scheduler->Step();
    if (rng() % 4 == 0) streams[rng() % streams.size()]->Cancel();
  }
  while (!scheduler->Idle()) scheduler->Step();
  const auto plain = TokensOf(Plain(requests));
  int finished = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    std::vector<int32_t> tokens = TokensOf(Read(*streams[i]));
    const bool whole = streams[i]->status().ok();
    finished += whole;
    EXPECT_TRUE(!whole || tokens.size() == plain[i].size()) << i;
    tokens.resize(std::min(tokens.size(), plain[i].size()));
    EXPECT_TRUE(std::equal(tokens.begin(), tokens.end(), plain[i].begin())) << i;
  }
  EXPECT_GT(finished, 30);
  EXPECT_GT(observer.counts.accepted, 300);
}

ModelEngine::Options Small() {
  ModelEngine::Options options = EngineOptions();
  options.max_slots = 1;
  options.max_context = 50;
  return options;
}

class SmallDraftModelTest : public DraftModelTest {
 protected:
  SmallDraftModelTest() : DraftModelTest(Small()) {}
};

TEST_P(SmallDraftModelTest, GuessesWhileItsContextLasts) {
  const Request request = MakeRequest(1, 20, 80);
  EXPECT_EQ(TokensOf(Draft({request})), TokensOf(Plain({request})));
  // The root and what is looked beyond lie within 50 tokens.
  EXPECT_GE(counts_.accepted, 20);
  EXPECT_LE(counts_.accepted, 30);
}

TEST_P(SmallDraftModelTest, SequencesWithoutASlotDoWithout) {
  const std::vector<Request> requests = {MakeRequest(1, 5, 30), MakeRequest(2, 5, 30)};
  EXPECT_EQ(TokensOf(Draft(requests)), TokensOf(Plain(requests)));
  EXPECT_GT(counts_.accepted, 20);
}

std::string DeviceName(const testing::TestParamInfo<std::string>& info) { return info.param; }

INSTANTIATE_TEST_SUITE_P(Devices, DraftModelTest, testing::Values("cpu", "cuda"), DeviceName);
INSTANTIATE_TEST_SUITE_P(Devices, SmallDraftModelTest, testing::Values("cpu", "cuda"), DeviceName);

// A vocabulary of another size.
class OtherVocabulary : public WatchedEngine {
 public:
  using WatchedEngine::WatchedEngine;
  EngineLimits limits() const override {
    EngineLimits limits = WatchedEngine::limits();
    ++limits.vocab_size;
    return limits;
  }
};

TEST(DraftModel, OfAnotherVocabularyIsRefused) {
  const auto engine = DraftModelEngine::Create(
      Load("window_equal", OpenDevice("cpu")),
      std::make_unique<OtherVocabulary>(Load("softmax", OpenDevice("cpu"))), kDepth);
  EXPECT_EQ(engine.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(engine.status()), testing::HasSubstr("vocabulary is 289 tokens"));
}

TEST(DraftModel, RefusesRowsWhereNothingWasDrawn) {
  const auto device = OpenDevice("cpu");
  const auto engine =
      DraftModelEngine::Create(Load("window_equal", device), Load("softmax", device), kDepth)
          .value();
  const StateSlot slot = *engine->AcquireSlot();
  Batch batch;
  batch.AddChain(slot.index(), {{4, 5}});
  const SamplingParams greedy{.temperature = 0};
  RowRequest request;
  request.row = 1;
  request.sampling = &greedy;
  batch.requests = {request};
  ASSERT_TRUE(engine->Step(batch).ok());
  for (const int32_t row : {-1, 0, 2}) {
    EXPECT_EQ(engine->Draft({{row}}, 7).status().code(), StatusCode::kInvalidArgument) << row;
  }
  EXPECT_TRUE(engine->Draft({{1}}, 7).ok());
  batch.token_ids[0] = -1;
  EXPECT_FALSE(engine->Step(batch).ok());
  EXPECT_FALSE(engine->Draft({{1}}, 7).ok());
}

}  // namespace
}  // namespace treeline
