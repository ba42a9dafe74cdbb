// Any bytes as the body of a completion or chat request: a request or a clear error.
#include <cstddef>
#include <cstdint>
#include <string>

#include "server/openai_request.h"
#include "server/status_codes.h"

namespace treeline {
namespace {

void ParseAs(ApiKind kind, const Json& body) {
  RequestLimits limits;
  limits.vocab_size = 1000;
  const auto request = ParseOpenAiRequest(kind, body, limits);
  if (!request.ok()) {
    TREELINE_CHECK(HttpStatus(request.status()) == 400);
    TREELINE_CHECK(Json::accept(Dump(ErrorBody(request.status()))));
    return;
  }
  // What parsing lets through, the sampler accepts.
  TREELINE_CHECK(request->generation.sampling.Validate(limits.vocab_size).ok());
}

}  // namespace
}  // namespace treeline

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto body = treeline::ParseJson(text, "the request body");
  if (!body.ok()) return 0;
  treeline::ParseAs(treeline::ApiKind::kCompletion, *body);
  treeline::ParseAs(treeline::ApiKind::kChat, *body);
  return 0;
}
