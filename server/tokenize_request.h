// Bodies of /tokenize and /detokenize.
#ifndef TREELINE_SERVER_TOKENIZE_REQUEST_H_
#define TREELINE_SERVER_TOKENIZE_REQUEST_H_

#include <cstdint>
#include <string>
#include <vector>

#include "engine/base/json.h"
#include "engine/base/status.h"

namespace treeline {

struct TokenizeRequest {
  std::string model;
  std::string prompt;  // Or:
  Json messages;       // a chat, where not null.
  bool add_special_tokens = true;
};
// REQUIRES (all): body.is_object().
StatusOr<TokenizeRequest> ParseTokenizeRequest(const Json& body);
Json TokenizeRequestSchema();

struct DetokenizeRequest {
  std::string model;
  std::vector<int32_t> tokens;
};
StatusOr<DetokenizeRequest> ParseDetokenizeRequest(const Json& body, int32_t vocab_size);
Json DetokenizeRequestSchema(int32_t vocab_size);

}  // namespace treeline

#endif  // TREELINE_SERVER_TOKENIZE_REQUEST_H_
