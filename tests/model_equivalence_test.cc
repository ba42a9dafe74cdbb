// Whole small checkpoints on a GPU: against log-probabilities of an independent float64 model
// (tests/testdata/checkpoints/README.md), and against the CPU in the types that a GPU serves with,
// teacher-forced. Differences are printed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>

#include "engine/base/json.h"
#include "tests/device_sequences.h"
#include "tests/engine_driver.h"

namespace treeline {
namespace {

class ModelEquivalence : public testing::TestWithParam<const char*> {
 protected:
  std::string dir() const { return std::string("tests/testdata/checkpoints/") + GetParam(); }

  std::unique_ptr<ModelEngine> Load(const std::string& device, WeightType weights, StateType state,
                                    int32_t max_context) {
    auto backend = MakeBackend(device);
    if (backend == nullptr) return nullptr;
    ModelEngine::Options options;
    options.weight_type = weights;
    options.state_type = state;
    options.max_context = max_context;
    options.max_slots = 4;
    const auto checkpoint = Checkpoint::Open(dir());
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    auto engine = ModelEngine::Load(**checkpoint, options, std::move(backend));
    EXPECT_TRUE(engine.ok()) << engine.status();
    return engine.ok() ? *std::move(engine) : nullptr;
  }
};

TEST_P(ModelEquivalence, Fp32MatchesTheFloat64Model) {
  constexpr double kTolerance = 1e-3;  // The CPU's, for the same oracle.
  const StatusOr<Json> oracle = ParseJsonFile(dir() + "/oracle.json");
  ASSERT_TRUE(oracle.ok()) << oracle.status();
  const auto engine =
      Load("cuda", WeightType::kF32, StateType::kF32, oracle->value("max_context", 0));
  ASSERT_NE(engine, nullptr);
  const std::vector<int32_t> vocabulary = AllTokens(engine->limits().vocab_size);
  double worst = 0;
  for (const Json& prompt : (*oracle)["prompts"]) {
    const auto tokens = prompt["tokens"].get<std::vector<int32_t>>();
    const auto rows = ScoreRows(*engine, *engine->AcquireSlot(), tokens, 200, vocabulary);
    for (size_t i = 0; i + 1 < tokens.size(); ++i) {
      worst =
          std::max(worst, std::abs(rows[i][tokens[i + 1]] - prompt["logprobs"][i].get<double>()));
    }
  }
  std::printf("%s: fp32 on the GPU, largest difference of a log-probability from float64: %.1e\n",
              GetParam(), worst);
  EXPECT_LE(worst, kTolerance);
}

// bf16 weights and rings: the CPU rounds no activations, the GPU those of products and attention.
TEST_P(ModelEquivalence, Bf16AgreesWithTheCpu) {
  // Random weights make steep logits: the largest of 100,000 differences, in one of ten models.
  constexpr double kTolerance = 0.6, kMeanTolerance = 0.04;
  constexpr int32_t kTokens = 400, kPrompt = 350;
  const StatusOr<Json> oracle = ParseJsonFile(dir() + "/oracle.json");
  ASSERT_TRUE(oracle.ok()) << oracle.status();
  const int32_t max_context = oracle->value("max_context", 0);
  std::mt19937 rng(5);
  std::vector<int32_t> tokens(kTokens);
  for (int32_t& id : tokens) id = std::uniform_int_distribution<int32_t>(3, 280)(rng);
  std::vector<std::vector<float>> scores[2];
  for (const char* device : {"cpu", "cuda"}) {
    const auto engine = Load(device, WeightType::kBF16, StateType::kBF16, max_context);
    ASSERT_NE(engine, nullptr);
    const auto slot = engine->AcquireSlot();
    const std::vector<int32_t> vocabulary = AllTokens(engine->limits().vocab_size);
    auto& rows = scores[device == std::string("cuda")];
    rows = ScoreRows(*engine, *slot, {tokens.begin(), tokens.begin() + kPrompt}, 150, vocabulary);
    for (auto& row :
         ScoreRows(*engine, *slot, {tokens.begin() + kPrompt, tokens.end()}, 1, vocabulary)) {
      rows.push_back(std::move(row));
    }
  }
  ASSERT_EQ(scores[0].size(), tokens.size());
  double largest = 0, sum = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    for (size_t id = 0; id < scores[0][i].size(); ++id) {
      const double difference = std::abs(double{scores[0][i][id]} - scores[1][i][id]);
      largest = std::max(largest, difference);
      sum += difference / scores[0][i].size();
    }
  }
  int32_t flips = 0, unexplained = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const auto best = std::max_element(scores[0][i].begin(), scores[0][i].end());
    const auto other = std::max_element(scores[1][i].begin(), scores[1][i].end());
    const int64_t at = other - scores[1][i].begin();
    if (best - scores[0][i].begin() == at) continue;
    ++flips;
    unexplained += *best - scores[0][i][at] > 2 * largest;
  }
  std::printf(
      "%s: bf16, GPU from CPU over %zu tokens: largest difference of a log-probability %.1e, mean "
      "%.1e; %d of the most probable tokens differ\n",
      GetParam(), tokens.size(), largest, sum / tokens.size(), flips);
  EXPECT_LE(largest, kTolerance);
  EXPECT_LE(sum / tokens.size(), kMeanTolerance);
  EXPECT_EQ(unexplained, 0);
}

INSTANTIATE_TEST_SUITE_P(All, ModelEquivalence,
                         testing::Values("softmax", "released_mha", "released_gqa", "window_equal",
                                         "window_wider", "window_narrower", "llama3_biases",
                                         "qwen2_yarn", "mistral_linear", "qwen2_window_dynamic",
                                         "hybrid"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace treeline
