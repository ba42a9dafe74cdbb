#include "server/grpc_messages.h"

#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

namespace treeline {
namespace {

v1::GenerateRequest Parse(const std::string& text) {
  v1::GenerateRequest request;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &request)) << text;
  return request;
}

TEST(GrpcMessagesTest, APromptIsACompletion) {
  const v1::GenerateRequest request = Parse(R"(
      model: "m" prompt: "x" max_tokens: 5 temperature: 0 top_p: 0.5 seed: 18446744073709551615
      stop: "a" stop: "b" stop_token_ids: 7 logit_bias { key: 3 value: -1.5 } ignore_eos: true
      logprobs: 2 n: 3 priority: -1)");
  EXPECT_EQ(KindOf(request), ApiKind::kCompletion);
  EXPECT_EQ(OpenAiBody(request), Json::parse(R"({
      "model": "m", "prompt": "x", "max_tokens": 5, "temperature": 0.0, "top_p": 0.5,
      "seed": 18446744073709551615, "stop": ["a", "b"], "stop_token_ids": [7],
      "logit_bias": {"3": -1.5}, "ignore_eos": true, "logprobs": 2, "n": 3, "priority": -1})"));
}

TEST(GrpcMessagesTest, WhatIsLeftOutIsLeftOut) {
  EXPECT_EQ(OpenAiBody(v1::GenerateRequest()), Json::object());
  EXPECT_EQ(OpenAiBody(Parse("prompt_token_ids {}")), Json::parse(R"({"prompt": []})"));
  EXPECT_EQ(OpenAiBody(Parse("prompt_token_ids { ids: [1, 2] }")),
            Json::parse(R"({"prompt": [1, 2]})"));
}

TEST(GrpcMessagesTest, AChatSpellsLogprobsWithTwoFields) {
  const v1::GenerateRequest request =
      Parse(R"(chat { messages { role: "user" content: "hi" } } logprobs: 0)");
  EXPECT_EQ(KindOf(request), ApiKind::kChat);
  EXPECT_EQ(OpenAiBody(request), Json::parse(R"({
      "messages": [{"role": "user", "content": "hi"}], "logprobs": true, "top_logprobs": 0})"));
}

// Every field that a request has is one that the parser of both APIs knows.
TEST(GrpcMessagesTest, NoFieldIsUnknownToTheParser) {
  for (const char* input : {"prompt: 'x'", "chat { messages { role: 'user' content: 'x' } }"}) {
    const Json body = OpenAiBody(Parse(std::string(input) + R"(
        model: "m" max_tokens: 5 min_tokens: 1 stop: "a" stop_token_ids: 7 ignore_eos: true
        temperature: 1 top_p: 1 top_k: 1 min_p: 0 presence_penalty: 0 frequency_penalty: 0
        repetition_penalty: 1 logit_bias { key: 3 value: 1 } seed: 1 n: 1 logprobs: 1
        skip_special_tokens: true priority: 1
        speculation { drafter: "none" max_nodes: 4 acceptance: "exact" })"));
    const ApiKind kind = body.contains("messages") ? ApiKind::kChat : ApiKind::kCompletion;
    const auto parsed = ParseOpenAiRequest(kind, body, {.vocab_size = 10, .defaults = {}});
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_TRUE(parsed->unknown_fields.empty());
  }
}

TEST(GrpcMessagesTest, StepsAddUpToAChoice) {
  TokenEvent first;
  first.text = "ab";
  first.tokens = {1, 2};
  first.logprobs = {{.token = 1, .logprob = -0.5f, .top = {{9, -0.25f}}}};
  TokenEvent last;
  last.text = "c";
  last.tokens = {3};
  last.finish = FinishReason::kLength;
  v1::GenerateBatchResponse::Choice choice;
  Append(ToMessage(first), &choice);
  EXPECT_EQ(choice.finish_reason(), v1::FINISH_REASON_UNSPECIFIED);
  Append(ToMessage(last), &choice);
  EXPECT_EQ(choice.text(), "abc");
  EXPECT_EQ(choice.token_ids_size(), 3);
  EXPECT_EQ(choice.logprobs(0).top(0).token_id(), 9);
  EXPECT_EQ(choice.finish_reason(), v1::FINISH_REASON_LENGTH);
}

}  // namespace
}  // namespace treeline
