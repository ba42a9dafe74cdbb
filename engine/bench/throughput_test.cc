#include "engine/bench/throughput.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <tuple>
#include <utility>

#include "engine/backend/fake_device.h"
#include "engine/model/checkpoint.h"

namespace treeline {
namespace {

// Each reading is this much after the one before; the last interval repeats.
class ScriptedClock : public Clock {
 public:
  explicit ScriptedClock(std::vector<int> seconds) : seconds_(std::move(seconds)) {}
  TimePoint Now() const override {
    now_ += std::chrono::seconds(seconds_[next_]);
    next_ = std::min(next_ + 1, seconds_.size() - 1);
    return now_;
  }

 private:
  const std::vector<int> seconds_;
  mutable size_t next_ = 0;
  mutable TimePoint now_;
};

std::vector<int32_t> BinaryTree(int32_t nodes) {
  std::vector<int32_t> parents = {-1};
  for (int32_t i = 1; i < nodes; ++i) parents.push_back((i - 1) / 2);
  return parents;
}

ThroughputOptions Requests(std::vector<ThroughputOptions::Request> requests) {
  ThroughputOptions options;
  options.prompt = options.output = 0;
  options.requests = std::move(requests);
  options.repeats = 1;
  options.max_batch_tokens = 10;
  return options;
}

class ThroughputTest : public testing::Test {
 protected:
  // An engine that holds just `max_context` tokens.
  void Load(int32_t max_context, bool on_device = false) {
    auto checkpoint = Checkpoint::Open(model_);
    ASSERT_TRUE(checkpoint.ok());
    auto backend = CreateCpuBackend({.threads = 1, .matmul_kernel = "fp32"});
    ASSERT_TRUE(backend.ok());
    if (on_device) backend = std::make_unique<FakeDevice>(*std::move(backend));
    auto timed = std::make_unique<TimedBackend>(*std::move(backend), Clock::Real());
    backend_ = timed.get();
    ModelEngine::Options options;
    options.max_context = max_context;
    options.max_slots = 3;
    options.medusa_heads = heads_;
    auto engine = ModelEngine::Load(**checkpoint, options, std::move(timed));
    ASSERT_TRUE(engine.ok());
    engine_ = *std::move(engine);
  }

  std::string model_ = "tests/testdata/checkpoints/window_equal", heads_;
  std::unique_ptr<ModelEngine> engine_;
  TimedBackend* backend_ = nullptr;
};

TEST_F(ThroughputTest, RatesAreOfTheRepeatsWithoutTheWarmUp) {
  Load(40);
  ThroughputOptions options;
  options.prompt = 24;
  options.output = 0;
  options.contexts = {16};
  options.repeats = 3;
  options.max_batch_tokens = 10;
  // Of the warm-up and the repeats: the time before, and the time it takes.
  const ScriptedClock clock({0, 100, 7, 4, 7, 1, 7, 2});
  const auto results = MeasureThroughput(options, {}, clock, *engine_, *backend_);
  ASSERT_TRUE(results.ok()) << results.status();
  ASSERT_EQ(results->size(), 1);
  const Throughput& result = results->front();
  EXPECT_EQ(result.steps, 3);
  EXPECT_EQ(result.seconds, 2);
  EXPECT_EQ(result.tokens_per_second, 24 / 2.0);
  EXPECT_EQ(result.slowest, 24 / 4.0);
  EXPECT_EQ(result.fastest, 24 / 1.0);
}

TEST_F(ThroughputTest, OfADeviceOneMoreRepeatTellsWhereTimeGoes) {
  Load(40, /*on_device=*/true);
  ThroughputOptions options;
  options.prompt = 24;
  options.output = 0;
  options.contexts = {0};
  options.repeats = 1;
  const ScriptedClock clock({0, 100, 7, 4, 7, 60});
  const auto results = MeasureThroughput(options, {}, clock, *engine_, *backend_);
  ASSERT_TRUE(results.ok()) << results.status();
  const Throughput& result = results->front();
  EXPECT_EQ(result.seconds, 4);
  EXPECT_EQ(result.timed_seconds, 60);
  EXPECT_GT(result.operations.dense_seconds, 0);
  EXPECT_GT(result.operations.attention_seconds, 0);
  EXPECT_EQ(result.other_seconds(),
            60 - result.operations.dense_seconds - result.operations.attention_seconds);
}

// No repeat may find what another left: the engine holds no token more than one needs.
TEST_F(ThroughputTest, EveryRepeatStartsFromItsContext) {
  Load(20 + 12);
  ThroughputOptions options;
  options.prompt = 12;
  options.output = 12;
  options.contexts = {20, 0, 7};
  options.sequences = {1, 3};
  options.repeats = 2;
  std::vector<std::pair<int32_t, int32_t>> order;
  const auto progress = [&](const Throughput& next) {
    order.emplace_back(next.context, next.work == Work::kPrefill ? 0 : next.sequences);
  };
  const auto results = MeasureThroughput(options, progress, Clock::Real(), *engine_, *backend_);
  ASSERT_TRUE(results.ok()) << results.status();
  EXPECT_EQ(results->size(), 9);
  EXPECT_THAT(order, testing::ElementsAre(std::pair(0, 0), std::pair(0, 1), std::pair(0, 3),
                                          std::pair(7, 0), std::pair(7, 1), std::pair(7, 3),
                                          std::pair(20, 0), std::pair(20, 1), std::pair(20, 3)));
  EXPECT_EQ(engine_->free_slots(), 3);
}

TEST_F(ThroughputTest, OfATreeAPathIsCommitted) {
  for (const auto& [nodes, accepted] : {std::pair(1, 1), {2, 2}, {3, 2}, {4, 3}, {64, 3}}) {
    Load(20 + 4 * 3 + 64);
    ThroughputOptions options;
    options.prompt = 0;
    options.output = 4;
    options.contexts = {20};
    options.sequences = {2};
    options.tree = BinaryTree(nodes);
    options.repeats = 1;
    const auto results = MeasureThroughput(options, {}, Clock::Real(), *engine_, *backend_);
    ASSERT_TRUE(results.ok()) << results.status();
    ASSERT_EQ(results->size(), 2);  // A decode, and this.
    EXPECT_EQ(results->back().work, Work::kVerify);
    EXPECT_EQ(results->back().steps, 4);
    EXPECT_EQ(results->back().tokens, 2 * 4 * accepted) << nodes;
  }
}

TEST_F(ThroughputTest, TheLongestPathIsCommittedWhereverItIs) {
  Load(20 + 4 * 4 + 64);
  ThroughputOptions options;
  options.prompt = 0;
  options.output = 4;
  options.contexts = {20};
  options.tree = {-1, 0, 0, 2, 0, 3};  // 0, 2, 3, 5.
  options.tree_accepts = {0, 0, 0, 1};
  options.repeats = 1;
  const auto results = MeasureThroughput(options, {}, Clock::Real(), *engine_, *backend_);
  ASSERT_TRUE(results.ok()) << results.status();
  EXPECT_EQ(results->back().tokens, 4 * 4);
}

TEST_F(ThroughputTest, StepsAcceptInTheSharesTold) {
  // Of 64 nodes, where a path has 6: of any 4 steps 2 commit the root alone, 1 two nodes, 1 four.
  // Of 3 nodes a path has 2.
  for (const auto& [nodes, tokens] :
       {std::pair(64, 3 * (1 + 1 + 2 + 4)), {3, 3 * (1 + 1 + 2 + 2)}}) {
    Load(20 + 12 * 4 + 64);
    ThroughputOptions options;
    options.prompt = 0;
    options.output = 12;
    options.contexts = {20};
    options.tree = BinaryTree(nodes);
    options.tree_accepts = {200, 100, 0, 100};
    options.repeats = 1;
    const auto results = MeasureThroughput(options, {}, Clock::Real(), *engine_, *backend_);
    ASSERT_TRUE(results.ok()) << results.status();
    EXPECT_EQ(results->back().tokens, tokens) << nodes;
  }
}

TEST_F(ThroughputTest, ARequestTakesItsPrefillAndItsDecode) {
  Load(24 + 9);
  ThroughputOptions options = Requests({{.prompt = 24, .output = 9}});
  options.repeats = 3;
  // Of the warm-up and the repeats: the time before, that of the prefill and that of the decode.
  const ScriptedClock clock({0, 100, 100, 7, 1, 6, 7, 3, 1, 7, 2, 3});
  const auto results = MeasureRequests(options, {}, clock, *engine_, *backend_);
  ASSERT_TRUE(results.ok()) << results.status();
  ASSERT_EQ(results->size(), 1);
  const Latency& result = results->front();
  EXPECT_EQ(result.prompt, 24);
  EXPECT_EQ(result.output, 9);
  EXPECT_FALSE(result.speculative);
  EXPECT_EQ(result.decode_steps, 8);  // The prompt brings the first.
  EXPECT_EQ(result.seconds, 2 + 3);
  EXPECT_EQ(result.prefill_seconds, 2);
  EXPECT_EQ(result.decode_seconds(), 3);
  EXPECT_EQ(result.fastest, 3 + 1);
  EXPECT_EQ(result.slowest, 1 + 6);
}

// Each repeat is all of the request and nothing else: a product has 2 n k operations a row.
TEST_F(ThroughputTest, ARequestComputesEachOfItsTokensOnce) {
  Load(24 + 9);
  const auto operations = [&](int32_t prompt, int32_t output) {
    const auto results =
        MeasureRequests(Requests({{prompt, output}}), {}, Clock::Real(), *engine_, *backend_);
    EXPECT_TRUE(results.ok()) << results.status();
    return results->front().operations.dense_operations;
  };
  const double one = operations(1, 1);  // Of a row and its logits.
  const double row = operations(2, 1) - one;
  EXPECT_GT(row, 0);
  EXPECT_EQ(operations(24, 1), 23 * row + one);
  EXPECT_EQ(operations(24, 9), 23 * row + 9 * one);
}

TEST_F(ThroughputTest, RequestsAreAnsweredWithGuessesToo) {
  Load(24 + 13 + 64);
  ThroughputOptions options = Requests({{24, 13}, {3, 1}, {1, 2}});
  options.tree = BinaryTree(64);
  // 1, 2, 4, 1, 1, 2 and 4 tokens, of which 12 are wanted.
  options.tree_accepts = {200, 100, 0, 100};
  std::vector<std::tuple<int32_t, int32_t, bool>> asked;
  const auto progress = [&](const Latency& next) {
    asked.emplace_back(next.prompt, next.output, next.speculative);
  };
  const auto results = MeasureRequests(options, progress, Clock::Real(), *engine_, *backend_);
  ASSERT_TRUE(results.ok()) << results.status();
  EXPECT_THAT(asked, testing::ElementsAre(std::tuple(24, 13, false), std::tuple(24, 13, true),
                                          std::tuple(3, 1, false), std::tuple(1, 2, false),
                                          std::tuple(1, 2, true)));
  std::vector<int32_t> steps;
  for (const Latency& result : *results) steps.push_back(result.decode_steps);
  EXPECT_THAT(steps, testing::ElementsAre(12, 7, 0, 1, 1));
}

TEST_F(ThroughputTest, EachStepOfARequestAsksTheHeads) {
  model_ = "tests/testdata/checkpoints/hybrid";
  ThroughputOptions options = Requests({{5, 7}});
  options.tree = BinaryTree(3);
  std::vector<double> operations;
  for (const std::string& heads : {std::string(), model_ + "/medusa_lm_head.safetensors"}) {
    heads_ = heads;
    Load(5 + 7 + 3);
    const auto results = MeasureRequests(options, {}, Clock::Real(), *engine_, *backend_);
    ASSERT_TRUE(results.ok()) << results.status();
    ASSERT_EQ(results->back().decode_steps, 3);
    operations.push_back(results->back().operations.dense_operations);
  }
  // Each head is a square matrix and an output.
  const double hidden = engine_->config().hidden_size, vocab = engine_->config().vocab_size;
  const double of_heads =
      2 * engine_->limits().num_draft_heads * (hidden * hidden + hidden * vocab);
  EXPECT_GT(of_heads, 0);
  EXPECT_EQ(operations[1] - operations[0], 3 * of_heads);
}

TEST_F(ThroughputTest, RequestsAloneNeedNoContext) {
  Load(24 + 9);
  ThroughputOptions options = Requests({{24, 9}});
  options.contexts = {1000};
  EXPECT_EQ(options.longest(), 24 + 9);
  EXPECT_TRUE(MeasureRequests(options, {}, Clock::Real(), *engine_, *backend_).ok());
  const auto nothing = MeasureThroughput(options, {}, Clock::Real(), *engine_, *backend_);
  ASSERT_TRUE(nothing.ok());
  EXPECT_TRUE(nothing->empty());
}

TEST_F(ThroughputTest, WhatDoesNotFitIsRefused) {
  Load(30);
  ThroughputOptions options;
  options.prompt = 12;
  options.output = 12;
  options.contexts = {20};
  const auto too_long = MeasureThroughput(options, {}, Clock::Real(), *engine_, *backend_);
  EXPECT_THAT(Message(too_long.status()), testing::HasSubstr("--context 20"));
  options.contexts = {0};
  options.sequences = {4};
  const auto too_many = MeasureThroughput(options, {}, Clock::Real(), *engine_, *backend_);
  EXPECT_THAT(Message(too_many.status()), testing::HasSubstr("--sequences 4"));
  const auto request =
      MeasureRequests(Requests({{5, 5}, {20, 11}}), {}, Clock::Real(), *engine_, *backend_);
  EXPECT_THAT(Message(request.status()), testing::HasSubstr("--requests 20:11 takes 31 tokens"));
}

}  // namespace
}  // namespace treeline
