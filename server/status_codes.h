// The one table between Status and what clients see: HTTP codes and OpenAI's
// error body. (Other transports map the same codes here.)
#ifndef TREELINE_SERVER_STATUS_CODES_H_
#define TREELINE_SERVER_STATUS_CODES_H_

#include <cstdint>
#include <string>
#include <utility>

#include "engine/base/clock.h"
#include "engine/base/json.h"
#include "engine/base/status.h"

namespace treeline {

// INVALID_ARGUMENT that names the request's field: "param" of the error body.
template <typename... Args>
Status FieldError(const std::string& param, fmt::format_string<Args...> format, Args&&... args);

// Adds the error body's "param" or "code" to a Status (kept as payloads, so that they travel
// with it).
Status WithParam(Status status, const std::string& param);
Status WithCode(Status status, const std::string& code);

// When the client may try again: the "Retry-After" of 429 and 503.
Status WithRetryAfter(Status status, Duration wait);
// In whole seconds, at least 1: also where none was given.
int64_t RetryAfterSeconds(const Status& status);

// 200 for OK, else 4xx or 5xx. 499 (the client has gone) never goes over the wire.
int HttpStatus(const Status& status);

// {"error": {"message", "type", "param", "code"}}. REQUIRES: !status.ok().
Json ErrorBody(const Status& status);
// The same for errors that HTTP has and Status has not (405, 413, ...).
Json ErrorBody(int http_status, const std::string& message);

// JSON text; what is not UTF-8 becomes U+FFFD.
std::string Dump(const Json& json);

//////////
// Implementation details follow.

template <typename... Args>
Status FieldError(const std::string& param, fmt::format_string<Args...> format, Args&&... args) {
  return WithParam(InvalidArgument(format, std::forward<Args>(args)...), param);
}

}  // namespace treeline

#endif  // TREELINE_SERVER_STATUS_CODES_H_
