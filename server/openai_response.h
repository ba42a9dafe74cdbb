// Token events -> OpenAI response bodies, whole or as stream chunks. Holds what a
// response has said so far (text offsets, roles). Not thread-safe.
#ifndef TREELINE_SERVER_OPENAI_RESPONSE_H_
#define TREELINE_SERVER_OPENAI_RESPONSE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/json.h"
#include "engine/text/tokenizer.h"
#include "scheduler/token_stream.h"
#include "server/openai_request.h"

namespace treeline {

class OpenAiResponse {
 public:
  struct Info {
    std::string id;       // Of the request; the response's carries a prefix.
    std::string model;    // As reported.
    int64_t created = 0;  // Unix time, seconds.
  };

  // `prompts` are the token ids of each prompt. `tokenizer` and `request` outlive this.
  OpenAiResponse(const OpenAiRequest& request, Info info,
                 const std::vector<std::vector<int32_t>>& prompts, const Tokenizer& tokenizer);

  // The chunk that tells this event; none where there is nothing to tell (text held back).
  std::optional<Json> Chunk(const TokenEvent& event);
  // The last chunk where the client asked for it: no choices.
  Json UsageChunk(const Usage& usage) const;

  // Collects an event for Whole().
  void Add(const TokenEvent& event);
  // The response to a request that does not stream.
  Json Whole(const Usage& usage) const;

 private:
  struct Choice {
    bool started = false;     // Its first chunk was made.
    std::string text;         // Collected for Whole().
    Json logprobs;            // Collected for Whole(); null where not asked for.
    int64_t text_offset = 0;  // Characters of the tokens in logprobs so far.
    std::optional<FinishReason> finish;
  };

  bool is_chat() const { return request_.kind == ApiKind::kChat; }
  size_t PromptOf(int32_t choice) const { return choice / request_.generation.num_choices; }
  Json Header(const char* object) const;
  // The text of an event; the echoed prompt before a choice's first.
  std::string Text(const TokenEvent& event, bool first) const;
  // Appends the event's log-probabilities; the echoed prompt's before a choice's first.
  void AppendLogprobs(const TokenEvent& event, bool first, Choice* choice, Json* logprobs) const;
  void AppendPrompt(size_t prompt, Choice* choice, Json* logprobs) const;
  void AppendToken(const TokenLogprob& token, Choice* choice, Json* logprobs) const;
  Json EmptyLogprobs() const;
  Json ChatToken(int32_t id, float logprob) const;
  std::string EchoText(size_t prompt) const;
  std::string TokenText(int32_t id) const;

  const OpenAiRequest& request_;
  const Info info_;
  const std::vector<std::vector<int32_t>> prompts_;
  const Tokenizer& tokenizer_;
  std::vector<Choice> choices_;
  std::vector<std::vector<TokenLogprob>> prompt_logprobs_;  // Of each prompt, once they came.
};

// {"prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details"}.
Json UsageJson(const Usage& usage);

}  // namespace treeline

#endif  // TREELINE_SERVER_OPENAI_RESPONSE_H_
