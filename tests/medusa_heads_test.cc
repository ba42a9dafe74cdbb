// Draft heads of small checkpoints against an independent float64 model
// (tests/testdata/checkpoints/README.md).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "engine/base/json.h"
#include "tests/engine_driver.h"

namespace treeline {
namespace {

constexpr double kTolerance = 1e-3;

std::string Folder(const std::string& name) { return "tests/testdata/checkpoints/" + name; }

ModelEngine::Options WithHeads(const std::string& file) {
  ModelEngine::Options options;
  options.matmul_kernel = "fp32";
  options.medusa_heads = file;
  return options;
}

std::unique_ptr<ModelEngine> LoadWithHeads(const std::string& name) {
  return LoadEngine(Folder(name), WithHeads(Folder(name) + "/medusa_lm_head.safetensors"));
}

void ExpectGuesses(const HeadGuesses& actual, const Json& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t head = 0; head < actual.size(); ++head) {
    ASSERT_EQ(actual[head].size(), expected[head].size());
    for (size_t rank = 0; rank < actual[head].size(); ++rank) {
      const auto& [token, logprob] = actual[head][rank];
      EXPECT_NEAR(logprob, expected[head][rank][1].get<double>(), kTolerance);
      // Tokens as likely as each other may change places.
      const auto same = [&, token = token](const Json& guess) { return guess[0] == token; };
      const auto found = std::find_if(expected[head].begin(), expected[head].end(), same);
      if (found == expected[head].end()) {
        EXPECT_NEAR(logprob, expected[head].back()[1].get<double>(), kTolerance);
      } else {
        EXPECT_NEAR(logprob, (*found)[1].get<double>(), kTolerance);
      }
    }
  }
}

class MedusaHeadsTest : public testing::TestWithParam<const char*> {};

TEST_P(MedusaHeadsTest, GuessWhatTheFloat64ModelGuesses) {
  const StatusOr<Json> oracle = ParseJsonFile(Folder(GetParam()) + "/oracle.json");
  ASSERT_TRUE(oracle.ok()) << oracle.status();
  const auto engine = LoadWithHeads(GetParam());
  ASSERT_NE(engine, nullptr);
  for (const Json& prompt : (*oracle)["prompts"]) {
    const auto tokens = prompt["tokens"].get<std::vector<int32_t>>();
    const StateSlot slot = *engine->AcquireSlot();
    const int32_t chunk = 200, size = static_cast<int32_t>(tokens.size());
    ScoreRows(*engine, slot, tokens, chunk, {0});
    const auto guesses = engine->Draft({{(size - 1) % chunk}});
    ASSERT_TRUE(guesses.ok()) << guesses.status();
    ExpectGuesses(guesses->at(0), prompt["medusa"]);
  }
}

// Rows of several trees at once, in any order, are what each is alone.
TEST_P(MedusaHeadsTest, GuessForAnyRowsOfAStep) {
  const auto engine = LoadWithHeads(GetParam());
  ASSERT_NE(engine, nullptr);
  const StateSlot slot = *engine->AcquireSlot(), other = *engine->AcquireSlot();
  Batch batch;
  batch.AddChain(slot.index(), {{4, 5, 6, 7}});
  batch.AddTree(other.index(), *TokenTree::Create({8, 9, 10}, {-1, 0, 0}));
  MustStep(*engine, batch);
  std::vector<int32_t> rows;
  for (int i = 0; i < 40; ++i) rows.push_back((i * 5 + 2) % 7);
  const auto together = engine->Draft(rows);
  ASSERT_TRUE(together.ok()) << together.status();
  ASSERT_EQ(together->size(), rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ((*together)[i], engine->Draft({{rows[i]}})->at(0)) << i;
  }
  EXPECT_NE((*together)[0], (*together)[1]);
  EXPECT_EQ(engine->Draft({{7}}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(engine->Draft({{-1}}).status().code(), StatusCode::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(All, MedusaHeadsTest, testing::Values("hybrid", "released_gqa"),
                         [](const auto& info) { return std::string(info.param); });

std::string ErrorOf(const std::string& model, const std::string& file) {
  return OpenEngine(Folder(model), WithHeads(file)).status().ToString();
}

TEST(MedusaHeads, BadFilesAreRefusedByName) {
  EXPECT_THAT(ErrorOf("hybrid", "no/such.safetensors"), testing::HasSubstr("no/such.safetensors"));
  // Of another size.
  EXPECT_THAT(ErrorOf("hybrid", Folder("released_gqa") + "/medusa_lm_head.safetensors"),
              testing::HasSubstr("0.0.linear.weight: shape [64, 64]; the model needs [48, 48]"));
  // No heads at all.
  EXPECT_THAT(ErrorOf("hybrid", Folder("hybrid") + "/model.safetensors"),
              testing::HasSubstr("Medusa heads"));
}

}  // namespace
}  // namespace treeline
