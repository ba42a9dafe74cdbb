// The base of the default model against Hugging Face transformers in fp32
// (tests/testdata/default_model; tools/make_transformers_golden.py makes it). The
// folder comes by TREELINE_MODEL.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "engine/base/json.h"
#include "tests/engine_driver.h"

namespace treeline {
namespace {

constexpr double kTolerance = 1e-3;

std::string ModelDir() {
  const char* dir = std::getenv("TREELINE_MODEL");
  return dir == nullptr ? "" : dir;
}

class DefaultModel : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(ModelDir(), "") << "set TREELINE_MODEL to the folder of the default model's base";
    auto golden = ParseJsonFile("tests/testdata/default_model/transformers_golden.json");
    ASSERT_TRUE(golden.ok()) << golden.status();
    golden_ = *std::move(golden);
    ModelEngine::Options options;
    options.matmul_kernel = "fp32";  // The golden is of fp32 throughout.
    engine_ = LoadEngine(ModelDir(), options);
    ASSERT_NE(engine_, nullptr);
  }

  Json golden_;
  std::unique_ptr<ModelEngine> engine_;
};

TEST_F(DefaultModel, LogProbabilitiesMatchTransformers) {
  const auto ids = golden_["ids"].get<std::vector<int32_t>>();
  ASSERT_EQ(ids.size(), 64u);
  for (const Json& prompt : golden_["prompts"]) {
    const auto tokens = prompt["tokens"].get<std::vector<int32_t>>();
    const auto slot = engine_->AcquireSlot();
    ASSERT_TRUE(slot.ok());
    double worst = 0;
    size_t checked = 0;
    for (size_t first = 0; first < tokens.size(); first += 512) {
      const size_t count = std::min<size_t>(512, tokens.size() - first);
      Batch batch;
      batch.AddChain(slot->index(), std::span<const int32_t>(tokens).subspan(first, count));
      std::vector<std::vector<int32_t>> score(count, ids);
      for (size_t i = 0; i < count; ++i) {
        if (first + i + 1 < tokens.size()) score[i].push_back(tokens[first + i + 1]);
        RowRequest request;
        request.row = static_cast<int32_t>(i);
        request.score = score[i];
        batch.requests.push_back(request);
      }
      const auto results = MustStep(*engine_, batch);
      for (size_t i = 0; i < count; ++i) {
        const size_t position = first + i;
        if (position + 1 < tokens.size()) {
          worst = std::max(
              worst, std::abs(results[i].scores[64] - prompt["logprobs"][position].get<double>()));
        }
        for (size_t p = 0; p < prompt["positions"].size(); ++p) {
          if (prompt["positions"][p].get<size_t>() != position) continue;
          for (size_t id = 0; id < ids.size(); ++id, ++checked) {
            worst = std::max(worst, std::abs(results[i].scores[id] -
                                             prompt["id_logprobs"][p][id].get<double>()));
          }
        }
      }
    }
    EXPECT_EQ(checked, prompt["positions"].size() * 64);
    EXPECT_LE(worst, kTolerance) << prompt["name"] << ", " << tokens.size() << " tokens";
    RecordProperty("max_difference_" + std::to_string(tokens.size()), std::to_string(worst));
    std::printf("%zu tokens: max |difference| %.2e\n", tokens.size(), worst);
  }
}

TEST_F(DefaultModel, GreedyContinuationsMatchTransformers) {
  SamplingParams greedy;
  greedy.temperature = 0;
  for (const Json& prompt : golden_["prompts"]) {
    auto tokens = prompt["tokens"].get<std::vector<int32_t>>();
    const auto slot = engine_->AcquireSlot();
    ASSERT_TRUE(slot.ok());
    std::vector<int32_t> generated;
    while (generated.size() < prompt["greedy"].size()) {
      Batch batch;
      batch.AddChain(slot->index(), tokens);
      RowRequest request;
      request.row = batch.num_tokens() - 1;
      request.sampling = &greedy;
      batch.requests.push_back(request);
      generated.push_back(MustStep(*engine_, batch)[0].token);
      tokens = {generated.back()};
    }
    EXPECT_EQ(generated, prompt["greedy"].get<std::vector<int32_t>>()) << prompt["name"];
  }
}

}  // namespace
}  // namespace treeline
