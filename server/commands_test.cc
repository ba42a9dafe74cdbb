#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "engine/base/json.h"
#include "scheduler/fake_engine.h"
#include "server/byte_tokenizer.h"
#include "server/eval.h"
#include "server/generate.h"

namespace treeline {
namespace {

using ::testing::HasSubstr;

LoadedModel FakeModel() {
  auto engine = std::make_unique<FakeEngine>(
      EngineLimits{.vocab_size = ByteTokenizer::kVocabSize, .max_context = 64, .num_slots = 2});
  engine->set_next_token([](std::span<const int32_t> prefix, uint32_t) {
    return prefix.back() == 'z' ? ByteTokenizer::kEos : prefix.back() + 1;
  });
  LoadedModel model;
  model.name = "fake";
  model.engine = std::move(engine);
  model.tokenizer = std::make_unique<ByteTokenizer>();
  model.eos_token_ids = {ByteTokenizer::kEos};
  return model;
}

TEST(GenerateTest, WritesTheText) {
  GenerateConfig config;
  config.set_prompt("v");
  std::istringstream in;
  std::ostringstream out;
  EXPECT_EQ(Generate(config, FakeModel(), in, out), OkStatus());
  EXPECT_EQ(out.str(), "wxyz\n");
}

TEST(GenerateTest, ReadsStandardInputAndStopsAtTheLimit) {
  GenerateConfig config;
  config.mutable_sampling()->set_max_tokens(2);
  std::istringstream in("a");
  std::ostringstream out;
  EXPECT_EQ(Generate(config, FakeModel(), in, out), OkStatus());
  EXPECT_EQ(out.str(), "bc\n");
}

TEST(GenerateTest, APromptTooLongIsAnError) {
  GenerateConfig config;
  config.set_prompt(std::string(64, 'x'));
  std::istringstream in;
  std::ostringstream out;
  EXPECT_EQ(Generate(config, FakeModel(), in, out).code(), StatusCode::kInvalidArgument);
}

TEST(EvalTest, MeasuresTheFilesFirstTokens) {
  const std::string path = ::testing::TempDir() + "/text";
  std::ofstream(path) << std::string(50, 'x');
  EvalConfig config;
  config.set_perplexity(path);
  config.set_context(8);
  config.set_max_tokens(35);
  config.set_json(true);
  std::ostringstream out;
  std::ostringstream log;
  ASSERT_EQ(Eval(config, FakeModel(), out, log), OkStatus());
  const Json result = Json::parse(out.str());
  EXPECT_EQ(result["windows"], 4);  // Of 35 tokens.
  EXPECT_EQ(result["scored_tokens"], 4 * 7);
  EXPECT_THAT(log.str(), HasSubstr("4 of 4 windows"));

  config.set_perplexity("/no/such/file");
  EXPECT_EQ(Eval(config, FakeModel(), out, log).code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace treeline
