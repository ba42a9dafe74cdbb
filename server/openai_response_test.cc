// The expected bodies are written by hand from OpenAI's API reference.
#include "server/openai_response.h"

#include <gtest/gtest.h>

#include <limits>

#include "server/byte_tokenizer.h"

namespace treeline {
namespace {

using Ids = std::vector<int32_t>;

const OpenAiResponse::Info kInfo{"7", "m", 1700000000};

OpenAiRequest CompletionRequest(std::vector<Prompt> prompts) {
  OpenAiRequest request;
  request.kind = ApiKind::kCompletion;
  request.generation.prompts = std::move(prompts);
  return request;
}

OpenAiRequest ChatRequest() {
  OpenAiRequest request;
  request.kind = ApiKind::kChat;
  request.generation.messages = Json::array();
  return request;
}

TokenEvent Text(int32_t choice, const std::string& text,
                std::optional<FinishReason> finish = std::nullopt) {
  TokenEvent event;
  event.choice = choice;
  event.text = text;
  for (const unsigned char byte : text) event.tokens.push_back(byte);
  event.finish = finish;
  return event;
}

class OpenAiResponseTest : public ::testing::Test {
 protected:
  ByteTokenizer tokenizer_;
};

TEST_F(OpenAiResponseTest, WholeCompletion) {
  OpenAiRequest request = CompletionRequest({"a", "b"});
  request.generation.num_choices = 2;
  OpenAiResponse response(request, kInfo, {{97}, {98}}, tokenizer_);
  response.Add(Text(3, "x"));
  response.Add(Text(0, "h"));
  response.Add(Text(0, "i", FinishReason::kStop));
  response.Add(Text(1, "", FinishReason::kLength));
  response.Add(Text(2, "z", FinishReason::kLength));
  response.Add(Text(3, "y", FinishReason::kStop));
  EXPECT_EQ(response.Whole({.prompt_tokens = 2,
                            .completion_tokens = 5,
                            .cached_tokens = 0,
                            .accepted_draft_tokens = 3,
                            .rejected_draft_tokens = 4}),
            Json::parse(R"({
    "id": "cmpl-7", "object": "text_completion", "created": 1700000000, "model": "m",
    "choices": [
      {"index": 0, "text": "hi", "logprobs": null, "finish_reason": "stop"},
      {"index": 1, "text": "", "logprobs": null, "finish_reason": "length"},
      {"index": 2, "text": "z", "logprobs": null, "finish_reason": "length"},
      {"index": 3, "text": "xy", "logprobs": null, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7,
              "prompt_tokens_details": {"cached_tokens": 0},
              "completion_tokens_details": {"accepted_prediction_tokens": 3,
                                            "rejected_prediction_tokens": 4}}})"));
}

TEST_F(OpenAiResponseTest, WholeChat) {
  const OpenAiRequest request = ChatRequest();
  OpenAiResponse response(request, kInfo, {{97}}, tokenizer_);
  response.Add(Text(0, "Paris", FinishReason::kStop));
  EXPECT_EQ(response.Whole({.prompt_tokens = 1,
                            .completion_tokens = 6,
                            .cached_tokens = 1,
                            .accepted_draft_tokens = 3,
                            .rejected_draft_tokens = 4}),
            Json::parse(R"({
    "id": "chatcmpl-7", "object": "chat.completion", "created": 1700000000, "model": "m",
    "choices": [{"index": 0, "logprobs": null, "finish_reason": "stop",
                 "message": {"role": "assistant", "content": "Paris", "refusal": null}}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 6, "total_tokens": 7,
              "prompt_tokens_details": {"cached_tokens": 1},
              "completion_tokens_details": {"accepted_prediction_tokens": 3,
                                            "rejected_prediction_tokens": 4}}})"));
}

TEST_F(OpenAiResponseTest, ChatChunksCarryTheRoleWithTheFirstText) {
  OpenAiRequest request = ChatRequest();
  request.include_usage = true;
  OpenAiResponse response(request, kInfo, {{97}}, tokenizer_);
  EXPECT_EQ(response.Chunk(Text(0, "")), std::nullopt);  // Nothing to tell: no role-only chunk.
  EXPECT_EQ(*response.Chunk(Text(0, "Pa")), Json::parse(R"({
    "id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 1700000000, "model": "m",
    "usage": null,
    "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Pa"},
                 "logprobs": null, "finish_reason": null}]})"));
  EXPECT_EQ(response.Chunk(Text(0, "ris", FinishReason::kStop))->at("choices"), Json::parse(R"([
    {"index": 0, "delta": {"content": "ris"}, "logprobs": null, "finish_reason": "stop"}])"));
  EXPECT_EQ(response.UsageChunk({.prompt_tokens = 3,
                                 .completion_tokens = 2,
                                 .cached_tokens = 0,
                                 .accepted_draft_tokens = 3,
                                 .rejected_draft_tokens = 4}),
            Json::parse(R"({
    "id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 1700000000, "model": "m",
    "choices": [],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5,
              "prompt_tokens_details": {"cached_tokens": 0},
              "completion_tokens_details": {"accepted_prediction_tokens": 3,
                                            "rejected_prediction_tokens": 4}}})"));
}

TEST_F(OpenAiResponseTest, AnEmptyAnswerStillFinishes) {
  const OpenAiRequest request = ChatRequest();
  OpenAiResponse response(request, kInfo, {{97}}, tokenizer_);
  EXPECT_EQ(*response.Chunk(Text(0, "", FinishReason::kStop)), Json::parse(R"({
    "id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 1700000000, "model": "m",
    "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""},
                 "logprobs": null, "finish_reason": "stop"}]})"));
}

TEST_F(OpenAiResponseTest, CompletionLogprobsWithEcho) {
  // "é" is two byte tokens; the prompt is "aé", one token more follows.
  OpenAiRequest request = CompletionRequest({Ids{'a', 0xc3, 0xa9}});
  request.echo = true;
  request.generation.logprobs = true;
  request.generation.prompt_logprobs = true;
  request.generation.top_logprobs = 1;
  TokenEvent event = Text(0, "b", FinishReason::kLength);
  event.prompt_logprobs = {{0xc3, -1.5f, {{'x', -0.5f}}}, {0xa9, -0.25f, {{0xa9, -0.25f}}}};
  event.logprobs = {{'b', -2.0f, {{'c', -1.0f}}}};
  const Json expected = Json::parse(R"({
    "tokens": ["a", "bytes:\\xc3", "bytes:\\xa9", "b"],
    "token_logprobs": [null, -1.5, -0.25, -2.0],
    "top_logprobs": [null, {"bytes:\\xc3": -1.5, "x": -0.5}, {"bytes:\\xa9": -0.25},
                     {"b": -2.0, "c": -1.0}],
    "text_offset": [0, 1, 2, 2]})");

  OpenAiResponse whole(request, kInfo, {{'a', 0xc3, 0xa9}}, tokenizer_);
  whole.Add(event);
  const Json choice = whole.Whole(Usage())["choices"][0];
  EXPECT_EQ(choice["text"], "aéb");
  EXPECT_EQ(choice["logprobs"], expected);

  OpenAiResponse streamed(request, kInfo, {{'a', 0xc3, 0xa9}}, tokenizer_);
  const Json chunk = *streamed.Chunk(event);
  EXPECT_EQ(chunk["choices"][0]["text"], "aéb");
  EXPECT_EQ(chunk["choices"][0]["logprobs"], expected);
}

TEST_F(OpenAiResponseTest, EchoRepeatsTheTextForEveryChoice) {
  OpenAiRequest request = CompletionRequest({"He said "});
  request.echo = true;
  request.generation.num_choices = 2;
  OpenAiResponse response(request, kInfo, {{1, 2}}, tokenizer_);
  EXPECT_EQ((*response.Chunk(Text(0, "a")))["choices"][0]["text"], "He said a");
  EXPECT_EQ((*response.Chunk(Text(1, "b")))["choices"][0]["text"], "He said b");
  EXPECT_EQ((*response.Chunk(Text(0, "c")))["choices"][0]["text"], "c");
}

TEST_F(OpenAiResponseTest, ChatLogprobs) {
  OpenAiRequest request = ChatRequest();
  request.generation.logprobs = true;
  request.generation.top_logprobs = 2;
  OpenAiResponse response(request, kInfo, {{97}}, tokenizer_);
  TokenEvent event = Text(0, "H");
  event.logprobs = {{'H', -0.5f, {{'H', -0.5f}, {0xff, -std::numeric_limits<float>::infinity()}}}};
  EXPECT_EQ((*response.Chunk(event))["choices"][0]["logprobs"], Json::parse(R"({
    "content": [{"token": "H", "logprob": -0.5, "bytes": [72], "top_logprobs": [
      {"token": "H", "logprob": -0.5, "bytes": [72]},
      {"token": "bytes:\\xff", "logprob": -9999.0, "bytes": [255]}]}],
    "refusal": null})"));
}

}  // namespace
}  // namespace treeline
