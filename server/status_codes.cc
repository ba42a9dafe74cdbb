#include "server/status_codes.h"

#include <absl/strings/cord.h>

#include <algorithm>
#include <chrono>
#include <optional>

namespace treeline {

namespace {

constexpr char kParam[] = "treeline/param";
constexpr char kCode[] = "treeline/code";
constexpr char kRetryAfter[] = "treeline/retry_after";
// Messages may quote what the client sent; this much of it is enough.
constexpr size_t kMaxMessageBytes = 2000;

Json Payload(const Status& status, const char* key) {
  const auto payload = status.GetPayload(key);
  if (!payload.has_value()) return nullptr;
  return std::string(*payload);
}

const char* ErrorType(int http_status) {
  switch (http_status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 429:
      return "rate_limit_error";
    default:
      return http_status < 500 ? "invalid_request_error" : "server_error";
  }
}

Json MakeErrorBody(int http_status, const std::string& message, Json param, Json code) {
  return {{"error",
           {{"message", message.substr(0, kMaxMessageBytes)},
            {"type", ErrorType(http_status)},
            {"param", std::move(param)},
            {"code", std::move(code)}}}};
}

}  // namespace

Status WithParam(Status status, const std::string& param) {
  status.SetPayload(kParam, absl::Cord(param));
  return status;
}

Status WithCode(Status status, const std::string& code) {
  status.SetPayload(kCode, absl::Cord(code));
  return status;
}

Status WithRetryAfter(Status status, Duration wait) {
  const auto seconds = std::chrono::ceil<std::chrono::seconds>(wait).count();
  status.SetPayload(kRetryAfter, absl::Cord(std::to_string(seconds)));
  return status;
}

int64_t RetryAfterSeconds(const Status& status) {
  const auto payload = status.GetPayload(kRetryAfter);
  if (!payload.has_value()) return 1;
  return std::max<int64_t>(1, std::stoll(std::string(*payload)));
}

int HttpStatus(const Status& status) {
  switch (status.code()) {
    case StatusCode::kOk:
      return 200;
    case StatusCode::kInvalidArgument:
    case StatusCode::kOutOfRange:
      return 400;
    case StatusCode::kUnauthenticated:
      return 401;
    case StatusCode::kPermissionDenied:
      return 403;
    case StatusCode::kNotFound:
      return 404;
    case StatusCode::kResourceExhausted:
      return 429;
    case StatusCode::kCancelled:
      return 499;
    case StatusCode::kUnimplemented:
      return 501;
    case StatusCode::kUnavailable:
      return 503;
    case StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

Json ErrorBody(const Status& status) {
  return MakeErrorBody(HttpStatus(status), Message(status), Payload(status, kParam),
                       Payload(status, kCode));
}

Json ErrorBody(int http_status, const std::string& message) {
  return MakeErrorBody(http_status, message, nullptr, nullptr);
}

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace treeline
