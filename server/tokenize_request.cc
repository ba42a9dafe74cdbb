#include "server/tokenize_request.h"

#include <utility>

#include "server/json_fields.h"
#include "server/openai_request.h"
#include "server/status_codes.h"

namespace treeline {

namespace {

void ReadFields(JsonFields* fields, TokenizeRequest* request) {
  fields->String("model", &request->model);
  fields->Bool("add_special_tokens", &request->add_special_tokens);
  fields->String("prompt", &request->prompt);
  fields->Describe("messages", MessagesSchema);
  const Json* messages = fields->Find("messages");
  if ((messages == nullptr) == (fields->Find("prompt") == nullptr)) {
    return fields->Fail(FieldError("prompt", "send either prompt or messages"));
  }
  if (messages == nullptr) return;
  StatusOr<Json> parsed = ParseMessages(*messages);
  fields->Fail(parsed.status());
  if (parsed.ok()) request->messages = *std::move(parsed);
}

void ReadFields(int32_t vocab_size, JsonFields* fields, DetokenizeRequest* request) {
  fields->String("model", &request->model);
  fields->Describe("tokens", [=] {
    return Json{{"type", "array"}, {"items", TokenIdSchema(vocab_size)}};
  });
  const Json* tokens = fields->Find("tokens");
  if (tokens == nullptr) return fields->Fail(FieldError("tokens", "tokens is missing"));
  StatusOr<std::vector<int32_t>> ids = ParseTokenIds(*tokens, "tokens", vocab_size);
  fields->Fail(ids.status());
  if (ids.ok()) request->tokens = *std::move(ids);
}

}  // namespace

StatusOr<TokenizeRequest> ParseTokenizeRequest(const Json& body) {
  TokenizeRequest request;
  JsonFields fields(body);
  ReadFields(&fields, &request);
  TREELINE_RETURN_IF_ERROR(fields.status());
  return request;
}

Json TokenizeRequestSchema() {
  TokenizeRequest request;
  return {{"type", "object"},
          {"properties",
           JsonFields::Properties([&](JsonFields* fields) { ReadFields(fields, &request); })},
          {"oneOf", {{{"required", {"prompt"}}}, {{"required", {"messages"}}}}}};
}

StatusOr<DetokenizeRequest> ParseDetokenizeRequest(const Json& body, int32_t vocab_size) {
  DetokenizeRequest request;
  JsonFields fields(body);
  ReadFields(vocab_size, &fields, &request);
  TREELINE_RETURN_IF_ERROR(fields.status());
  return request;
}

Json DetokenizeRequestSchema(int32_t vocab_size) {
  DetokenizeRequest request;
  return {{"type", "object"},
          {"properties", JsonFields::Properties([&](JsonFields* fields) {
             ReadFields(vocab_size, fields, &request);
           })},
          {"required", {"tokens"}}};
}

}  // namespace treeline
