#include "server/openapi.h"

#include <initializer_list>
#include <utility>

#include "server/tokenize_request.h"

namespace treeline {

namespace {

Json Type(const char* name) { return {{"type", name}}; }
Json OrNull(const char* name) { return {{"type", {name, "null"}}}; }
Json ArrayOf(Json items) { return {{"type", "array"}, {"items", std::move(items)}}; }

Json Ref(const std::string& schema) { return {{"$ref", "#/components/schemas/" + schema}}; }

Json OneOfThese(std::initializer_list<Json> schemas) { return {{"anyOf", Json(schemas)}}; }

// An object that has all these members.
Json Object(Json properties) {
  Json required = Json::array();
  for (const auto& [name, schema] : properties.items()) required.push_back(name);
  return {{"type", "object"}, {"properties", std::move(properties)}, {"required", required}};
}

Json Content(const char* media_type, Json schema) {
  return {{media_type, {{"schema", std::move(schema)}}}};
}

Json JsonAnswer(const std::string& schema) {
  return {{"description", "The answer."}, {"content", Content("application/json", Ref(schema))}};
}

Json TextAnswer(const char* media_type) {
  return {{"description", "The answer."}, {"content", Content(media_type, Type("string"))}};
}

Json ErrorAnswer(const char* description) {
  return {{"description", description}, {"content", Content("application/json", Ref("Error"))}};
}

// The errors of every route of the API.
Json ApiResponses(Json success) {
  return {
      {"200", std::move(success)},
      {"400", ErrorAnswer("A field is wrong; \"param\" names it.")},
      {"401", ErrorAnswer("A valid API key is needed.")},
      {"404", ErrorAnswer("There is no such model.")},
      {"413", ErrorAnswer("The body is larger than --max-body-bytes.")},
      {"429", ErrorAnswer("The queue is full, or the key's allowance used up: see Retry-After.")},
      {"500", ErrorAnswer("The engine failed.")},
      {"503", ErrorAnswer("The model is being loaded, or the server is shutting down.")},
      {"504", ErrorAnswer("The deadline passed.")}};
}

Json Post(const std::string& id, const std::string& summary, const std::string& body,
          Json success) {
  return {
      {"post",
       {{"operationId", id},
        {"summary", summary},
        {"security", {Json::object(), {{"bearer", Json::array()}}}},
        {"requestBody", {{"required", true}, {"content", Content("application/json", Ref(body))}}},
        {"responses", ApiResponses(std::move(success))}}}};
}

// A generation is answered as a whole, or as a stream where the body says so.
Json Generation(const std::string& id, const std::string& summary, const std::string& body,
                const std::string& answer) {
  Json success = JsonAnswer(answer);
  success["description"] = "With \"stream\": true as events, the last one data: [DONE].";
  // Without a schema: some read it as that of the stream, others as that of each event.
  success["content"]["text/event-stream"] = Json::object();
  return Post(id, summary, body, std::move(success));
}

Json GetApi(const std::string& id, const std::string& summary, Json success) {
  return {{"get",
           {{"operationId", id},
            {"summary", summary},
            {"security", {Json::object(), {{"bearer", Json::array()}}}},
            {"responses", ApiResponses(std::move(success))}}}};
}

Json GetOpen(const std::string& id, const std::string& summary, Json success) {
  return {
      {"get",
       {{"operationId", id}, {"summary", summary}, {"responses", {{"200", std::move(success)}}}}}};
}

Json Paths() {
  Json model = GetApi("getModel", "One model", JsonAnswer("Model"));
  model["get"]["parameters"] = Json::array({{{"name", "model"},
                                             {"in", "path"},
                                             {"required", true},
                                             {"schema", {{"type", "string"}, {"minLength", 1}}}}});
  Json health = GetOpen("health", "Whether the process is up", JsonAnswer("ServerStatus"));
  health["get"]["responses"]["503"] = ErrorAnswer("Until it is restarted: its device is lost.");
  Json ready = GetOpen("ready", "Whether requests are taken", JsonAnswer("ServerStatus"));
  ready["get"]["responses"]["503"] = ErrorAnswer("Not now.");
  return {
      {"/v1/chat/completions", Generation("chat", "Answers a chat", "ChatRequest", "Chat")},
      {"/v1/completions",
       Generation("complete", "Continues prompts", "CompletionRequest", "Completion")},
      {"/v1/models", GetApi("listModels", "The models that are served", JsonAnswer("Models"))},
      {"/v1/models/{model}", std::move(model)},
      {"/tokenize", Post("tokenize", "The token ids of a text or chat", "TokenizeRequest",
                         JsonAnswer("Tokens"))},
      {"/detokenize",
       Post("detokenize", "The text of token ids", "DetokenizeRequest", JsonAnswer("Text"))},
      {"/health", std::move(health)},
      {"/ready", std::move(ready)},
      {"/version", GetOpen("version", "The server's version", JsonAnswer("Version"))},
      {"/metrics", GetOpen("metrics", "Metrics for Prometheus", TextAnswer("text/plain"))},
      {"/openapi.json", GetOpen("openapi", "This document", JsonAnswer("Document"))},
  };
}

Json Usage() {
  Json usage = Object(
      {{"prompt_tokens", Type("integer")},
       {"completion_tokens", Type("integer")},
       {"total_tokens", Type("integer")},
       {"prompt_tokens_details", Object({{"cached_tokens", Type("integer")}})},
       {"completion_tokens_details", Object({{"accepted_prediction_tokens", Type("integer")},
                                             {"rejected_prediction_tokens", Type("integer")}})}});
  return usage;
}

Json Choice(Json content) {
  content.update({{"index", Type("integer")},
                  {"finish_reason", {{"enum", {"stop", "length"}}}},
                  {"logprobs", OneOfThese({Type("object"), Type("null")})}});
  return Object(std::move(content));
}

Json Answer(const char* object, Json choice) {
  return Object({{"id", Type("string")},
                 {"object", {{"const", object}}},
                 {"created", Type("integer")},
                 {"model", Type("string")},
                 {"choices", ArrayOf(std::move(choice))},
                 {"usage", Ref("Usage")}});
}

Json Schemas(const RequestLimits& limits) {
  const Json message = Object(
      {{"role", {{"const", "assistant"}}}, {"content", Type("string")}, {"refusal", Type("null")}});
  return {
      {"ChatRequest", OpenAiRequestSchema(ApiKind::kChat, limits)},
      {"CompletionRequest", OpenAiRequestSchema(ApiKind::kCompletion, limits)},
      {"TokenizeRequest", TokenizeRequestSchema()},
      {"DetokenizeRequest", DetokenizeRequestSchema(limits.vocab_size)},
      {"Chat", Answer("chat.completion", Choice({{"message", message}}))},
      {"Completion", Answer("text_completion", Choice({{"text", Type("string")}}))},
      {"Usage", Usage()},
      {"Tokens", Object({{"count", Type("integer")},
                         {"max_model_len", Type("integer")},
                         {"tokens", ArrayOf(Type("integer"))}})},
      {"Text", Object({{"prompt", Type("string")}})},
      {"Model", Object({{"id", Type("string")},
                        {"object", {{"const", "model"}}},
                        {"created", Type("integer")},
                        {"owned_by", Type("string")},
                        {"max_model_len", Type("integer")}})},
      {"Models", Object({{"object", {{"const", "list"}}}, {"data", ArrayOf(Ref("Model"))}})},
      {"ServerStatus", Object({{"status", Type("string")}})},
      {"Version", Object({{"version", Type("string")}})},
      {"Document", Type("object")},
      {"Error", Object({{"error", Object({{"message", Type("string")},
                                          {"type", Type("string")},
                                          {"param", OrNull("string")},
                                          {"code", OrNull("string")}})}})},
  };
}

}  // namespace

Json OpenApiDocument(const std::string& version, const RequestLimits& limits) {
  return {{"openapi", "3.1.0"},
          {"info",
           {{"title", "Treeline"},
            {"version", version},
            {"license", {{"name", "Apache-2.0"}, {"identifier", "Apache-2.0"}}}}},
          {"paths", Paths()},
          {"components",
           {{"schemas", Schemas(limits)},
            {"securitySchemes", {{"bearer", {{"type", "http"}, {"scheme", "bearer"}}}}}}}};
}

}  // namespace treeline
