// The OpenAPI 3.1 document of the HTTP API, at /openapi.json. What it says of request
// bodies comes from the calls that check them.
#ifndef TREELINE_SERVER_OPENAPI_H_
#define TREELINE_SERVER_OPENAPI_H_

#include <string>

#include "engine/base/json.h"
#include "server/openai_request.h"

namespace treeline {

Json OpenApiDocument(const std::string& version, const RequestLimits& limits);

}  // namespace treeline

#endif  // TREELINE_SERVER_OPENAPI_H_
