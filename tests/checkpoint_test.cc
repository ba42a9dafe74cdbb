// Whole small checkpoints, in the released layout and in ours, against log-probabilities
// of an independent float64 model (tests/testdata/checkpoints/README.md); and the ways
// of computing the same rows against each other, bit for bit.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>

#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/model/adapter.h"
#include "kernels/cpu/matmul_kernel.h"
#include "tests/engine_driver.h"

namespace treeline {
namespace {

constexpr double kTolerance = 1e-3;

// With the kernel that takes activations as they are. Any other would do where an engine is
// compared with itself, but engines choose theirs by measuring, and two may choose differently.
ModelEngine::Options Exact() {
  ModelEngine::Options options;
  options.matmul_kernel = "fp32";
  return options;
}

// The largest difference of a log-probability from an oracle.json, over all its prompts, of which
// one is long.
double LargestError(ModelEngine& engine, const Json& oracle) {
  const std::vector<int32_t> vocabulary = AllTokens(engine.limits().vocab_size);
  size_t longest = 0;
  double worst = 0;
  for (const Json& prompt : oracle["prompts"]) {
    const auto tokens = prompt["tokens"].get<std::vector<int32_t>>();
    longest = std::max(longest, tokens.size());
    const auto rows = ScoreRows(engine, *engine.AcquireSlot(), tokens, 200, vocabulary);
    for (size_t i = 0; i + 1 < tokens.size(); ++i) {
      worst =
          std::max(worst, std::abs(rows[i][tokens[i + 1]] - prompt["logprobs"][i].get<double>()));
    }
    for (size_t id = 0; id < vocabulary.size(); ++id) {
      worst =
          std::max(worst, std::abs(rows.back()[id] - prompt["next_logprobs"][id].get<double>()));
    }
  }
  EXPECT_GE(longest, 1000u);
  return worst;
}

class SmallCheckpoint : public testing::TestWithParam<const char*> {
 protected:
  std::string dir() const { return std::string("tests/testdata/checkpoints/") + GetParam(); }
};

TEST_P(SmallCheckpoint, LogProbabilitiesMatchTheFloat64Model) {
  const StatusOr<Json> oracle = ParseJsonFile(dir() + "/oracle.json");
  ASSERT_TRUE(oracle.ok()) << oracle.status();
  ModelEngine::Options options = Exact();
  options.max_context = oracle->value("max_context", 0);
  const auto engine = LoadEngine(dir(), options);
  ASSERT_NE(engine, nullptr);
  EXPECT_LE(LargestError(*engine, *oracle), kTolerance);
}

// A row alone, in chunks, in a mixed batch, with other numbers of threads, after a snapshot:
// the same bits.
void ExpectRowsAreInvariant(const std::string& dir, ModelEngine::Options options,
                            const std::vector<int32_t>& thread_counts) {
  std::mt19937 rng(3);
  std::vector<int32_t> tokens(150), other(90);
  const auto random_tokens = [&](std::vector<int32_t>& ids) {
    for (int32_t& id : ids) id = std::uniform_int_distribution<int32_t>(3, 280)(rng);
  };
  random_tokens(tokens);
  random_tokens(other);

  options.threads = 1;
  const auto engine = LoadEngine(dir, options);
  ASSERT_NE(engine, nullptr);
  const std::vector<int32_t> vocabulary = AllTokens(engine->limits().vocab_size);
  const auto expected = ScoreRows(*engine, *engine->AcquireSlot(), tokens, 1, vocabulary);

  for (const int32_t threads : thread_counts) {
    options.threads = threads;
    const auto parallel = LoadEngine(dir, options);
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

TEST_P(SmallCheckpoint, RowsAreInvariant) { ExpectRowsAreInvariant(dir(), Exact(), {1, 2, 3}); }

TEST_P(SmallCheckpoint, RowsAreInvariantInEveryKernelOfDenseProducts) {
  for (const WeightType type : {WeightType::kBF16, WeightType::kInt8, WeightType::kInt4}) {
    for (const cpu::MatMulKernel* kernel : cpu::MatMulKernels(type)) {
      // The vocabulary's matrices are int8 where others are int4.
      if (type == WeightType::kInt4 && !kernel->Takes(WeightType::kInt8)) continue;
      SCOPED_TRACE(std::string(kernel->name) + ", type " + std::to_string(static_cast<int>(type)));
      ModelEngine::Options options = Exact();
      options.weight_type = type;
      options.matmul_kernel = kernel->name;
      ExpectRowsAreInvariant(dir(), options, {2});
    }
  }
}

// An accepted path of a draft tree leaves the state where plain decoding would: the same
// distributions, but for the reassociation of a fold inside the tree.
TEST_P(SmallCheckpoint, AcceptedPathsContinueAsPlainDecoding) {
  const auto engine = LoadEngine(dir(), Exact());
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
    ASSERT_TRUE(engine->Commit({{{slot->index(), path}}}).ok());
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

// A sequence that goes on from another's kept state, at any length, has the same bits as one that
// computed everything.
TEST_P(SmallCheckpoint, KeptPrefixesChangeNothing) {
  ModelEngine::Options options = Exact();
  options.prefix_cache_memory = 1 << 30;
  const auto engine = LoadEngine(dir(), options);
  ASSERT_NE(engine, nullptr);
  const std::vector<int32_t> vocabulary = AllTokens(engine->limits().vocab_size);
  std::mt19937 rng(6);
  std::vector<int32_t> tokens(60);
  for (int32_t& id : tokens) id = std::uniform_int_distribution<int32_t>(3, 280)(rng);
  const std::span<const int32_t> all = tokens;
  const auto plain = ScoreRows(*engine, *engine->AcquireSlot(), tokens, 60, vocabulary);

  for (int32_t length = 1; length < 60; ++length) {
    {
      const auto slot = engine->AcquireSlot();
      const std::vector<int32_t> prefix(tokens.begin(), tokens.begin() + length);
      ScoreRows(*engine, *slot, prefix, 7, {0});
      engine->KeepPrefix(*slot, prefix);
    }
    const auto slot = engine->AcquireSlot();
    EXPECT_EQ(engine->RestorePrefix(*slot, all.first(59)).length, length);
    const auto rest =
        ScoreRows(*engine, *slot, {tokens.begin() + length, tokens.end()}, 60, vocabulary);
    for (size_t i = 0; i < rest.size(); ++i) {
      ASSERT_EQ(rest[i], plain[length + i]) << "kept at " << length << ", row " << length + i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, SmallCheckpoint,
                         testing::Values("softmax", "released_mha", "released_gqa", "window_equal",
                                         "window_wider", "window_narrower", "llama3_biases",
                                         "qwen2_yarn", "mistral_linear", "qwen2_window_dynamic",
                                         "hybrid"),
                         [](const auto& info) { return std::string(info.param); });

// tests/testdata/gguf/README.md: the same weights as GGUF.
class SameWeights : public testing::TestWithParam<const char*> {};

TEST_P(SameWeights, GiveTheSameLogitsFromGgufAndFolder) {
  const std::string name = GetParam();
  const auto folder = LoadEngine("tests/testdata/checkpoints/" + name, Exact());
  const auto gguf = LoadEngine("tests/testdata/gguf/" + name + ".gguf", Exact());
  ASSERT_TRUE(folder != nullptr && gguf != nullptr);
  ASSERT_EQ(gguf->limits().vocab_size, folder->limits().vocab_size);
  EXPECT_EQ(gguf->limits().max_context, folder->limits().max_context);
  EXPECT_EQ(gguf->config().eos_token_ids, folder->config().eos_token_ids);
  std::mt19937 rng(5);
  std::vector<int32_t> tokens(300);
  for (int32_t& id : tokens) id = std::uniform_int_distribution<int32_t>(3, 280)(rng);
  const std::vector<int32_t> vocabulary = AllTokens(folder->limits().vocab_size);
  const auto expected = ScoreRows(*folder, *folder->AcquireSlot(), tokens, 100, vocabulary);
  const auto actual = ScoreRows(*gguf, *gguf->AcquireSlot(), tokens, 100, vocabulary);
  // A file carries LLaMA 3's scaling as rounded quotients of the frequencies, all else as it is.
  const bool rounded_frequencies = name == "llama3_biases";
  for (size_t row = 0; row < tokens.size(); ++row) {
    for (size_t id = 0; id < vocabulary.size(); ++id) {
      if (rounded_frequencies) {
        ASSERT_NEAR(actual[row][id], expected[row][id], 5e-4) << row;
      } else {
        ASSERT_EQ(actual[row][id], expected[row][id]) << row;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, SameWeights,
                         testing::Values("softmax", "llama3_biases", "qwen2_yarn",
                                         "mistral_linear"),
                         [](const auto& info) { return std::string(info.param); });

TEST(Gguf, QuantisedWeightsMatchTheFloat64Model) {
  const StatusOr<Json> oracle = ParseJsonFile("tests/testdata/gguf/quantized_oracle.json");
  ASSERT_TRUE(oracle.ok()) << oracle.status();
  ModelEngine::Options options = Exact();
  options.weight_type = WeightType::kF32;  // As exact as the file.
  const auto engine = LoadEngine("tests/testdata/gguf/quantized.gguf", options);
  ASSERT_NE(engine, nullptr);
  EXPECT_LE(LargestError(*engine, *oracle), kTolerance);
}

TEST(Gguf, NamesTensorsAsTheFileDoes) {
  const std::string source = "tests/testdata/gguf/softmax.gguf";
  const std::string path = testing::TempDir() + "/unnamed.gguf";
  std::string bytes = *ReadFile(source);
  const size_t name = bytes.find("blk.1.ffn_down.weight");
  ASSERT_NE(name, std::string::npos);
  bytes[name + 4] = '9';  // Layer 9 of two.
  std::ofstream(path, std::ios::binary) << bytes;
  const Status status = OpenEngine(path).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(Message(status).find(path + ": the checkpoint has no tensor blk.1.ffn_down.weight"),
            std::string::npos)
      << status;
}

// tests/testdata/adapter/README.md.
TEST(Adapter, LinearizesItsBaseAsTheFloat64ModelDoes) {
  const std::string folder = "tests/testdata/adapter";
  const StatusOr<Json> oracle = ParseJsonFile(folder + "/oracle.json");
  ASSERT_TRUE(oracle.ok()) << oracle.status();
  ModelEngine::Options options = Exact();
  options.weight_type = WeightType::kF32;  // As exact as the sum.
  const auto engine = LoadEngine(folder, options);
  ASSERT_NE(engine, nullptr);
  EXPECT_LE(LargestError(*engine, *oracle), kTolerance);

  auto gguf = Checkpoint::Open("tests/testdata/gguf/softmax.gguf");
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  const auto adapted = ApplyAdapter(*std::move(gguf), folder);
  ASSERT_TRUE(adapted.ok()) << adapted.status();
  const auto of_gguf = ModelEngine::Load(**adapted, options);
  ASSERT_TRUE(of_gguf.ok()) << of_gguf.status();
  EXPECT_LE(LargestError(**of_gguf, *oracle), kTolerance);
}

TEST(Adapter, MustHoldWhatItsAttentionNeeds) {
  namespace fs = std::filesystem;
  const fs::path folder = fs::path(testing::TempDir()) / "no_taps";
  fs::create_directories(folder);
  fs::copy_file("tests/testdata/adapter/adapter_model.safetensors",
                folder / "adapter_model.safetensors", fs::copy_options::overwrite_existing);
  Json config = *ParseJsonFile("tests/testdata/adapter/adapter_config.json");
  config["linear_attention"]["conv_kernel"] = 15;  // Its tensors are those of 7.
  std::ofstream(folder / "adapter_config.json") << config;
  const Status status = OpenEngine(folder).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(Message(status).find("no_taps: tensor model.layers.0.self_attn.dwconv.weight: shape"),
            std::string::npos)
      << status;
}

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
  EXPECT_EQ(engine->Commit({{{slot->index(), {0}}}}).code(), StatusCode::kInvalidArgument);
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
      {"softmax", {{"attention_bias", true}}, {"self_attn.q_proj.bias"}},
      // A linearized checkpoint must not be read as a softmax one, nor with half of its form.
      {"window_equal", {{"linear_attention", nullptr}}, {"self_attn.", "linear_attention"}},
      {"window_equal", {{"linear_attention", {{"decay", "none"}}}}, {"decay", "linear_attention"}},
      {"window_equal", {{"linear_attention", {{"conv_kernel", 9}}}}, {"dwconv.weight", "9"}},
      {"released_mha", {{"linear_attention", {{"decay", "head"}}}}, {"self_attn.decay"}},
      // Each layer has the tensors of its own form.
      {"hybrid", {{"linear_attention", {{"feature_size", 8}}}}, {"layers.0", "feature_map_q", "3"}},
      {"hybrid", {{"linear_attention", {{"layers", nullptr}}}}, {"layers.1.self_attn."}},
  };
  for (const auto& c : cases) {
    const Status status = OpenEngine(WithConfig(c.checkpoint, c.changes)).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << c.changes << status;
    for (const char* part : c.in_message) {
      EXPECT_NE(Message(status).find(part), std::string::npos) << c.changes << status;
    }
  }
}

// States are as large as the layers' forms say, each its own.
TEST(ModelEngine, StatesAreSizedLayerByLayer) {
  ModelEngine::Options options;
  options.state_type = StateType::kBF16;
  const auto engine = LoadEngine("tests/testdata/checkpoints/hybrid", options);
  ASSERT_NE(engine, nullptr);
  // 2 KV heads of 8 dimensions. Layers 0 and 2: S and z of 6 features; all: rows of K and V, 4 of
  // them sinks. A window of 70 lies in 19 groups of 4.
  const size_t s = 2 * 6 * (8 + 1) * 4, row = 2 * 2 * 8 * 2;
  const size_t rows = (16 + 264 + 16 + 76) + 4 * 4;
  EXPECT_GE(engine->state_bytes(), 2 * s + rows * row);
  EXPECT_LT(engine->state_bytes(), 2 * s + rows * row + 4 * 6 * 64);  // Alignment.
}

// With the context as long as one layer's softmax reaches, the other forms notwithstanding.
TEST(ModelEngine, OneSoftmaxLayerBoundsTheContext) {
  const Json entries = Json::parse(R"([
      {"layers": [1], "window_size": 264, "feature_map": "none", "feature_size": 0,
       "denominator": "none", "decay": "none"},
      {"layers": [2, 3], "group_size": 4, "conv_kernel": 0},
      {"layers": [3], "group_size": 0, "feature_map": "none", "feature_size": 0,
       "denominator": "none", "decay": "none"}])");
  const std::string model = WithConfig("hybrid", {{"linear_attention", {{"layers", entries}}}});
  ModelEngine::Options options;
  EXPECT_NE(LoadEngine(model, options), nullptr);
  options.max_context = 4096;
  EXPECT_EQ(OpenEngine(model, options).status().code(), StatusCode::kInvalidArgument);
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
    return engine->Commit({{{slot.index(), std::move(path)}}}).code();
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
  options.state_memory = 1000;
  const auto engine = OpenEngine("tests/testdata/checkpoints/softmax", options);
  ASSERT_EQ(engine.status().code(), StatusCode::kResourceExhausted);
  EXPECT_NE(Message(engine.status()).find("--state-memory"), std::string::npos);
}

// Up to the window, sliding-window attention is full attention.
TEST(ModelEngine, ServesSlidingWindowsOnlyUpToTheirLength) {
  const std::string model = WithConfig("mistral_linear", {{"sliding_window", 100}});
  const auto by_default = LoadEngine(model);
  ASSERT_NE(by_default, nullptr);
  EXPECT_EQ(by_default->limits().max_context, 100);
  EXPECT_EQ(by_default->warnings().size(), 1u);
  ModelEngine::Options options;
  options.max_context = 101;
  const Status status = OpenEngine(model, options).status();
  EXPECT_EQ(status.code(), StatusCode::kUnimplemented);
  EXPECT_NE(Message(status).find("sliding_window 100"), std::string::npos) << status;

  // Longer than the context, or off, it means nothing.
  EXPECT_TRUE(
      LoadEngine(WithConfig("mistral_linear", {{"sliding_window", 9999}}))->warnings().empty());
  EXPECT_TRUE(LoadEngine("tests/testdata/checkpoints/qwen2_yarn")->warnings().empty());
}

TEST(ModelEngine, ScaledPositionsReachFurther) {
  ModelEngine::Options options;
  options.max_context = 4 * 2048;
  EXPECT_NE(LoadEngine("tests/testdata/checkpoints/mistral_linear", options), nullptr);
  options.max_context += 1;
  EXPECT_EQ(OpenEngine("tests/testdata/checkpoints/mistral_linear", options).status().code(),
            StatusCode::kInvalidArgument);
}

TEST(ModelEngine, OnlyLinearizedModelsRunPastTheirTrainedContext) {
  ModelEngine::Options options;
  options.max_context = 4096;
  EXPECT_EQ(OpenEngine("tests/testdata/checkpoints/softmax", options).status().code(),
            StatusCode::kInvalidArgument);
  const auto linearized = LoadEngine("tests/testdata/checkpoints/window_equal", options);
  ASSERT_NE(linearized, nullptr);
  EXPECT_EQ(linearized->limits().max_context, 4096);
  EXPECT_EQ(linearized->warnings().size(), 1u);
}

}  // namespace
}  // namespace treeline
