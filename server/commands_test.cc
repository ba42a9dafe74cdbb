#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
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

std::string WriteFile(const std::string& name, const std::string& text) {
  const std::string path = ::testing::TempDir() + "/" + name;
  std::ofstream(path) << text;
  return path;
}

// What the model thinks of `text` after `context`; a byte is a token.
double LogprobOf(const std::string& context, const std::string& text) {
  std::vector<int32_t> prefix;
  for (const char c : context) prefix.push_back(static_cast<unsigned char>(c));
  double sum = 0;
  for (const char c : text) {
    sum += FakeEngine::Logprob(prefix, static_cast<unsigned char>(c));
    prefix.push_back(static_cast<unsigned char>(c));
  }
  return sum;
}

TEST(EvalTest, CountsTheTasksRightAnswers) {
  int64_t right = 0, right_by_length = 0;
  std::string lines;
  for (int i = 0; i < 8; ++i) {
    const std::string goal = std::to_string(i), context = "Question: " + goal + "\nAnswer:";
    lines += R"({"goal":")" + goal + R"(","choices":["yes","perhaps"],"gold":0})" + "\n";
    const double yes = LogprobOf(context, " yes"), perhaps = LogprobOf(context, " perhaps");
    right += yes > perhaps;
    right_by_length += yes / 3 > perhaps / 7;
  }
  EvalConfig config;
  config.set_task("piqa");
  config.set_data(WriteFile("piqa.jsonl", lines));
  config.set_json(true);
  std::ostringstream out, log;
  ASSERT_EQ(Eval(config, FakeModel(), out, log), OkStatus());
  const Json result = Json::parse(out.str());
  EXPECT_EQ(result["task"], "piqa");
  EXPECT_EQ(result["items"], 8);
  EXPECT_EQ(result["acc"], right / 8.0);
  EXPECT_EQ(result["acc_norm"], right_by_length / 8.0);
  EXPECT_THAT(log.str(), HasSubstr("8 of 8 items"));

  config.set_limit(3);
  out.str("");
  ASSERT_EQ(Eval(config, FakeModel(), out, log), OkStatus());
  EXPECT_EQ(Json::parse(out.str())["items"], 3);
}

TEST(EvalTest, MeasuresThePerplexityOfClozes) {
  EvalConfig config;
  config.set_task("lambada");
  config.set_data(WriteFile("lambada.jsonl", R"({"text":"a b"})"));
  config.set_json(true);
  std::ostringstream out, log;
  ASSERT_EQ(Eval(config, FakeModel(), out, log), OkStatus());
  EXPECT_NEAR(Json::parse(out.str())["perplexity"].get<double>(), std::exp(-LogprobOf("a", " b")),
              1e-3);
}

TEST(EvalTest, TasksThatCannotBeScoredAreNamed) {
  std::ostringstream out, log;
  EvalConfig config;
  config.set_task("piqa");
  EXPECT_THAT(Message(Eval(config, FakeModel(), out, log)), HasSubstr("--data FILE is needed"));
  config.set_data("/no/such/file");
  EXPECT_EQ(Eval(config, FakeModel(), out, log).code(), StatusCode::kNotFound);
  config.set_perplexity("x");
  EXPECT_THAT(Message(Eval(config, FakeModel(), out, log)), HasSubstr("--task takes the place"));
  config.clear_perplexity();
  config.set_data(WriteFile(
      "long.jsonl", R"({"goal":")" + std::string(64, 'x') + R"(","choices":["a"],"gold":0})"));
  EXPECT_THAT(Message(Eval(config, FakeModel(), out, log)), HasSubstr("more than the engine's"));
}

}  // namespace
}  // namespace treeline
