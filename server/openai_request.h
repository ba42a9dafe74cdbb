// OpenAI request bodies -> GenerationRequest. Unknown fields are ignored (and
// reported, to be logged); a known field with a bad value is INVALID_ARGUMENT naming it.
#ifndef TREELINE_SERVER_OPENAI_REQUEST_H_
#define TREELINE_SERVER_OPENAI_REQUEST_H_

#include <cstdint>
#include <string>
#include <vector>

#include "engine/base/json.h"
#include "engine/base/status.h"
#include "engine/sampling/params.h"
#include "server/generation_service.h"

namespace treeline {

enum class ApiKind { kCompletion, kChat };

struct OpenAiRequest {
  ApiKind kind = ApiKind::kCompletion;
  GenerationRequest generation;  // Its id and arrival are the transport's to set.
  bool stream = false;
  bool include_usage = false;  // Ends a stream with a chunk that holds the usage.
  bool echo = false;           // Completions: the prompt comes before the text.
  std::vector<std::string> unknown_fields;
};

// What parsing needs to know of the model.
struct RequestLimits {
  int32_t vocab_size = 0;
  SamplingParams defaults;  // For fields that a request leaves out.
};

StatusOr<OpenAiRequest> ParseOpenAiRequest(ApiKind kind, const Json& body,
                                           const RequestLimits& limits);

// JSON Schema of the bodies that it takes, made by the same calls. (What depends on several fields
// at once is not in it.)
Json OpenAiRequestSchema(ApiKind kind, const RequestLimits& limits);

// "messages": an array of {"role", "content"}; arrays of text parts become one string.
StatusOr<Json> ParseMessages(const Json& value);
Json MessagesSchema();

}  // namespace treeline

#endif  // TREELINE_SERVER_OPENAI_REQUEST_H_
