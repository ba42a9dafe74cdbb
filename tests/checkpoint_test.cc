// Whole small checkpoints, in the released layout and in ours, against log-probabilities
// of an independent float64 model (tests/testdata/checkpoints/README.md); and the ways
// of computing the same rows against each other, bit for bit.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>

#include "engine/base/json.h"
#include "tests/engine_driver.h"

namespace treeline {
namespace {

constexpr double kTolerance = 1e-3;

class Checkpoint : public testing::TestWithParam<const char*> {
 protected:
  std::string dir() const { return std::string("tests/testdata/checkpoints/") + GetParam(); }
};

TEST_P(Checkpoint, LogProbabilitiesMatchTheFloat64Model) {
  const auto engine = LoadEngine(dir());
  ASSERT_NE(engine, nullptr);
  const StatusOr<Json> oracle = ParseJsonFile(dir() + "/oracle.json");
  ASSERT_TRUE(oracle.ok()) << oracle.status();
  const std::vector<int32_t> vocabulary = AllTokens(engine->limits().vocab_size);
  size_t longest = 0;
  for (const Json& prompt : (*oracle)["prompts"]) {
    const auto tokens = prompt["tokens"].get<std::vector<int32_t>>();
    longest = std::max(longest, tokens.size());
    const auto slot = engine->AcquireSlot();
    ASSERT_TRUE(slot.ok());
    const auto rows = ScoreRows(*engine, *slot, tokens, 200, vocabulary);
    double worst = 0;
    for (size_t i = 0; i + 1 < tokens.size(); ++i) {
      worst =
          std::max(worst, std::abs(rows[i][tokens[i + 1]] - prompt["logprobs"][i].get<double>()));
    }
    for (size_t id = 0; id < vocabulary.size(); ++id) {
      worst =
          std::max(worst, std::abs(rows.back()[id] - prompt["next_logprobs"][id].get<double>()));
    }
    EXPECT_LE(worst, kTolerance) << tokens.size() << " tokens";
  }
  EXPECT_GE(longest, 1000u);
}

// A row alone, in chunks, in a mixed batch, with other numbers of threads, after a snapshot:
// the same bits.
TEST_P(Checkpoint, RowsAreInvariant) {
  std::mt19937 rng(3);
  std::vector<int32_t> tokens(150), other(90);
  const auto random_tokens = [&](std::vector<int32_t>& ids) {
    for (int32_t& id : ids) id = std::uniform_int_distribution<int32_t>(3, 280)(rng);
  };
  random_tokens(tokens);
  random_tokens(other);

  ModelEngine::Options options;
  options.threads = 1;
  const auto engine = LoadEngine(dir(), options);
  ASSERT_NE(engine, nullptr);
  const std::vector<int32_t> vocabulary = AllTokens(engine->limits().vocab_size);
  const auto expected = ScoreRows(*engine, *engine->AcquireSlot(), tokens, 1, vocabulary);

  for (const int32_t threads : {1, 2, 3}) {
    options.threads = threads;
    const auto parallel = LoadEngine(dir(), options);
    for (const int32_t chunk : {7, 64, 150}) {
      EXPECT_EQ(ScoreRows(*parallel, *parallel->AcquireSlot(), tokens, chunk, vocabulary), expected)
          << threads << " threads, chunks of " << chunk;
    }

    // Beside another sequence's prompt chunk and a draft tree, decoding from a snapshot.
    const auto slot = parallel->AcquireSlot(), neighbour = parallel->AcquireSlot(),
               drafting = parallel->AcquireSlot(), restored = parallel->AcquireSlot();
    ScoreRows(*parallel, *slot, {tokens.begin(), tokens.begin() + 100}, 100, {0});
    ScoreRows(*parallel, *drafting, {other.begin(), other.begin() + 30}, 30, {0});
    const auto snapshot = parallel->pool().Snapshot(*slot);
    ASSERT_TRUE(snapshot.ok());
    parallel->pool().Restore(*restored, *snapshot);
    Batch batch;
    batch.AddChain(neighbour->index(), other);
    batch.AddTree(drafting->index(), *TokenTree::Create({5, 6, 7, 8}, {-1, 0, 0, 1}));
    const int32_t rows[] = {batch.AddChain(slot->index(), {{tokens[100]}}),
                            batch.AddChain(restored->index(), {{tokens[100]}})};
    for (const int32_t row : rows) {
      RowRequest request;
      request.row = row;
      request.score = vocabulary;
      batch.requests.push_back(request);
    }
    for (const RowResult& result : MustStep(*parallel, batch)) {
      EXPECT_EQ(result.scores, expected[100]);
    }
  }
}

// An accepted path of a draft tree leaves the state where plain decoding would: the same
// distributions, but for the reassociation of a fold inside the tree.
TEST_P(Checkpoint, AcceptedPathsContinueAsPlainDecoding) {
  const auto engine = LoadEngine(dir());
  ASSERT_NE(engine, nullptr);
  const std::vector<int32_t> vocabulary = AllTokens(engine->limits().vocab_size);
  std::mt19937 rng(4);
  std::vector<int32_t> tokens(80);
  for (int32_t& id : tokens) id = std::uniform_int_distribution<int32_t>(3, 280)(rng);
  const auto plain = ScoreRows(*engine, *engine->AcquireSlot(), tokens, 80, vocabulary);

  for (int32_t length = 1; length + 5 < 80; length += 3) {
    const auto slot = engine->AcquireSlot();
    ScoreRows(*engine, *slot, {tokens.begin(), tokens.begin() + length}, 80, {0});
    // Nodes 0, 2, 4, 5 spell the sequence's next tokens; 1 and 3 are wrong guesses.
    const auto next = [&](int32_t i) { return tokens[length + i]; };
    Batch batch;
    batch.AddTree(slot->index(), *TokenTree::Create({next(0), 3, next(1), 4, next(2), next(3)},
                                                    {-1, 0, 0, 1, 2, 4}));
    const std::vector<int32_t> path = {0, 2, 4, 5};
    for (const int32_t node : path) {
      RowRequest request;
      request.row = node;
      request.score = vocabulary;
      batch.requests.push_back(request);
    }
    const auto results = MustStep(*engine, batch);
    ASSERT_TRUE(engine->Commit(*slot, path).ok());
    std::vector<std::vector<float>> rows;
    for (const RowResult& result : results) rows.push_back(result.scores);
    const auto after = ScoreRows(*engine, *slot, {next(4)}, 1, vocabulary);
    rows.push_back(after[0]);
    for (int32_t i = 0; i < 5; ++i) {
      for (size_t id = 0; id < vocabulary.size(); ++id) {
        ASSERT_NEAR(rows[i][id], plain[length + i][id], 2e-4)
            << "length " << length << ", token " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Checkpoint,
                         testing::Values("softmax", "released_mha", "released_gqa", "window_equal",
                                         "window_wider", "window_narrower"),
                         [](const auto& info) { return std::string(info.param); });

TEST(ModelEngine, RefusesMalformedBatches) {
  const auto engine = LoadEngine("tests/testdata/checkpoints/window_equal");
  ASSERT_NE(engine, nullptr);
  const auto slot = engine->AcquireSlot();
  const auto code = [&](const Batch& batch) { return engine->Step(batch).status().code(); };
  Batch good;
  good.AddChain(slot->index(), {{5, 6, 7}});

  EXPECT_EQ(code(Batch()), StatusCode::kInvalidArgument);
  Batch unknown_slot;
  unknown_slot.AddChain(slot->index() + 1, {{5}});
  EXPECT_EQ(code(unknown_slot), StatusCode::kInvalidArgument);
  Batch slot_twice = good;
  slot_twice.AddChain(slot->index(), {{5}});
  EXPECT_EQ(code(slot_twice), StatusCode::kInvalidArgument);
  Batch unknown_token = good;
  unknown_token.token_ids[1] = 288;
  EXPECT_EQ(code(unknown_token), StatusCode::kInvalidArgument);
  Batch cycle = good;
  cycle.parents = {-1, 2, 1};
  EXPECT_EQ(code(cycle), StatusCode::kInvalidArgument);
  Batch offsets_fall = good;
  offsets_fall.AddChain(engine->AcquireSlot()->index(), {{5}});
  offsets_fall.tree_offsets = {0, 1'000'000, 4};
  EXPECT_EQ(code(offsets_fall), StatusCode::kInvalidArgument);
  Batch too_long;
  too_long.AddChain(slot->index(), std::vector<int32_t>(2049, 5));
  EXPECT_EQ(code(too_long), StatusCode::kInvalidArgument);
  Batch no_such_row = good;
  no_such_row.requests.resize(1);
  no_such_row.requests[0].row = 3;
  EXPECT_EQ(code(no_such_row), StatusCode::kInvalidArgument);

  // None of them has run: the state is still empty, and the good batch works.
  EXPECT_EQ(engine->pool().length(slot->index()), 0);
  EXPECT_EQ(code(good), StatusCode::kOk);
  EXPECT_EQ(engine->pool().length(slot->index()), 3);
  EXPECT_EQ(engine->Commit(*slot, std::vector<int32_t>{0}).code(), StatusCode::kInvalidArgument);
}

// A copy of a checkpoint's folder with another config.json.
std::string WithConfig(const std::string& checkpoint, const Json& changes) {
  namespace fs = std::filesystem;
  const fs::path source = "tests/testdata/checkpoints/" + checkpoint;
  const fs::path folder =
      fs::path(testing::TempDir()) / (checkpoint + std::to_string(std::hash<Json>()(changes)));
  fs::create_directories(folder);
  fs::copy_file(source / "model.safetensors", folder / "model.safetensors",
                fs::copy_options::overwrite_existing);
  Json config = *ParseJsonFile(source / "config.json");
  config.merge_patch(changes);
  std::ofstream(folder / "config.json") << config;
  return folder;
}

TEST(ModelEngine, RefusesCheckpointsThatDoNotFitTheirConfig) {
  const struct {
    const char* checkpoint;
    Json changes;
    std::vector<const char*> in_message;
  } cases[] = {
      {"softmax", {{"num_hidden_layers", 3}}, {"model.layers.2.input_layernorm.weight"}},
      {"softmax", {{"vocab_size", 300}}, {"model.embed_tokens.weight", "288", "300"}},
      {"softmax", {{"intermediate_size", 88}}, {"mlp.gate_proj.weight", "88"}},
      {"softmax", {{"tie_word_embeddings", false}}, {"lm_head.weight"}},
      // A linearized checkpoint must not be read as a softmax one, nor with half of its form.
      {"window_equal", {{"linear_attention", nullptr}}, {"self_attn.", "linear_attention"}},
      {"window_equal", {{"linear_attention", {{"decay", "none"}}}}, {"decay", "linear_attention"}},
      {"window_equal", {{"linear_attention", {{"conv_kernel", 9}}}}, {"dwconv.weight", "9"}},
      {"released_mha", {{"linear_attention", {{"decay", "head"}}}}, {"self_attn.decay"}},
  };
  for (const auto& c : cases) {
    ModelEngine::Options options;
    options.model_dir = WithConfig(c.checkpoint, c.changes);
    const Status status = ModelEngine::Load(options).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << c.changes << status;
    for (const char* part : c.in_message) {
      EXPECT_NE(Message(status).find(part), std::string::npos) << c.changes << status;
    }
  }
}

TEST(ModelEngine, CommitTakesOnlyPathsOfTheLastStepsTree) {
  const auto engine = LoadEngine("tests/testdata/checkpoints/window_equal");
  ASSERT_NE(engine, nullptr);
  const auto run_tree = [&](const StateSlot& slot) {
    Batch batch;
    batch.AddTree(slot.index(), *TokenTree::Create({5, 6, 7}, {-1, 0, 0}));
    MustStep(*engine, batch);
  };
  const auto commit = [&](const StateSlot& slot, std::vector<int32_t> path) {
    return engine->Commit(slot, path).code();
  };
  int32_t index;
  {
    const auto slot = engine->AcquireSlot();
    index = slot->index();
    run_tree(*slot);
    EXPECT_EQ(commit(*slot, {0, 1, 2}), StatusCode::kInvalidArgument);  // 2 hangs from 0.
    EXPECT_EQ(commit(*slot, {1}), StatusCode::kInvalidArgument);
    EXPECT_EQ(commit(*slot, {0, 3}), StatusCode::kInvalidArgument);
    EXPECT_EQ(commit(*slot, {0, 2}), StatusCode::kOk);
    EXPECT_EQ(engine->pool().length(index), 2);
    EXPECT_EQ(commit(*slot, {0}), StatusCode::kInvalidArgument);  // Taken already.
    run_tree(*slot);
  }
  // The slot's next sequence has no tree.
  const auto slot = engine->AcquireSlot();
  ASSERT_EQ(slot->index(), index);
  EXPECT_EQ(commit(*slot, {0}), StatusCode::kInvalidArgument);
}

TEST(ModelEngine, SaysWhichFlagsWhenNoStateFits) {
  ModelEngine::Options options;
  options.model_dir = "tests/testdata/checkpoints/softmax";
  options.state_memory = 1000;
  const auto engine = ModelEngine::Load(options);
  ASSERT_EQ(engine.status().code(), StatusCode::kResourceExhausted);
  EXPECT_NE(Message(engine.status()).find("--state-memory"), std::string::npos);
}

TEST(ModelEngine, OnlyLinearizedModelsRunPastTheirTrainedContext) {
  ModelEngine::Options options;
  options.max_context = 4096;
  options.model_dir = "tests/testdata/checkpoints/softmax";
  EXPECT_EQ(ModelEngine::Load(options).status().code(), StatusCode::kInvalidArgument);
  const auto linearized = LoadEngine("tests/testdata/checkpoints/window_equal", options);
  ASSERT_NE(linearized, nullptr);
  EXPECT_EQ(linearized->limits().max_context, 4096);
  EXPECT_EQ(linearized->warnings().size(), 1u);
}

}  // namespace
}  // namespace treeline
