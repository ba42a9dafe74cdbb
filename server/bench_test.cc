#include "server/bench.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "engine/base/file.h"
#include "engine/base/json.h"
#include "server/flags.h"

namespace treeline {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kSoftmax[] = "tests/testdata/checkpoints/softmax";
constexpr char kLinearized[] = "tests/testdata/checkpoints/window_equal";

BenchConfig Config(const std::string& model, std::vector<std::string> more = {}) {
  std::vector<std::string> args = {
      "--model",     model, "--prompt",  "5", "--output",  "3", "--context",          "0,70",
      "--sequences", "1,4", "--repeats", "2", "--threads", "2", "--max-batch-tokens", "4"};
  args.insert(args.end(), more.begin(), more.end());
  BenchConfig config;
  EXPECT_EQ(ParseFlags(args, &config), OkStatus());
  return config;
}

struct Ran {
  Status status;
  std::string out, log;
};

Ran RunBench(const BenchConfig& config) {
  std::ostringstream out, log;
  const Status status = Bench(config, out, log);
  return {status, out.str(), log.str()};
}

TEST(BenchTest, MeasuresEachContextAndBatch) {
  for (const char* model : {kSoftmax, kLinearized}) {
    const Ran ran = RunBench(Config(model, {"--json", "-"}));
    ASSERT_EQ(ran.status, OkStatus());
    const Json report = Json::parse(ran.out);
    EXPECT_EQ(report["model"], model);
    EXPECT_EQ(report["max_context"], 75);
    EXPECT_GT(report["ceilings"]["memory_bytes_per_second"], 0);
    EXPECT_GT(report["ceilings"]["fp32_flops_per_second"], 0);
    std::vector<std::string> works;
    for (const Json& result : report["results"]) {
      works.push_back(fmt::format("{} {} {} {}", result["work"].get<std::string>(),
                                  result["context"].get<int>(), result["sequences"].get<int>(),
                                  result["tokens"].get<int>()));
      const Json& rate = result["tokens_per_second"];
      EXPECT_GT(rate["min"], 0);
      EXPECT_LE(rate["min"], rate["median"]);
      EXPECT_LE(rate["median"], rate["max"]);
      const Json& seconds = result["seconds"];
      EXPECT_GT(seconds["dense"], 0);
      EXPECT_GT(seconds["attention"], 0);
      EXPECT_GT(seconds["other"], 0);
      EXPECT_NEAR(seconds["all"].get<double>() * rate["median"].get<double>(),
                  result["tokens"].get<double>(), 1e-6);
      EXPECT_GT(result["dense_flops_per_second"], 0);
    }
    EXPECT_THAT(works, ElementsAre("prefill 0 1 5", "decode 0 1 3", "decode 0 4 12",
                                   "prefill 70 1 5", "decode 70 1 3", "decode 70 4 12"));
    EXPECT_THAT(ran.log, HasSubstr("measuring decode at context 70, 12 tokens of 4 sequences\n"));
  }
}

// Both have tied embeddings, so a decode's step reads every matrix once, the embedding as the
// output layer; batching does not change that.
TEST(BenchTest, AStepOfADecodeReadsTheWeightsOnce) {
  for (const char* model : {kSoftmax, kLinearized}) {
    const Json report = Json::parse(RunBench(Config(model, {"--json", "-"})).out);
    for (const Json& result : report["results"]) {
      if (result["work"] != "decode") continue;
      EXPECT_EQ(result["weight_bytes_per_step"], report["weight_bytes"]);
    }
  }
}

TEST(BenchTest, ATableForPeopleAndJsonInAFile) {
  const std::string path = ::testing::TempDir() + "/bench.json";
  const Ran ran = RunBench(Config(kLinearized, {"--output", "0", "--json", path}));
  ASSERT_EQ(ran.status, OkStatus());
  EXPECT_THAT(ran.out, HasSubstr("at best: memory read at "));
  EXPECT_THAT(ran.out, HasSubstr("\nprefill        0         1       5 "));
  EXPECT_THAT(ran.out, HasSubstr("\nprefill       70         1       5 "));
  EXPECT_THAT(ran.out, ::testing::Not(HasSubstr("\ndecode")));
  const auto text = ReadFile(path);
  ASSERT_TRUE(text.ok());
  EXPECT_EQ(Json::parse(*text)["results"].size(), 2);
}

TEST(BenchTest, VerifiesTrees) {
  const Ran ran = RunBench(
      Config(kLinearized, {"--prompt", "0", "--context", "0", "--tree", "7", "--json", "-"}));
  ASSERT_EQ(ran.status, OkStatus());
  const Json report = Json::parse(ran.out);
  std::vector<std::string> works;
  for (const Json& result : report["results"]) {
    works.push_back(fmt::format("{} {} {}", result["work"].get<std::string>(),
                                result["sequences"].get<int>(), result["tokens"].get<int>()));
  }
  // Of each tree a path of three nodes is accepted.
  EXPECT_THAT(works, ElementsAre("decode 1 3", "decode 4 12", "verify 1 9", "verify 4 36"));
}

TEST(BenchTest, VerifiesAStaticTree) {
  // The deepest path of Medusa's tree has a root and four guesses.
  const Ran ran = RunBench(
      Config(kLinearized, {"--prompt", "0", "--context", "0", "--sequences", "1", "--tree",
                           "mc_sim_7b_63", "--tree-accepts", "0,0,0,0,0,1", "--json", "-"}));
  ASSERT_EQ(ran.status, OkStatus());
  const Json report = Json::parse(ran.out);
  EXPECT_EQ(report["results"].back()["work"], "verify");
  EXPECT_EQ(report["results"].back()["tokens"], 3 * 5);
}

TEST(BenchTest, MeasuresWholeRequests) {
  const std::vector<std::string> args = {"--prompt", "0", "--output",   "0",
                                         "--tree",   "7", "--requests", "9:5,3:1"};
  std::vector<std::string> as_json = args;
  as_json.insert(as_json.end(), {"--json", "-"});
  for (const char* model : {kSoftmax, kLinearized}) {
    const Ran ran = RunBench(Config(model, as_json));
    ASSERT_EQ(ran.status, OkStatus());
    const Json report = Json::parse(ran.out);
    EXPECT_TRUE(report["results"].empty());
    std::vector<std::string> requests;
    for (const Json& request : report["requests"]) {
      requests.push_back(
          fmt::format("{}:{} {} {}", request["prompt"].get<int>(), request["output"].get<int>(),
                      request["speculative"].get<bool>(), request["decode_steps"].get<int>()));
      const Json& seconds = request["seconds"];
      EXPECT_LE(seconds["min"], seconds["all"]);
      EXPECT_LE(seconds["all"], seconds["max"]);
      EXPECT_GT(seconds["prefill"], 0);
      EXPECT_NEAR(seconds["prefill"].get<double>() + seconds["decode"].get<double>(),
                  seconds["all"].get<double>(), 1e-9);
      EXPECT_GT(seconds["dense"], 0);
      EXPECT_GT(seconds["attention"], 0);
    }
    // Of each tree a path of three nodes is accepted.
    EXPECT_THAT(requests, ElementsAre("9:5 false 4", "9:5 true 2", "3:1 false 0"));
    EXPECT_THAT(ran.log, HasSubstr("measuring a request of 9 tokens that generates 5\n"));
  }
  const Ran ran = RunBench(Config(kLinearized, args));
  ASSERT_EQ(ran.status, OkStatus());
  EXPECT_THAT(ran.out, HasSubstr("\n     9       5  plain           4 "));
  EXPECT_THAT(ran.out, HasSubstr("\n     9       5  speculative     2 "));
  EXPECT_THAT(ran.out, ::testing::Not(HasSubstr("tokens/s")));
}

TEST(BenchTest, LoadsMedusaHeads) {
  const std::string model = "tests/testdata/checkpoints/hybrid";
  const auto weight_bytes = [&](std::vector<std::string> more) {
    more.insert(more.end(), {"--prompt", "0", "--output", "0", "--tree", "7", "--requests", "9:5",
                             "--json", "-"});
    const Ran ran = RunBench(Config(model, more));
    EXPECT_EQ(ran.status, OkStatus());
    return Json::parse(ran.out)["weight_bytes"].get<int64_t>();
  };
  EXPECT_GT(weight_bytes({"--medusa-heads", model + "/medusa_lm_head.safetensors"}),
            weight_bytes({}));
}

TEST(BenchTest, KnowsTheRequestsOfThePaper) {
  const auto longest = [](const std::string& requests) {
    const Ran ran = RunBench(Config(kLinearized, {"--prompt", "0", "--output", "0", "--max-context",
                                                  "100", "--requests", requests}));
    return Message(ran.status);
  };
  EXPECT_THAT(longest("60:20,table5"), HasSubstr("--requests 340:160 takes 500 tokens"));
  EXPECT_THAT(longest("table4"), HasSubstr("--requests 2048:1 takes 2049 tokens"));
}

TEST(BenchTest, StepsThatAcceptNothingAreNoMix) {
  const Ran ran = RunBench(Config(kLinearized, {"--tree", "7", "--tree-accepts", "0,0"}));
  EXPECT_THAT(std::string(ran.status.message()), HasSubstr("--tree-accepts 0,0"));
}

TEST(BenchTest, SoftmaxModelsAreMeasuredPastTheirTraining) {
  const Ran ran = RunBench(Config(kSoftmax, {"--context", "2047", "--json", "-"}));
  ASSERT_EQ(ran.status, OkStatus());
  EXPECT_EQ(Json::parse(ran.out)["max_context"], 2052);
}

TEST(BenchTest, AConfigurationAloneIsMeasuredWithRandomWeights) {
  for (const std::string folder : {kSoftmax, kLinearized}) {
    const std::string path = folder + "/config.json";
    BenchConfig config;
    ASSERT_EQ(ParseFlags({"--random-weights", path, "--context", "40", "--prompt", "3", "--output",
                          "2", "--repeats", "1", "--json", "-"},
                         &config),
              OkStatus());
    const Ran ran = RunBench(config);
    ASSERT_EQ(ran.status, OkStatus());
    const Json report = Json::parse(ran.out);
    EXPECT_EQ(report["model"], path);
    EXPECT_TRUE(report["random_weights"]);
    EXPECT_EQ(report["results"].size(), 2);
    // As large as the real one, where that is bf16.
    if (folder != kSoftmax) continue;
    EXPECT_EQ(report["weight_bytes"],
              Json::parse(RunBench(Config(folder, {"--json", "-"})).out)["weight_bytes"]);
  }
}

TEST(BenchTest, AModelOrAConfigurationIsNeeded) {
  BenchConfig config;
  EXPECT_EQ(Message(ParseFlags({"--prompt", "3"}, &config)), "--model PATH is needed");
  ASSERT_EQ(ParseFlags({"--random-weights", "/no/such/config.json"}, &config), OkStatus());
  EXPECT_THAT(Message(RunBench(config).status), HasSubstr("/no/such/config.json"));
  config.mutable_engine()->set_model(kSoftmax);
  EXPECT_THAT(Message(RunBench(config).status), HasSubstr("--random-weights takes the place"));
}

TEST(BenchTest, ErrorsNameTheFlag) {
  const auto error = [](std::vector<std::string> args) {
    const Ran ran = RunBench(Config(kLinearized, std::move(args)));
    EXPECT_FALSE(ran.status.ok());
    EXPECT_EQ(ran.out, "");
    return Message(ran.status);
  };
  for (const char* bad : {"", ",", "1,", "0,x", "-1", "1;2", "99999999999"}) {
    EXPECT_THAT(error({"--context", bad}),
                HasSubstr(fmt::format("--context: '{}' is not a list", bad)));
  }
  EXPECT_THAT(error({"--tree", "65"}), HasSubstr("--tree 65: a tree has 1 to 64 nodes"));
  EXPECT_THAT(error({"--tree", "-1"}), HasSubstr("--tree -1: a tree has 1 to 64 nodes"));
  EXPECT_THAT(error({"--tree", "no/such.json"}), HasSubstr("--tree: no/such.json"));
  EXPECT_THAT(error({"--medusa-heads", "x"}), HasSubstr("--medusa-heads: there is no --tree"));
  EXPECT_THAT(error({"--medusa-heads", "no/such.file", "--tree", "2"}), HasSubstr("no/such.file"));
  EXPECT_THAT(error({"--sequences", "0"}), HasSubstr("--sequences: '0' is not a list"));
  EXPECT_THAT(error({"--prompt", "0", "--output", "0"}), HasSubstr("--prompt 0 and --output 0"));
  for (const char* bad : {"", ",", "5", "5:", ":5", "0:5", "5:0", "5:5:5", "5:5,", "table6"}) {
    EXPECT_THAT(error({"--requests", bad}),
                HasSubstr(fmt::format("--requests: '{}' is not a list", bad)));
  }
  EXPECT_THAT(
      error({"--max-context", "74"}),
      HasSubstr("--context 70 and what follows it take 75 tokens, but the engine holds 74"));
  EXPECT_THAT(error({"--max-slots", "3"}), HasSubstr("--sequences 4: there are 3 states"));
  EXPECT_THAT(error({"--json", "/no/such/folder/x"}), HasSubstr("--json /no/such/folder/x"));
  EXPECT_THAT(error({"--device", "cuda"}), HasSubstr("--device cuda"));
  EXPECT_THAT(error({"--model", "/no/such/model"}), HasSubstr("/no/such/model"));
}

}  // namespace
}  // namespace treeline
