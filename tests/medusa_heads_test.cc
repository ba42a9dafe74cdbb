// Draft heads of small checkpoints against an independent float64 model
// (tests/testdata/checkpoints/README.md).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
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

std::unique_ptr<ModelEngine> LoadWithHeads(const std::string& name, int32_t num_heads) {
  ModelEngine::Options options = WithHeads(Folder(name) + "/medusa_lm_head.safetensors");
  // All guesses of every head, after the best of those before it.
  Json paths = Json::array();
  std::vector<int32_t> path;
  for (int32_t head = 0; head < num_heads; ++head) {
    path.push_back(0);
    for (; path.back() < kGuessesPerHead; ++path.back()) paths.push_back(path);
    path.back() = 0;
  }
  options.draft_choices = DraftChoices::Parse(paths, "test").value();
  return LoadEngine(Folder(name), options);
}

// What each head guesses, of the guesses of such a tree.
HeadGuesses ByHead(const Guesses& guesses) {
  HeadGuesses heads(guesses.size() / kGuessesPerHead);
  for (size_t i = 0; i < guesses.size(); ++i) {
    heads[i / kGuessesPerHead].emplace_back(guesses[i].token, std::log(guesses[i].probability));
  }
  return heads;
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
  const auto engine =
      LoadWithHeads(GetParam(), static_cast<int32_t>((*oracle)["prompts"][0]["medusa"].size()));
  ASSERT_NE(engine, nullptr);
  for (const Json& prompt : (*oracle)["prompts"]) {
    const auto tokens = prompt["tokens"].get<std::vector<int32_t>>();
    const StateSlot slot = *engine->AcquireSlot();
    const int32_t chunk = 200, size = static_cast<int32_t>(tokens.size());
    ScoreRows(*engine, slot, tokens, chunk, {0});
    const auto guesses = engine->Draft({{(size - 1) % chunk}}, 63);
    ASSERT_TRUE(guesses.ok()) << guesses.status();
    ExpectGuesses(ByHead(guesses->at(0)), prompt["medusa"]);
  }
}

// Rows of several trees at once, in any order, are what each is alone.
TEST_P(MedusaHeadsTest, GuessForAnyRowsOfAStep) {
  const auto engine = LoadWithHeads(GetParam(), 2);
  ASSERT_NE(engine, nullptr);
  const StateSlot slot = *engine->AcquireSlot(), other = *engine->AcquireSlot();
  Batch batch;
  batch.AddChain(slot.index(), {{4, 5, 6, 7}});
  batch.AddTree(other.index(), *TokenTree::Create({8, 9, 10}, {-1, 0, 0}));
  MustStep(*engine, batch);
  std::vector<int32_t> rows;
  for (int i = 0; i < 40; ++i) rows.push_back((i * 5 + 2) % 7);
  const auto together = engine->Draft(rows, 63);
  ASSERT_TRUE(together.ok()) << together.status();
  ASSERT_EQ(together->size(), rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ((*together)[i], engine->Draft({{rows[i]}}, 63)->at(0)) << i;
  }
  EXPECT_NE((*together)[0], (*together)[1]);
  EXPECT_EQ(engine->Draft({{7}}, 63).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(engine->Draft({{-1}}, 63).status().code(), StatusCode::kInvalidArgument);
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
  // A tree deeper than they reach.
  ModelEngine::Options options = WithHeads(Folder("hybrid") + "/medusa_lm_head.safetensors");
  options.draft_choices = DraftChoices::Load("mc_sim_7b_63").value();
  EXPECT_THAT(OpenEngine(Folder("hybrid"), options).status().ToString(),
              testing::HasSubstr("--draft-tree: its longest path takes 4 draft heads, but the "
                                 "model has 3"));
  // No heads at all.
  EXPECT_THAT(ErrorOf("hybrid", Folder("hybrid") + "/model.safetensors"),
              testing::HasSubstr("Medusa heads"));
}

}  // namespace
}  // namespace treeline
