#include "server/openai_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/status_codes.h"

namespace treeline {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Ids = std::vector<int32_t>;

RequestLimits Limits() {
  RequestLimits limits;
  limits.vocab_size = 100;
  limits.defaults.temperature = 0.6f;
  return limits;
}

StatusOr<OpenAiRequest> Parse(ApiKind kind, const std::string& text) {
  TREELINE_ASSIGN_OR_RETURN(const Json body, ParseJson(text, "body"));
  return ParseOpenAiRequest(kind, body, Limits());
}

OpenAiRequest Completion(const std::string& fields) {
  auto request = Parse(ApiKind::kCompletion, R"({"prompt": "hi")" + fields + "}");
  EXPECT_EQ(request.status(), OkStatus()) << fields;
  return request.ok() ? *request : OpenAiRequest();
}

OpenAiRequest Chat(const std::string& fields) {
  auto request =
      Parse(ApiKind::kChat, R"({"messages": [{"role": "user", "content": "hi"}])" + fields + "}");
  EXPECT_EQ(request.status(), OkStatus()) << fields;
  return request.ok() ? *request : OpenAiRequest();
}

// The "param" of the error that a body must give.
std::string ParamOf(ApiKind kind, const std::string& body) {
  const auto request = Parse(kind, body);
  EXPECT_EQ(request.status().code(), StatusCode::kInvalidArgument) << body;
  const Json param = ErrorBody(request.status())["error"]["param"];
  return param.is_string() ? param.get<std::string>() : "";
}

TEST(OpenAiRequestTest, Defaults) {
  const OpenAiRequest completion = Completion("");
  EXPECT_EQ(completion.generation.default_max_tokens, 16);
  EXPECT_EQ(completion.generation.max_tokens, std::nullopt);
  EXPECT_EQ(completion.generation.sampling.temperature, 0.6f);
  EXPECT_EQ(completion.generation.sampling.top_p, 1.0f);
  EXPECT_EQ(completion.generation.seed, std::nullopt);
  EXPECT_FALSE(completion.stream);
  EXPECT_EQ(Chat("").generation.default_max_tokens, 0);
}

TEST(OpenAiRequestTest, WhoMayGuess) {
  const struct {
    const char* name;
    bool ngram, heads, draft_model;
  } kCases[] = {{"auto", true, true, true},
                {"none", false, false, false},
                {"ngram", true, false, false},
                {"medusa", false, true, false},
                {"draft_model", false, false, true}};
  for (const auto& c : kCases) {
    const Drafters drafters =
        Completion(fmt::format(R"(, "speculation": {{"drafter": "{}"}})", c.name))
            .generation.drafters;
    EXPECT_EQ(drafters.ngram, c.ngram) << c.name;
    EXPECT_EQ(drafters.heads, c.heads) << c.name;
    EXPECT_EQ(drafters.draft_model, c.draft_model) << c.name;
  }
}

TEST(OpenAiRequestTest, NullIsAbsent) {
  const OpenAiRequest request = Completion(
      R"(, "model": null, "max_tokens": null, "temperature": null, "top_p": null, "n": null,
         "stream": null, "logprobs": null, "echo": null, "stop": null, "presence_penalty": null,
         "frequency_penalty": null, "best_of": null, "logit_bias": null, "user": null,
         "suffix": null, "seed": null, "stream_options": null)");
  EXPECT_EQ(request.generation.sampling.temperature, 0.6f);
  EXPECT_FALSE(request.generation.logprobs);
  EXPECT_TRUE(request.unknown_fields.empty());
}

TEST(OpenAiRequestTest, EveryField) {
  const OpenAiRequest request = Completion(
      R"(, "model": "m", "max_tokens": 7, "temperature": 0, "top_p": 0.5, "top_k": 40,
         "min_p": 0.1, "presence_penalty": -2, "frequency_penalty": 1.5,
         "repetition_penalty": 1.1, "n": 3, "best_of": 3, "stream": true,
         "stream_options": {"include_usage": true}, "logprobs": 5, "echo": true,
         "stop": ["a", "b"], "stop_token_ids": [3, 4.0], "seed": 18446744073709551615,
         "logit_bias": {"5": -100, "6": 1.5}, "ignore_eos": true, "min_tokens": 2,
         "user": "u", "priority": -1, "response_format": {"type": "text"}, "tools": [],
         "tool_choice": "none", "skip_special_tokens": false,
         "speculation": {"drafter": "none", "max_nodes": 8, "acceptance": "typical"})");
  const GenerationRequest& generation = request.generation;
  EXPECT_EQ(generation.model, "m");
  EXPECT_EQ(generation.max_tokens, 7);
  EXPECT_EQ(generation.sampling.temperature, 0.0f);
  EXPECT_EQ(generation.sampling.top_p, 0.5f);
  EXPECT_EQ(generation.sampling.top_k, 40);
  EXPECT_EQ(generation.sampling.min_p, 0.1f);
  EXPECT_EQ(generation.sampling.presence_penalty, -2.0f);
  EXPECT_EQ(generation.sampling.frequency_penalty, 1.5f);
  EXPECT_EQ(generation.sampling.repetition_penalty, 1.1f);
  EXPECT_THAT(generation.sampling.logit_bias,
              ElementsAre(std::pair(5, -100.0f), std::pair(6, 1.5f)));
  EXPECT_EQ(generation.num_choices, 3);
  EXPECT_EQ(generation.priority, -1);
  EXPECT_FALSE(generation.drafters.ngram);
  EXPECT_FALSE(generation.drafters.heads);
  EXPECT_FALSE(generation.drafters.draft_model);
  EXPECT_TRUE(generation.typical_acceptance);
  EXPECT_EQ(generation.max_draft_nodes, 8);
  EXPECT_TRUE(request.stream);
  EXPECT_TRUE(request.include_usage);
  EXPECT_TRUE(generation.logprobs);
  EXPECT_EQ(generation.top_logprobs, 5);
  EXPECT_TRUE(request.echo);
  EXPECT_TRUE(generation.prompt_logprobs);
  EXPECT_THAT(generation.stop.stop_strings, ElementsAre("a", "b"));
  EXPECT_THAT(generation.stop.stop_token_ids, ElementsAre(3, 4));
  EXPECT_EQ(generation.seed, 18446744073709551615u);
  EXPECT_TRUE(generation.stop.ignore_eos);
  EXPECT_EQ(generation.stop.min_tokens, 2);
  EXPECT_FALSE(generation.skip_special_tokens);
  EXPECT_TRUE(request.unknown_fields.empty());
}

TEST(OpenAiRequestTest, PromptForms) {
  const auto prompts = [](const std::string& prompt) {
    auto request = Parse(ApiKind::kCompletion, R"({"prompt": )" + prompt + "}");
    EXPECT_EQ(request.status(), OkStatus());
    return request->generation.prompts;
  };
  EXPECT_THAT(prompts(R"("text")"), ElementsAre(Prompt("text")));
  EXPECT_THAT(prompts(R"(["a", "b"])"), ElementsAre(Prompt("a"), Prompt("b")));
  EXPECT_THAT(prompts("[1, 2]"), ElementsAre(Prompt(Ids{1, 2})));
  EXPECT_THAT(prompts("[[1, 2], [3]]"), ElementsAre(Prompt(Ids{1, 2}), Prompt(Ids{3})));
}

TEST(OpenAiRequestTest, ChatFields) {
  const OpenAiRequest request =
      Chat(R"(, "logprobs": true, "top_logprobs": 20, "max_completion_tokens": 9,
              "max_tokens": 5, "stop": "x")");
  EXPECT_EQ(request.generation.max_tokens, 9);  // The newer name wins.
  EXPECT_EQ(request.generation.top_logprobs, 20);
  EXPECT_FALSE(request.generation.prompt_logprobs);
  EXPECT_THAT(request.generation.stop.stop_strings, ElementsAre("x"));
}

TEST(OpenAiRequestTest, MessagesMayHoldTextParts) {
  const auto messages = ParseMessages(Json::parse(
      R"([{"role": "system", "content": "s"},
          {"role": "user", "name": "n",
           "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
          {"role": "assistant", "content": null}])"));
  ASSERT_EQ(messages.status(), OkStatus());
  EXPECT_EQ(*messages, Json::parse(R"([{"role": "system", "content": "s"},
                                       {"role": "user", "name": "n", "content": "a\nb"},
                                       {"role": "assistant", "content": null}])"));
}

TEST(OpenAiRequestTest, BodiesOfTheBenchmarks) {
  auto completion =
      Parse(ApiKind::kCompletion,
            R"({"model": "m", "prompt": [1, 2], "repetition_penalty": 1.0, "max_tokens": 4,
          "logprobs": null, "stream": true, "stream_options": {"include_usage": true},
          "ignore_eos": true})");
  ASSERT_EQ(completion.status(), OkStatus());
  EXPECT_TRUE(completion->unknown_fields.empty());
  auto chat = Parse(
      ApiKind::kChat,
      R"({"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
          "max_completion_tokens": 4, "stream": true, "stream_options": {"include_usage": true}})");
  ASSERT_EQ(chat.status(), OkStatus());
  EXPECT_TRUE(chat->unknown_fields.empty());
}

TEST(OpenAiRequestTest, UnknownFieldsAreNamed) {
  const OpenAiRequest request =
      Completion(R"(, "stream": true, "stream_options": {"x": 1}, "mirostat": 2)");
  EXPECT_THAT(request.unknown_fields, ElementsAre("stream_options.x", "mirostat"));
}

TEST(OpenAiRequestTest, BadValuesNameTheirField) {
  const std::pair<const char*, const char*> kCases[] = {
      {"temperature", "-0.1"},
      {"temperature", "2.1"},
      {"temperature", "\"1\""},
      {"temperature", "1e99"},
      {"temperature", "true"},
      {"top_p", "0"},
      {"top_p", "1.01"},
      {"top_p", "-1"},
      {"top_k", "-2"},
      {"top_k", "1.5"},
      {"min_p", "2"},
      {"presence_penalty", "3"},
      {"frequency_penalty", "-2.5"},
      {"repetition_penalty", "0"},
      {"repetition_penalty", "-1"},
      {"n", "0"},
      {"n", "129"},
      {"n", "[]"},
      {"max_tokens", "0"},
      {"max_tokens", "-1"},
      {"max_tokens", "99999999999"},
      {"max_tokens", "1.5"},
      {"logprobs", "21"},
      {"logprobs", "-1"},
      {"logprobs", "true"},
      {"echo", "1"},
      {"stream", "\"yes\""},
      {"stop", "5"},
      {"stop", "[5]"},
      {"stop", "\"\""},
      {"stop", "[\"\"]"},
      {"stop_token_ids", "[100]"},
      {"stop_token_ids", "[-1]"},
      {"stop_token_ids", "5"},
      {"seed", "\"x\""},
      {"seed", "1.5"},
      {"logit_bias", "[]"},
      {"logit_bias", "{\"x\": 1}"},
      {"logit_bias", "{\"100\": 1}"},
      {"logit_bias", "{\"1\": 101}"},
      {"logit_bias", "{\"1\": null}"},
      {"ignore_eos", "0"},
      {"min_tokens", "-1"},
      {"user", "5"},
      {"priority", "\"high\""},
      {"speculation", "true"},
      {"response_format", "{\"type\": \"json_object\"}"},
      {"response_format", "5"},
      {"tools", "[{}]"},
      {"tools", "{}"},
      {"tool_choice", "\"auto\""},
      {"best_of", "2"},
      {"suffix", "\"x\""},
      {"model", "5"},
      {"stream_options", "{}"},
      {"skip_special_tokens", "5"}};
  for (const auto& [name, value] : kCases) {
    const std::string body = fmt::format(R"({{"prompt": "x", "{}": {}}})", name, value);
    EXPECT_EQ(ParamOf(ApiKind::kCompletion, body), name) << body;
  }
  std::string many_ids = "1";
  for (int i = 1; i < 1025; ++i) many_ids += ",1";
  EXPECT_EQ(ParamOf(ApiKind::kCompletion,
                    fmt::format(R"({{"prompt": "x", "stop_token_ids": [{}]}})", many_ids)),
            "stop_token_ids");
  for (const auto& [name, value] : std::initializer_list<std::pair<const char*, const char*>>{
           {"drafter", "\"oracle\""}, {"max_nodes", "65"}, {"acceptance", "\"maybe\""}}) {
    const std::string body =
        fmt::format(R"({{"prompt": "x", "speculation": {{"{}": {}}}}})", name, value);
    EXPECT_EQ(ParamOf(ApiKind::kCompletion, body), std::string("speculation.") + name) << body;
  }
  for (const char* prompt : {"5", "[]", "{}", "[1, \"a\"]", "[[1], 2]", "[100]", "[[]x]"}) {
    const auto request = Parse(ApiKind::kCompletion, fmt::format(R"({{"prompt": {}}})", prompt));
    EXPECT_EQ(request.status().code(), StatusCode::kInvalidArgument) << prompt;
  }
  EXPECT_EQ(ParamOf(ApiKind::kCompletion, "{}"), "prompt");
  EXPECT_EQ(ParamOf(ApiKind::kCompletion, R"({"prompt": "x", "max_tokens": 1, "min_tokens": 2})"),
            "min_tokens");
  EXPECT_EQ(ParamOf(ApiKind::kCompletion,
                    R"({"prompt": "x", "stream": true, "stream_options": {"include_usage": 1}})"),
            "stream_options.include_usage");
}

TEST(OpenAiRequestTest, BadMessagesNameTheirPlace) {
  const std::pair<const char*, const char*> kCases[] = {
      {"null", "messages"},
      {"\"hi\"", "messages"},
      {"[]", "messages"},
      {"[5]", "messages[0]"},
      {R"([{"content": "x"}])", "messages[0].role"},
      {R"([{"role": 5, "content": "x"}])", "messages[0].role"},
      {R"([{"role": "user", "content": 5}])", "messages[0].content"},
      {R"([{"role": "user", "content": [5]}])", "messages[0].content"},
      {R"([{"role": "user", "content": [{"type": "text"}]}])", "messages[0].content"},
      {R"([{"role": "user", "content": "x"},
           {"role": "user", "content": [{"type": "image_url", "image_url": {}}]}])",
       "messages[1].content"}};
  for (const auto& [messages, param] : kCases) {
    EXPECT_EQ(ParamOf(ApiKind::kChat, fmt::format(R"({{"messages": {}}})", messages)), param);
  }
  const std::string kMessages = R"({"messages": [{"role": "user", "content": "x"}], )";
  EXPECT_EQ(ParamOf(ApiKind::kChat, kMessages + R"("logprobs": 5})"), "logprobs");
  EXPECT_EQ(ParamOf(ApiKind::kChat, kMessages + R"("top_logprobs": 5})"), "top_logprobs");
  EXPECT_EQ(ParamOf(ApiKind::kChat, kMessages + R"("max_completion_tokens": 0})"),
            "max_completion_tokens");
  EXPECT_EQ(Parse(ApiKind::kChat, "[]").status().code(), StatusCode::kInvalidArgument);
}

TEST(OpenAiRequestTest, EchoAllowsScoringOnly) {
  EXPECT_EQ(Completion(R"(, "echo": true, "max_tokens": 0)").generation.max_tokens, 0);
}

TEST(OpenAiRequestTest, NegativeSeedsAreSeeds) {
  EXPECT_EQ(Completion(R"(, "seed": -1)").generation.seed, 0xffffffffffffffffu);
}

}  // namespace
}  // namespace treeline
