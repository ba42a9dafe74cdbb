// Continuations scored by a real engine against the log-probabilities of an independent float64
// model (tests/testdata/checkpoints/README.md), from kept states and without.
#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <vector>

#include "engine/base/json.h"
#include "engine/eval/likelihood.h"
#include "tests/engine_driver.h"

namespace treeline {
namespace {

class EvalTest : public testing::TestWithParam<const char*> {};

TEST_P(EvalTest, LikelihoodsMatchTheFloat64Model) {
  const std::string folder = std::string("tests/testdata/checkpoints/") + GetParam();
  const StatusOr<Json> oracle = ParseJsonFile(folder + "/oracle.json");
  ASSERT_TRUE(oracle.ok()) << oracle.status();
  // Of each prompt: what it says itself after its first tokens; and the tokens that may follow it.
  std::vector<Question> questions;
  std::vector<std::vector<double>> expected;
  for (const Json& prompt : (*oracle)["prompts"]) {
    const auto tokens = prompt["tokens"].get<std::vector<int32_t>>();
    const auto logprobs = prompt["logprobs"].get<std::vector<double>>();
    const auto next = prompt["next_logprobs"].get<std::vector<double>>();
    for (const size_t length : {1, 5, 60, 128, 700}) {
      if (length + 20 > tokens.size()) continue;
      const auto begin = tokens.begin() + length;
      questions.push_back({{tokens.begin(), begin}, {{begin, begin + 3}, {begin, begin + 20}}});
      const auto first = logprobs.begin() + length - 1;
      expected.push_back(
          {std::accumulate(first, first + 3, 0.0), std::accumulate(first, first + 20, 0.0)});
    }
    questions.push_back({tokens, {{7}, {8}, {280}}});
    expected.push_back({next[7], next[8], next[280]});
  }
  ASSERT_GE(questions.size(), 15u);

  for (const size_t cache : {size_t{0}, size_t{1} << 30}) {
    ModelEngine::Options options;
    options.matmul_kernel = "fp32";
    options.prefix_cache_memory = cache;
    const auto engine = LoadEngine(folder, options);
    ASSERT_NE(engine, nullptr);
    LikelihoodOptions scoring;
    scoring.max_batch_tokens = 48;
    scoring.on_scored = [&](size_t i, const std::vector<Likelihood>& likelihoods) {
      ASSERT_EQ(likelihoods.size(), expected[i].size());
      for (size_t c = 0; c < likelihoods.size(); ++c) {
        EXPECT_NEAR(likelihoods[c].logprob, expected[i][c], 1e-3 * likelihoods[c].num_tokens)
            << "question " << i << ", continuation " << c;
      }
    };
    EXPECT_EQ(ScoreQuestions(questions, scoring, *engine), OkStatus());
  }
}

INSTANTIATE_TEST_SUITE_P(All, EvalTest, testing::Values("softmax", "window_wider", "hybrid"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace treeline
