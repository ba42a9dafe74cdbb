#include "server/sse.h"

#include "server/status_codes.h"

namespace treeline {

std::string SseEvent(const Json& json) { return "data: " + Dump(json) + "\n\n"; }

}  // namespace treeline
