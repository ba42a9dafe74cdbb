#include "server/grpc_messages.h"

#include <string>
#include <vector>

namespace treeline {

namespace {

using google::protobuf::FieldDescriptor;

// A single value as JSON. REQUIRES: neither repeated nor a message.
Json Value(const google::protobuf::Message& message, const FieldDescriptor* field) {
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection.GetBool(message, field);
    case FieldDescriptor::CPPTYPE_INT32:
      return reflection.GetInt32(message, field);
    case FieldDescriptor::CPPTYPE_UINT64:
      return reflection.GetUInt64(message, field);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return reflection.GetFloat(message, field);
    default:
      return reflection.GetString(message, field);
  }
}

// The single values that are there, under their names.
Json Values(const google::protobuf::Message& message) {
  std::vector<const FieldDescriptor*> fields;
  message.GetReflection()->ListFields(message, &fields);
  Json values = Json::object();
  for (const FieldDescriptor* field : fields) {
    if (field->is_repeated() || field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) continue;
    values[field->name()] = Value(message, field);
  }
  return values;
}

template <typename Repeated>
Json Array(const Repeated& values) {
  Json array = Json::array();
  for (const auto& value : values) array.push_back(value);
  return array;
}

v1::TokenLogprob ToMessage(const TokenLogprob& token) {
  v1::TokenLogprob message;
  message.set_token_id(token.token);
  message.set_logprob(token.logprob);
  for (const auto& [id, logprob] : token.top) {
    v1::TokenLogprob::Alternative& alternative = *message.add_top();
    alternative.set_token_id(id);
    alternative.set_logprob(logprob);
  }
  return message;
}

}  // namespace

ApiKind KindOf(const v1::GenerateRequest& request) {
  return request.has_chat() ? ApiKind::kChat : ApiKind::kCompletion;
}

Json OpenAiMessages(const v1::Chat& chat) {
  Json messages = Json::array();
  for (const v1::ChatMessage& message : chat.messages()) {
    messages.push_back({{"role", message.role()}, {"content", message.content()}});
  }
  return messages;
}

Json OpenAiBody(const v1::GenerateRequest& request) {
  Json body = Values(request);
  if (request.has_chat()) body["messages"] = OpenAiMessages(request.chat());
  if (request.has_prompt_token_ids()) body["prompt"] = Array(request.prompt_token_ids().ids());
  if (request.has_speculation()) body["speculation"] = Values(request.speculation());
  if (request.stop_size() > 0) body["stop"] = Array(request.stop());
  if (request.stop_token_ids_size() > 0) body["stop_token_ids"] = Array(request.stop_token_ids());
  for (const auto& [id, bias] : request.logit_bias()) {
    body["logit_bias"][std::to_string(id)] = bias;
  }
  if (request.has_chat() && request.has_logprobs()) {  // Chats spell it with two fields.
    body["logprobs"] = true;
    body["top_logprobs"] = request.logprobs();
  }
  return body;
}

v1::GenerateResponse ToMessage(const TokenEvent& event) {
  v1::GenerateResponse message;
  message.set_choice(event.choice);
  message.set_text(event.text);
  message.mutable_token_ids()->Add(event.tokens.begin(), event.tokens.end());
  for (const TokenLogprob& token : event.logprobs) *message.add_logprobs() = ToMessage(token);
  if (event.finish) {
    message.set_finish_reason(*event.finish == FinishReason::kStop ? v1::FINISH_REASON_STOP
                                                                   : v1::FINISH_REASON_LENGTH);
  }
  return message;
}

v1::Usage ToMessage(const Usage& usage) {
  v1::Usage message;
  message.set_prompt_tokens(usage.prompt_tokens);
  message.set_completion_tokens(usage.completion_tokens);
  message.set_cached_prompt_tokens(usage.cached_tokens);
  message.set_accepted_draft_tokens(usage.accepted_draft_tokens);
  message.set_rejected_draft_tokens(usage.rejected_draft_tokens);
  return message;
}

void Append(const v1::GenerateResponse& step, v1::GenerateBatchResponse::Choice* choice) {
  choice->mutable_text()->append(step.text());
  choice->mutable_token_ids()->MergeFrom(step.token_ids());
  choice->mutable_logprobs()->MergeFrom(step.logprobs());
  if (step.finish_reason() != v1::FINISH_REASON_UNSPECIFIED) {
    choice->set_finish_reason(step.finish_reason());
  }
}

}  // namespace treeline
