#include "scheduler/admission.h"

namespace treeline {
namespace {

Status CheckPrompt(const Request& request, const EngineLimits& limits) {
  if (request.prompt.empty()) return InvalidArgument("prompt: it must have at least one token");
  for (size_t i = 0; i < request.prompt.size(); ++i) {
    if (request.prompt[i] < 0 || request.prompt[i] >= limits.vocab_size) {
      return InvalidArgument("prompt: token {} is {}; token ids are 0 to {}", i, request.prompt[i],
                             limits.vocab_size - 1);
    }
  }
  const size_t room = limits.max_context - (request.stop.max_tokens > 0 ? 1 : 0);
  if (request.prompt.size() > room) {
    return InvalidArgument("prompt: {} tokens; the context holds {}, prompt and output together",
                           request.prompt.size(), limits.max_context);
  }
  return OkStatus();
}

Status CheckStop(const StopCriteria& stop, const EngineLimits& limits) {
  if (stop.max_tokens < 0) {
    return InvalidArgument("max_tokens: {}; it must be at least 0", stop.max_tokens);
  }
  if (stop.min_tokens < 0 || stop.min_tokens > stop.max_tokens) {
    return InvalidArgument("min_tokens: {}; it must be 0 to max_tokens ({})", stop.min_tokens,
                           stop.max_tokens);
  }
  for (const int32_t id : stop.stop_token_ids) {
    if (id < 0 || id >= limits.vocab_size) {
      return InvalidArgument("stop_token_ids: {}; token ids are 0 to {}", id,
                             limits.vocab_size - 1);
    }
  }
  for (const std::string& text : stop.stop_strings) {
    if (text.empty()) return InvalidArgument("stop: a stop string must not be empty");
  }
  return OkStatus();
}

}  // namespace

Status CheckAdmissible(const Request& request, const EngineLimits& limits) {
  TREELINE_RETURN_IF_ERROR(CheckPrompt(request, limits));
  TREELINE_RETURN_IF_ERROR(CheckStop(request.stop, limits));
  if (request.num_choices < 1 || request.num_choices > limits.num_slots) {
    return InvalidArgument("n: {}; it must be 1 to {}, the number of state slots",
                           request.num_choices, limits.num_slots);
  }
  if (request.top_logprobs < 0 || request.top_logprobs > limits.vocab_size) {
    return InvalidArgument("top_logprobs: {}; it must be 0 to {}", request.top_logprobs,
                           limits.vocab_size);
  }
  return OkStatus();
}

}  // namespace treeline
