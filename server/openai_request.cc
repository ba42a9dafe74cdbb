#include "server/openai_request.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>
#include <utility>

#include "server/json_fields.h"
#include "server/status_codes.h"

namespace treeline {

namespace {

constexpr int32_t kMaxInt = std::numeric_limits<int32_t>::max();
constexpr int32_t kMaxChoices = 128;
constexpr int32_t kMaxPrompts = 256;
constexpr int32_t kMaxTopLogprobs = 20;
constexpr size_t kMaxStops = 16;
constexpr size_t kMaxStopBytes = 1024;
constexpr size_t kMaxStopTokenIds = 1024;
constexpr size_t kMaxLogitBias = 1024;
constexpr int32_t kDefaultCompletionTokens = 16;

Status NotSupported(const std::string& param) {
  return FieldError(param, "{} is not supported yet; leave it out", param);
}

void ParseSampling(const RequestLimits& limits, JsonFields* fields, GenerationRequest* request) {
  SamplingParams& sampling = request->sampling;
  sampling = limits.defaults;
  fields->Number("temperature", 0, 2, &sampling.temperature);
  fields->Number("top_p", 0, 1, &sampling.top_p);
  if (sampling.top_p <= 0) {
    fields->Fail(FieldError("top_p", "top_p must be greater than 0"));
  }
  fields->Integer("top_k", -1, kMaxInt, &sampling.top_k);
  sampling.top_k = std::max(sampling.top_k, 0);  // -1 and 0 both mean all tokens.
  fields->Number("min_p", 0, 1, &sampling.min_p);
  fields->Number("presence_penalty", -2, 2, &sampling.presence_penalty);
  fields->Number("frequency_penalty", -2, 2, &sampling.frequency_penalty);
  fields->Number("repetition_penalty", 0, 10, &sampling.repetition_penalty);
  if (sampling.repetition_penalty <= 0) {
    fields->Fail(FieldError("repetition_penalty", "repetition_penalty must be greater than 0"));
  }
  fields->Seed("seed", &request->seed);
}

StatusOr<std::pair<int32_t, float>> ParseBias(const std::string& key, const Json& value,
                                              int32_t vocab_size) {
  constexpr char kName[] = "logit_bias";
  int32_t id = -1;
  const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
  if (error != std::errc() || end != key.data() + key.size() || id < 0 || id >= vocab_size) {
    return FieldError(kName, "logit_bias: {} is not a token id from 0 to {}", Quote(key),
                      vocab_size - 1);
  }
  const double bias = value.is_number() ? value.get<double>() : 0;
  if (!value.is_number() || !(bias >= -100 && bias <= 100)) {
    return FieldError(kName, "logit_bias[\"{}\"] must be a number from -100 to 100, not {}", id,
                      Quote(value));
  }
  return std::pair(id, static_cast<float>(bias));
}

void ParseLogitBias(int32_t vocab_size, JsonFields* fields, SamplingParams* sampling) {
  fields->Describe("logit_bias", [] {
    return Json{
        {"type", {"object", "null"}},
        {"description", "Token ids, and what is added to their logits."},
        {"propertyNames", {{"pattern", "^[0-9]+$"}}},
        {"maxProperties", kMaxLogitBias},
        {"additionalProperties", {{"type", "number"}, {"minimum", -100}, {"maximum", 100}}}};
  });
  const Json* found = fields->Find("logit_bias");
  if (found == nullptr) return;
  if (!found->is_object() || found->size() > kMaxLogitBias) {
    return fields->Fail(FieldError("logit_bias",
                                   "logit_bias must be an object of at most {} token ids and "
                                   "biases, not {}",
                                   kMaxLogitBias, Quote(*found)));
  }
  for (const auto& [key, value] : found->items()) {
    const auto bias = ParseBias(key, value, vocab_size);
    if (!bias.ok()) return fields->Fail(bias.status());
    sampling->logit_bias.push_back(*bias);
  }
}

void ParseStopStrings(JsonFields* fields, std::vector<std::string>* stops) {
  fields->Describe("stop", [] {
    const Json text = {{"type", "string"}, {"minLength", 1}, {"maxLength", kMaxStopBytes}};
    return Json{{"anyOf",
                 {text,
                  {{"type", "array"}, {"items", text}, {"maxItems", kMaxStops}},
                  {{"type", "null"}}}}};
  });
  const Json* found = fields->Find("stop");
  if (found == nullptr) return;
  const Json list = found->is_array() ? *found : Json::array({*found});
  if (list.size() > kMaxStops) {
    return fields->Fail(FieldError("stop", "stop must hold at most {} strings", kMaxStops));
  }
  for (const Json& item : list) {
    if (!item.is_string()) {
      return fields->Fail(
          FieldError("stop", "stop must be a string or an array of strings, not {}", Quote(item)));
    }
    const std::string text = item.get<std::string>();
    if (text.empty() || text.size() > kMaxStopBytes) {
      return fields->Fail(FieldError("stop", "stop must hold strings of 1 to {} bytes, not of {}",
                                     kMaxStopBytes, text.size()));
    }
    stops->push_back(text);
  }
}

void ParseStopCriteria(int32_t vocab_size, JsonFields* fields, StopCriteria* stop) {
  ParseStopStrings(fields, &stop->stop_strings);
  fields->Describe("stop_token_ids", [=] {
    return Json{{"type", {"array", "null"}},
                {"items", TokenIdSchema(vocab_size)},
                {"maxItems", kMaxStopTokenIds}};
  });
  if (const Json* found = fields->Find("stop_token_ids")) {
    auto ids = ParseTokenIds(*found, "stop_token_ids", vocab_size);
    if (!ids.ok()) return fields->Fail(ids.status());
    if (ids->size() > kMaxStopTokenIds) {  // Each token drawn is looked up among them.
      return fields->Fail(FieldError("stop_token_ids", "stop_token_ids must hold at most {} ids",
                                     kMaxStopTokenIds));
    }
    stop->stop_token_ids = *std::move(ids);
  }
  fields->Bool("ignore_eos", &stop->ignore_eos);
  fields->Integer("min_tokens", 0, kMaxInt, &stop->min_tokens);
}

// Fields that clients send and that ask for nothing, or for something not built yet.
void ParseUnsupported(JsonFields* fields) {
  std::string user;
  fields->String("user", &user);
  fields->Describe("response_format", [] {
    return Json{{"type", {"object", "null"}},
                {"properties", {{"type", {{"const", "text"}}}}},
                {"required", {"type"}},
                {"additionalProperties", false}};
  });
  fields->Describe("tools", [] { return Json{{"type", {"array", "null"}}, {"maxItems", 0}}; });
  fields->Describe("tool_choice", [] { return Json{{"enum", {"none", nullptr}}}; });
  if (const Json* format = fields->Find("response_format")) {
    const Json text = {{"type", "text"}};
    if (*format != text) fields->Fail(NotSupported("response_format"));
  }
  if (const Json* tools = fields->Find("tools")) {
    if (!tools->is_array() || !tools->empty()) fields->Fail(NotSupported("tools"));
  }
  if (const Json* choice = fields->Find("tool_choice")) {
    if (*choice != "none") fields->Fail(NotSupported("tool_choice"));
  }
}

void ParseStreaming(JsonFields* fields, OpenAiRequest* request) {
  fields->Bool("stream", &request->stream);
  fields->Object("stream_options", [request](JsonFields* options) {
    options->Bool("include_usage", &request->include_usage);
  });
  if (fields->Find("stream_options") != nullptr && !request->stream) {
    fields->Fail(FieldError("stream_options", "stream_options only goes with \"stream\": true"));
  }
}

// The values of speculation.drafter.
StatusOr<Drafters> ParseDrafters(const std::string& name) {
  if (name == "auto") return Drafters();
  if (name == "none") return kNoDrafters;
  Drafters drafters = kNoDrafters;
  if (name == "ngram") {
    drafters.ngram = true;
  } else if (name == "medusa") {
    drafters.heads = true;
  } else if (name == "draft_model") {
    drafters.draft_model = true;
  } else {
    return FieldError("speculation.drafter",
                      "speculation.drafter must be one of auto, none, ngram, medusa, draft_model");
  }
  return drafters;
}

// "speculation": how this request is guessed ahead; without it as the server is set.
void ParseSpeculation(JsonFields* fields, GenerationRequest* request) {
  std::string drafter = "auto", acceptance = "exact";
  fields->Object("speculation", [&](JsonFields* options) {
    options->String("drafter", &drafter);
    options->Describe("drafter", [] {
      return Json{{"enum", {"auto", "none", "ngram", "medusa", "draft_model", nullptr}}};
    });
    options->Integer("max_nodes", 1, TokenTree::kMaxNodes, &request->max_draft_nodes);
    options->String("acceptance", &acceptance);
    options->Describe("acceptance", [] { return Json{{"enum", {"exact", "typical", nullptr}}}; });
  });
  const StatusOr<Drafters> drafters = ParseDrafters(drafter);
  if (drafters.ok()) {
    request->drafters = *drafters;
  } else {
    fields->Fail(drafters.status());
  }
  request->typical_acceptance = acceptance == "typical";
  if (acceptance != "exact" && acceptance != "typical") {
    fields->Fail(FieldError("speculation.acceptance",
                            "speculation.acceptance must be exact or typical (which changes what "
                            "is drawn)"));
  }
}

void ParseCommon(const RequestLimits& limits, JsonFields* fields, OpenAiRequest* request) {
  GenerationRequest& generation = request->generation;
  fields->String("model", &generation.model);
  ParseStreaming(fields, request);
  ParseSampling(limits, fields, &generation);
  ParseLogitBias(limits.vocab_size, fields, &generation.sampling);
  ParseStopCriteria(limits.vocab_size, fields, &generation.stop);
  fields->Integer("n", 1, kMaxChoices, &generation.num_choices);
  fields->Bool("skip_special_tokens", &generation.skip_special_tokens);
  fields->Integer("priority", -kMaxInt, kMaxInt, &generation.priority);
  ParseSpeculation(fields, &generation);
  ParseUnsupported(fields);
}

void CheckMinTokens(JsonFields* fields, const GenerationRequest& request) {
  if (request.max_tokens && request.stop.min_tokens > *request.max_tokens) {
    fields->Fail(FieldError("min_tokens", "min_tokens is {}, more than max_tokens, {}",
                            request.stop.min_tokens, *request.max_tokens));
  }
}

Json PromptSchema(int32_t vocab_size) {
  const Json text = {{"type", "string"}};
  const Json ids = {{"type", "array"}, {"items", TokenIdSchema(vocab_size)}, {"minItems", 1}};
  const Json prompts = {{"type", "array"},
                        {"items", {{"anyOf", {text, ids}}}},
                        {"minItems", 1},
                        {"maxItems", kMaxPrompts}};
  return {{"anyOf", {text, ids, prompts}},
          {"description", "Text or token ids; several of these are answered as one."}};
}

// One prompt is a string or ids; several are an array of those.
StatusOr<std::vector<Prompt>> ParsePrompts(const Json& value, int32_t vocab_size) {
  if (value.is_string()) return std::vector<Prompt>{value.get<std::string>()};
  if (!value.is_array() || value.empty()) {
    return FieldError("prompt",
                      "prompt must be a string, an array of token ids, or an array of either, "
                      "and not empty");
  }
  if (value[0].is_number()) {
    TREELINE_ASSIGN_OR_RETURN(auto ids, ParseTokenIds(value, "prompt", vocab_size));
    return std::vector<Prompt>{std::move(ids)};
  }
  if (value.size() > kMaxPrompts) {
    return FieldError("prompt", "prompt holds {} prompts; send at most {}", value.size(),
                      kMaxPrompts);
  }
  std::vector<Prompt> prompts;
  for (const Json& item : value) {
    if (item.is_string()) {
      prompts.emplace_back(item.get<std::string>());
    } else {
      TREELINE_ASSIGN_OR_RETURN(auto ids, ParseTokenIds(item, "prompt", vocab_size));
      prompts.emplace_back(std::move(ids));
    }
  }
  return prompts;
}

void ParseCompletion(const RequestLimits& limits, JsonFields* fields, OpenAiRequest* request) {
  GenerationRequest& generation = request->generation;
  fields->Describe("prompt", [&] { return PromptSchema(limits.vocab_size); });
  if (const Json* prompt = fields->Find("prompt")) {
    auto prompts = ParsePrompts(*prompt, limits.vocab_size);
    fields->Fail(prompts.status());
    if (prompts.ok()) generation.prompts = *std::move(prompts);
  } else {
    fields->Fail(FieldError("prompt", "prompt is missing"));
  }
  fields->Bool("echo", &request->echo);
  generation.default_max_tokens = kDefaultCompletionTokens;
  fields->Integer("max_tokens", request->echo ? 0 : 1, kMaxInt, &generation.max_tokens);
  fields->Describe("max_tokens", [] {
    return Json{{"minimum", 0}, {"description", "At least 1, unless the prompt is echoed."}};
  });
  CheckMinTokens(fields, generation);

  std::optional<int32_t> logprobs;
  fields->Integer("logprobs", 0, kMaxTopLogprobs, &logprobs);
  generation.logprobs = logprobs.has_value();
  generation.top_logprobs = logprobs.value_or(0);
  generation.prompt_logprobs = request->echo && generation.logprobs;

  int32_t best_of = generation.num_choices;
  fields->Integer("best_of", 1, kMaxChoices, &best_of);
  if (best_of != generation.num_choices) fields->Fail(NotSupported("best_of"));
  std::string suffix;
  fields->String("suffix", &suffix);
  if (!suffix.empty()) fields->Fail(NotSupported("suffix"));
}

// The text of "content": a string, null, or an array of text parts.
StatusOr<Json> ParseContent(const Json& content, const std::string& param) {
  if (content.is_string() || content.is_null()) return content;
  if (!content.is_array()) {
    return FieldError(param, "{} must be a string or an array of parts, not {}", param,
                      Quote(content));
  }
  std::string text;
  for (const Json& part : content) {
    const Json type = part.is_object() ? part.value("type", Json()) : Json();
    if (type.is_string() && type != "text") {
      return FieldError(param, "{}: parts of type {} are not supported yet; send text", param,
                        Quote(type));
    }
    const auto part_text = part.is_object() ? part.find("text") : part.end();
    if (type != "text" || part_text == part.end() || !part_text->is_string()) {
      return FieldError(param, "{} must hold parts like {{\"type\": \"text\", \"text\": ...}}",
                        param);
    }
    if (&part != &content.front()) text += "\n";
    text += part_text->get_ref<const std::string&>();
  }
  return Json(std::move(text));
}

void ParseChat(JsonFields* fields, OpenAiRequest* request) {
  GenerationRequest& generation = request->generation;
  fields->Describe("messages", MessagesSchema);
  if (const Json* messages = fields->Find("messages")) {
    auto parsed = ParseMessages(*messages);
    fields->Fail(parsed.status());
    if (parsed.ok()) generation.messages = *std::move(parsed);
  } else {
    fields->Fail(FieldError("messages", "messages is missing"));
  }
  fields->Integer("max_tokens", 1, kMaxInt, &generation.max_tokens);
  fields->Integer("max_completion_tokens", 1, kMaxInt, &generation.max_tokens);
  CheckMinTokens(fields, generation);

  fields->Bool("logprobs", &generation.logprobs);
  fields->Integer("top_logprobs", 0, kMaxTopLogprobs, &generation.top_logprobs);
  if (generation.top_logprobs > 0 && !generation.logprobs) {
    fields->Fail(FieldError("top_logprobs", "top_logprobs only goes with \"logprobs\": true"));
  }
}

void ParseFields(const RequestLimits& limits, JsonFields* fields, OpenAiRequest* request) {
  ParseCommon(limits, fields, request);
  if (request->kind == ApiKind::kChat) {
    ParseChat(fields, request);
  } else {
    ParseCompletion(limits, fields, request);
  }
}

}  // namespace

StatusOr<Json> ParseMessages(const Json& value) {
  if (!value.is_array() || value.empty()) {
    return FieldError("messages", "messages must be an array with at least one message");
  }
  Json messages = value;
  for (size_t i = 0; i < messages.size(); ++i) {
    Json& message = messages[i];
    const std::string param = fmt::format("messages[{}]", i);
    if (!message.is_object()) {
      return FieldError(param, "{} must be an object, not {}", param, Quote(message));
    }
    const auto role = message.find("role");
    if (role == message.end() || !role->is_string()) {
      return FieldError(param + ".role", "{}.role must be a string", param);
    }
    TREELINE_ASSIGN_OR_RETURN(message["content"],
                              ParseContent(message.value("content", Json()), param + ".content"));
  }
  return messages;
}

Json MessagesSchema() {
  const Json part = {
      {"type", "object"},
      {"properties", {{"type", {{"const", "text"}}}, {"text", {{"type", "string"}}}}},
      {"required", {"type", "text"}}};
  const Json content = {
      {"anyOf", {{{"type", "string"}}, {{"type", "array"}, {"items", part}}, {{"type", "null"}}}}};
  const Json message = {{"type", "object"},
                        {"properties", {{"role", {{"type", "string"}}}, {"content", content}}},
                        {"required", {"role"}}};
  return {{"type", "array"}, {"items", message}, {"minItems", 1}};
}

StatusOr<OpenAiRequest> ParseOpenAiRequest(ApiKind kind, const Json& body,
                                           const RequestLimits& limits) {
  if (!body.is_object()) return InvalidArgument("the request body must be a JSON object");
  OpenAiRequest request;
  request.kind = kind;
  JsonFields fields(body);
  ParseFields(limits, &fields, &request);
  TREELINE_RETURN_IF_ERROR(fields.status());
  request.unknown_fields = fields.Unknown();
  return request;
}

Json OpenAiRequestSchema(ApiKind kind, const RequestLimits& limits) {
  OpenAiRequest request;
  request.kind = kind;
  Json properties =
      JsonFields::Properties([&](JsonFields* fields) { ParseFields(limits, fields, &request); });
  return {{"type", "object"},
          {"properties", std::move(properties)},
          {"required", {kind == ApiKind::kChat ? "messages" : "prompt"}}};
}

}  // namespace treeline
