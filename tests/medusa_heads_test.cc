// Draft heads of small checkpoints against an independent float64 model
// (tests/testdata/checkpoints/README.md).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "engine/base/file.h"
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

SamplingParams Greedy() {
  SamplingParams greedy;
  greedy.temperature = 0;
  return greedy;
}

// The tokens follow those of the slot, and after the last one the likeliest is drawn. Its row.
int32_t StepAndDraw(ModelEngine& engine, const StateSlot& slot, std::span<const int32_t> tokens) {
  const SamplingParams greedy = Greedy();
  Batch batch;
  batch.AddChain(slot.index(), tokens);
  const int32_t row = batch.num_tokens() - 1;
  batch.requests.push_back({.row = row, .sampling = &greedy});
  MustStep(engine, batch);
  return row;
}

TEST_P(MedusaHeadsTest, GuessWhatTheFloat64ModelGuesses) {
  const StatusOr<Json> oracle = ParseJsonFile(Folder(GetParam()) + "/oracle.json");
  ASSERT_TRUE(oracle.ok()) << oracle.status();
  const auto engine =
      LoadWithHeads(GetParam(), static_cast<int32_t>((*oracle)["prompts"][0]["medusa"].size()));
  ASSERT_NE(engine, nullptr);
  for (const Json& prompt : (*oracle)["prompts"]) {
    const auto tokens = prompt["tokens"].get<std::vector<int32_t>>();
    const StateSlot slot = *engine->AcquireSlot();
    const size_t chunk = 200, last = (tokens.size() - 1) / chunk * chunk;
    const auto first = tokens.begin() + static_cast<ptrdiff_t>(last);
    ScoreRows(*engine, slot, {tokens.begin(), first}, chunk, {0});
    const int32_t row = StepAndDraw(*engine, slot, {first, tokens.end()});
    const auto guesses = engine->Draft({{row}}, 63);
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
  const SamplingParams greedy = Greedy();
  for (int32_t row = 0; row < 7; ++row) {
    batch.requests.push_back({.row = row, .sampling = &greedy});
  }
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

// An engine with heads leaves accepted nodes to its next call: whichever that is.
TEST_P(MedusaHeadsTest, AcceptedNodesAreCommittedByWhateverCallComesNext) {
  const std::vector<int32_t> prompt = {4, 5, 6, 7}, accepted = {8, 10}, next = {11};
  const auto plain = LoadEngine(Folder(GetParam()), WithHeads(""));
  ASSERT_NE(plain, nullptr);
  const StateSlot chain = *plain->AcquireSlot();
  ScoreRows(*plain, chain, prompt, 4, {0});
  ScoreRows(*plain, chain, accepted, 4, {0});
  const std::vector<float> expected = ScoreRows(*plain, chain, next, 1, AllTokens(288))[0];

  using Call = std::function<StateSlot(ModelEngine&, StateSlot)>;
  const std::map<std::string, Call> calls = {
      {"Step", [](ModelEngine&, StateSlot slot) { return slot; }},
      {"Draft",
       [](ModelEngine& engine, StateSlot slot) {
         EXPECT_TRUE(engine.Draft({{2}}, 63).ok());
         return slot;
       }},
      {"KeepPrefix, and the copy is what goes on",
       [](ModelEngine& engine, StateSlot slot) {
         const std::vector<int32_t> tokens = {4, 5, 6, 7, 8, 10};
         engine.KeepPrefix(slot, tokens);
         slot = *engine.AcquireSlot();
         EXPECT_EQ(engine.RestorePrefix(slot, tokens).length, 6);
         return slot;
       }},
      {"Commit for another sequence",
       [](ModelEngine& engine, StateSlot slot) {
         EXPECT_TRUE(engine.Commit({}).ok());
         return slot;
       }},
  };
  for (const auto& [name, call] : calls) {
    ModelEngine::Options options = WithHeads(Folder(GetParam()) + "/medusa_lm_head.safetensors");
    options.prefix_cache_memory = size_t{1} << 20;
    const auto engine = LoadEngine(Folder(GetParam()), options);
    ASSERT_NE(engine, nullptr);
    StateSlot slot = *engine->AcquireSlot();
    ScoreRows(*engine, slot, prompt, 4, {0});
    const SamplingParams greedy = Greedy();
    Batch batch;
    batch.AddTree(slot.index(), *TokenTree::Create({8, 9, 10}, {-1, 0, 0}));
    batch.requests.push_back({.row = 2, .sampling = &greedy});
    MustStep(*engine, batch);
    ASSERT_TRUE(engine->Commit({{{slot.index(), {0, 2}}}}).ok());
    slot = call(*engine, std::move(slot));
    const std::vector<float> actual = ScoreRows(*engine, slot, next, 1, AllTokens(288))[0];
    EXPECT_THAT(actual, testing::Pointwise(testing::FloatNear(1e-4f), expected)) << name;
  }
}

// The memory of a slot is not written for a sequence that has given it back.
TEST_P(MedusaHeadsTest, AcceptedNodesDoNotReachTheSlotsNextSequence) {
  const auto engine =
      LoadEngine(Folder(GetParam()), WithHeads(Folder(GetParam()) + "/medusa_lm_head.safetensors"));
  ASSERT_NE(engine, nullptr);
  const std::vector<int32_t> tokens = {20, 21, 22, 23};
  std::vector<float> expected;
  {
    const StateSlot slot = *engine->AcquireSlot();
    expected = ScoreRows(*engine, slot, tokens, 1, AllTokens(288))[3];
  }
  int32_t index = -1;
  {
    const StateSlot slot = *engine->AcquireSlot();
    index = slot.index();
    Batch batch;
    batch.AddTree(index, *TokenTree::Create({8, 9, 10}, {-1, 0, 0}));
    MustStep(*engine, batch);
    ASSERT_TRUE(engine->Commit({{{index, {0, 2}}}}).ok());
  }
  const StateSlot slot = *engine->AcquireSlot();
  ASSERT_EQ(slot.index(), index);
  EXPECT_EQ(ScoreRows(*engine, slot, tokens, 1, AllTokens(288))[3], expected);
}

// Those of window_equal see the token that was drawn.
INSTANTIATE_TEST_SUITE_P(All, MedusaHeadsTest,
                         testing::Values("hybrid", "released_gqa", "window_equal"),
                         [](const auto& info) { return std::string(info.param); });

TEST(MedusaHeads, ThatSeeTheTokenDrawnGuessOnlyWhereOneWas) {
  const auto engine = LoadWithHeads("window_equal", 2);
  ASSERT_NE(engine, nullptr);
  const StateSlot slot = *engine->AcquireSlot();
  ScoreRows(*engine, slot, {4, 5}, 2, {0});
  const auto guesses = engine->Draft({{1}}, 63);
  EXPECT_EQ(guesses.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(guesses.status().ToString(), testing::HasSubstr("no token was drawn at row 1"));
}

// A file of heads with other tensors beside them.
class HeadsFileTest : public testing::Test {
 protected:
  struct Tensor {
    std::string type;
    int64_t size;
    std::string bytes;
  };
  template <typename T>
  static Tensor List(const std::string& type, const std::vector<T>& values) {
    return {type, static_cast<int64_t>(values.size()),
            std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T))};
  }

  // The heads of the checkpoint `hybrid` and these.
  std::string Write(const std::map<std::string, Tensor>& added) {
    const std::string heads = ReadFile(Folder("hybrid") + "/medusa_lm_head.safetensors").value();
    uint64_t size;
    std::memcpy(&size, heads.data(), sizeof(size));
    Json header = *ParseJson(heads.substr(sizeof(size), size), "heads");
    std::string data = heads.substr(sizeof(size) + size);
    for (const auto& [name, tensor] : added) {
      header[name] = {{"dtype", tensor.type},
                      {"shape", {tensor.size}},
                      {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
      data += tensor.bytes;
    }
    const std::string text = header.dump();
    size = text.size();
    const std::string file = testing::TempDir() + "/heads_and_pairs.safetensors";
    std::ofstream(file, std::ios::binary)
        << std::string(reinterpret_cast<const char*>(&size), sizeof(size)) << text << data;
    return file;
  }

  // Pairs of which only `first` has one.
  std::map<std::string, Tensor> OnePair(int32_t first, int32_t second, float score) {
    std::vector<int32_t> starts(kVocab + 1, 0);
    std::fill(starts.begin() + first + 1, starts.end(), 1);
    return {{"pairs.starts", List("I32", starts)},
            {"pairs.seconds", List<int32_t>("I32", {second})},
            {"pairs.scores", List<float>("F32", {score})}};
  }

  static constexpr int32_t kVocab = 288;
};

TEST_F(HeadsFileTest, TheTokenDrawnSaysWhichGuessComesFirst) {
  const SamplingParams greedy = Greedy();
  const auto guess = [&](ModelEngine& engine, bool draw, int32_t* drawn) {
    const StateSlot slot = *engine.AcquireSlot();
    Batch batch;
    batch.AddChain(slot.index(), {{4, 5, 6, 7}});
    if (draw) batch.requests.push_back({.row = 3, .sampling = &greedy});
    const auto results = engine.Step(batch).value();
    if (draw) *drawn = results[0].token;
    return engine.Draft({{3}}, 63).value()[0];
  };
  const auto alone = LoadWithHeads("hybrid", 1);
  ASSERT_NE(alone, nullptr);
  int32_t drawn = -1;
  const Guesses ranked = guess(*alone, true, &drawn);
  const int32_t fifth = ranked[4].token;

  const auto engine = LoadEngine(Folder("hybrid"), WithHeads(Write(OnePair(drawn, fifth, 30))));
  ASSERT_NE(engine, nullptr);
  EXPECT_EQ(guess(*engine, true, &drawn)[0].token, fifth);
  // Where nothing was drawn, nothing is known of what comes before.
  EXPECT_EQ(guess(*engine, false, &drawn)[0].token, ranked[0].token);
}

TEST_F(HeadsFileTest, WhatIsNoPairsIsRefusedByName) {
  const auto error = [&](const std::string& name, const Tensor& tensor) {
    std::map<std::string, Tensor> tensors = OnePair(1, 2, 3);
    tensors[name] = tensor;
    return OpenEngine(Folder("hybrid"), WithHeads(Write(tensors))).status().ToString();
  };
  EXPECT_THAT(error("pairs.starts", List<int64_t>("I64", {0, 1})),
              testing::HasSubstr("tensor pairs.starts is not a list of 32-bit integers"));
  EXPECT_THAT(error("pairs.starts", List<int32_t>("I32", {0, 1})),
              testing::HasSubstr("tensor pairs.starts: 2 elements; the model's vocabulary needs"));
  EXPECT_THAT(error("pairs.seconds", List<float>("F32", {2})),
              testing::HasSubstr("tensor pairs.seconds is not a list of 32-bit integers"));
  EXPECT_THAT(error("pairs.seconds", List<int32_t>("I32", {kVocab})),
              testing::HasSubstr("tokens that follow token 1"));
  EXPECT_THAT(error("pairs.scores", List<int32_t>("I32", {2})),
              testing::HasSubstr("tensor pairs.scores is not a list of F64, F32, F16 or BF16"));
}

TEST_F(HeadsFileTest, HeadsThatSeeTheTokenDrawnInPartAreRefusedByName) {
  std::map<std::string, Tensor> own = {
      {"0.0.res_connection.weight", List<float>("F32", {1})},
      {"0.0.res_connection.bias", List<float>("F32", {1})},
  };
  const auto error = [&] {
    return OpenEngine(Folder("hybrid"), WithHeads(Write(own))).status().ToString();
  };
  EXPECT_THAT(error(), testing::HasSubstr("8 tensors; 1 to 16 Medusa heads"));
  for (const char* head : {"1", "2"}) {
    own[std::string(head) + ".0.res_connection.weight"] = List<float>("F32", {1});
    own[std::string(head) + ".0.res_connection.bias"] = List<float>("F32", {1});
  }
  EXPECT_THAT(error(),
              testing::HasSubstr("0.0.linear.weight: shape [48, 48]; the model needs [48, 96]"));
}

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
