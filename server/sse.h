// Server-sent events as OpenAI's clients read them.
#ifndef TREELINE_SERVER_SSE_H_
#define TREELINE_SERVER_SSE_H_

#include <string>

#include "engine/base/json.h"

namespace treeline {

inline constexpr char kSseContentType[] = "text/event-stream";
inline constexpr char kSseDone[] = "data: [DONE]\n\n";
// A comment: says that the connection lives while a prompt is worked on.
inline constexpr char kSsePing[] = ": ping\n\n";

// "data: {...}\n\n"; JSON text never holds a line break.
std::string SseEvent(const Json& json);

}  // namespace treeline

#endif  // TREELINE_SERVER_SSE_H_
