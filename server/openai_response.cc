#include "server/openai_response.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>
#include <variant>

#include "engine/text/utf8.h"

namespace treeline {

namespace {

// JSON has no -inf.
constexpr float kLeastLogprob = -9999.0f;

float Finite(float logprob) {
  return std::isfinite(logprob) ? std::max(logprob, kLeastLogprob) : kLeastLogprob;
}

const char* FinishName(FinishReason reason) {
  return reason == FinishReason::kStop ? "stop" : "length";
}

Json FinishJson(const std::optional<FinishReason>& reason) {
  return reason.has_value() ? Json(FinishName(*reason)) : Json();
}

bool IsUtf8(std::string_view bytes) { return ValidUtf8Prefix(bytes) == bytes.size(); }

// Those that begin in `utf8`, which may hold parts of characters.
int64_t CountCharacters(std::string_view utf8) {
  return std::count_if(utf8.begin(), utf8.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

}  // namespace

OpenAiResponse::OpenAiResponse(const OpenAiRequest& request, Info info,
                               const std::vector<std::vector<int32_t>>& prompts,
                               const Tokenizer& tokenizer)
    : request_(request),
      info_(std::move(info)),
      prompts_(prompts),
      tokenizer_(tokenizer),
      choices_(prompts.size() * request.generation.num_choices),
      prompt_logprobs_(prompts.size()) {
  if (!request_.generation.logprobs) return;
  for (Choice& choice : choices_) choice.logprobs = EmptyLogprobs();
}

Json OpenAiResponse::Header(const char* object) const {
  return {{"id", (is_chat() ? "chatcmpl-" : "cmpl-") + info_.id},
          {"object", object},
          {"created", info_.created},
          {"model", info_.model}};
}

Json OpenAiResponse::EmptyLogprobs() const {
  if (is_chat()) return {{"content", Json::array()}, {"refusal", nullptr}};
  return {{"tokens", Json::array()},
          {"token_logprobs", Json::array()},
          {"top_logprobs", Json::array()},
          {"text_offset", Json::array()}};
}

// A token as text. Half a character becomes "bytes:\xe2\x82", as OpenAI writes it, so that
// different tokens stay different keys.
std::string OpenAiResponse::TokenText(int32_t id) const {
  const std::string bytes(tokenizer_.TokenBytes(id));
  if (IsUtf8(bytes)) return bytes;
  std::string text = "bytes:";
  for (const unsigned char byte : bytes) text += fmt::format("\\x{:02x}", byte);
  return text;
}

std::string OpenAiResponse::EchoText(size_t prompt) const {
  const std::vector<Prompt>& asked = request_.generation.prompts;
  const auto* text = std::get_if<std::string>(&asked[prompt]);
  return text != nullptr ? *text : tokenizer_.Decode(prompts_[prompt], /*skip_special=*/false);
}

std::string OpenAiResponse::Text(const TokenEvent& event, bool first) const {
  if (!first || !request_.echo) return event.text;
  return EchoText(PromptOf(event.choice)) + event.text;
}

Json OpenAiResponse::ChatToken(int32_t id, float logprob) const {
  Json bytes = Json::array();
  for (const unsigned char byte : tokenizer_.TokenBytes(id)) bytes.push_back(byte);
  return {{"token", TokenText(id)}, {"logprob", Finite(logprob)}, {"bytes", std::move(bytes)}};
}

void OpenAiResponse::AppendToken(const TokenLogprob& token, Choice* choice, Json* logprobs) const {
  if (is_chat()) {
    Json entry = ChatToken(token.token, token.logprob);
    entry["top_logprobs"] = Json::array();
    for (const auto& [id, logprob] : token.top) {
      entry["top_logprobs"].push_back(ChatToken(id, logprob));
    }
    (*logprobs)["content"].push_back(std::move(entry));
    return;
  }
  const std::string text = TokenText(token.token);
  Json top = {{text, Finite(token.logprob)}};  // The chosen token is always among them.
  for (const auto& [id, logprob] : token.top) top[TokenText(id)] = Finite(logprob);
  (*logprobs)["tokens"].push_back(text);
  (*logprobs)["token_logprobs"].push_back(Finite(token.logprob));
  (*logprobs)["top_logprobs"].push_back(std::move(top));
  (*logprobs)["text_offset"].push_back(choice->text_offset);
  choice->text_offset += CountCharacters(tokenizer_.TokenBytes(token.token));
}

// The first token of a prompt has no probability: nothing comes before it.
void OpenAiResponse::AppendPrompt(size_t prompt, Choice* choice, Json* logprobs) const {
  const int32_t first = prompts_[prompt].front();
  (*logprobs)["tokens"].push_back(TokenText(first));
  (*logprobs)["token_logprobs"].push_back(nullptr);
  (*logprobs)["top_logprobs"].push_back(nullptr);
  (*logprobs)["text_offset"].push_back(choice->text_offset);
  choice->text_offset += CountCharacters(tokenizer_.TokenBytes(first));
  for (const TokenLogprob& token : prompt_logprobs_[prompt]) AppendToken(token, choice, logprobs);
}

void OpenAiResponse::AppendLogprobs(const TokenEvent& event, bool first, Choice* choice,
                                    Json* logprobs) const {
  if (first && request_.generation.prompt_logprobs) {
    AppendPrompt(PromptOf(event.choice), choice, logprobs);
  }
  for (const TokenLogprob& token : event.logprobs) AppendToken(token, choice, logprobs);
}

std::optional<Json> OpenAiResponse::Chunk(const TokenEvent& event) {
  if (!event.prompt_logprobs.empty()) {
    prompt_logprobs_[PromptOf(event.choice)] = event.prompt_logprobs;
  }
  Choice& choice = choices_[event.choice];
  const bool first = !choice.started;
  const std::string text = Text(event, first);
  const bool wants_logprobs = request_.generation.logprobs;
  if (text.empty() && !event.finish && !(wants_logprobs && !event.logprobs.empty())) {
    return std::nullopt;
  }
  choice.started = true;

  Json entry = {{"index", event.choice}, {"finish_reason", FinishJson(event.finish)}};
  if (is_chat()) {
    entry["delta"] = {{"content", text}};
    if (first) entry["delta"]["role"] = "assistant";
  } else {
    entry["text"] = text;
  }
  entry["logprobs"] = nullptr;
  if (wants_logprobs) {
    entry["logprobs"] = EmptyLogprobs();
    AppendLogprobs(event, first, &choice, &entry["logprobs"]);
  }
  Json chunk = Header(is_chat() ? "chat.completion.chunk" : "text_completion");
  chunk["choices"] = Json::array({std::move(entry)});
  if (request_.include_usage) chunk["usage"] = nullptr;
  return chunk;
}

Json OpenAiResponse::UsageChunk(const Usage& usage) const {
  Json chunk = Header(is_chat() ? "chat.completion.chunk" : "text_completion");
  chunk["choices"] = Json::array();
  chunk["usage"] = UsageJson(usage);
  return chunk;
}

void OpenAiResponse::Add(const TokenEvent& event) {
  if (!event.prompt_logprobs.empty()) {
    prompt_logprobs_[PromptOf(event.choice)] = event.prompt_logprobs;
  }
  Choice& choice = choices_[event.choice];
  choice.text += Text(event, !choice.started);
  if (request_.generation.logprobs) {
    AppendLogprobs(event, !choice.started, &choice, &choice.logprobs);
  }
  choice.started = true;
  if (event.finish) choice.finish = event.finish;
}

Json OpenAiResponse::Whole(const Usage& usage) const {
  Json whole = Header(is_chat() ? "chat.completion" : "text_completion");
  whole["choices"] = Json::array();
  for (size_t i = 0; i < choices_.size(); ++i) {
    const Choice& choice = choices_[i];
    Json entry = {
        {"index", i}, {"finish_reason", FinishJson(choice.finish)}, {"logprobs", choice.logprobs}};
    if (is_chat()) {
      entry["message"] = {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}};
    } else {
      entry["text"] = choice.text;
    }
    whole["choices"].push_back(std::move(entry));
  }
  whole["usage"] = UsageJson(usage);
  return whole;
}

Json UsageJson(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}},
          {"completion_tokens_details",
           {{"accepted_prediction_tokens", usage.accepted_draft_tokens},
            {"rejected_prediction_tokens", usage.rejected_draft_tokens}}}};
}

}  // namespace treeline
