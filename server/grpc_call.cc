#include "server/grpc_call.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "engine/base/json.h"
#include "server/request_id.h"
#include "server/status_codes.h"

namespace treeline {

namespace {

// Headers of HTTP/2 hold no other bytes.
bool IsPrintable(const std::string& text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c <= '~'; });
}

}  // namespace

GrpcCall::GrpcCall(std::shared_ptr<GrpcCalls> calls, std::string method,
                   grpc::CallbackServerContext& context)
    : calls_(std::move(calls)),
      method_(std::move(method)),
      context_(context),
      trace_(StartSpan(Metadata("traceparent"))) {
  ++calls_->num_calls;
  caller_.arrival = calls_->clock.Now();
  caller_.request_id = RequestId(Metadata("x-request-id"));
  context_.AddInitialMetadata("x-request-id", caller_.request_id);
  context_.AddInitialMetadata("traceparent", trace_.Header());
}

std::string GrpcCall::Metadata(const std::string& name) const {
  const auto& metadata = context_.client_metadata();
  const auto found = metadata.find(name);
  if (found == metadata.end()) return "";
  return std::string(found->second.data(), found->second.size());
}

Status GrpcCall::Admit() {
  if (calls_->num_calls > calls_->max_calls) {
    calls_->on_refused("too_many_connections");
    return WithRetryAfter(
        ResourceExhausted("too many calls at once; the limit is {}", calls_->max_calls),
        std::chrono::seconds(1));
  }
  if (calls_->api_keys == nullptr) return OkStatus();
  constexpr std::string_view kScheme = "Bearer ";
  const std::string given = Metadata("authorization");
  std::optional<ApiKey> key;
  if (given.starts_with(kScheme)) key = calls_->api_keys->Find(given.substr(kScheme.size()));
  if (!key) {
    calls_->on_refused("unauthorized");
    return MakeStatus(StatusCode::kUnauthenticated,
                      "a valid API key is needed as metadata: authorization: Bearer KEY");
  }
  caller_.key = *std::move(key);
  return OkStatus();
}

Status GrpcCall::WhyCancelled() const {
  if (context_.deadline() <= std::chrono::system_clock::now()) {
    return MakeStatus(StatusCode::kDeadlineExceeded, "the call's deadline has passed");
  }
  return MakeStatus(StatusCode::kCancelled, "the client cancelled the call");
}

grpc::Status GrpcCall::End(const Status& status, const OrderedJson& notes) {
  calls_->on_response({.method = method_,
                       .code = status.ok() ? "OK" : absl::StatusCodeToString(status.code()),
                       .id = caller_.request_id,
                       .trace = trace_,
                       .duration = calls_->clock.Now() - caller_.arrival,
                       .notes = notes});
  if (status.ok()) return grpc::Status::OK;
  const Json error = ErrorBody(status)["error"];
  for (const char* name : {"param", "code"}) {
    if (!error[name].is_string() || !IsPrintable(error[name])) continue;
    context_.AddTrailingMetadata(std::string("error-") + name, error[name]);
  }
  if (status.code() == StatusCode::kResourceExhausted ||
      status.code() == StatusCode::kUnavailable) {
    context_.AddTrailingMetadata("retry-after", std::to_string(RetryAfterSeconds(status)));
  }
  // Status's codes are gRPC's own; HTTP's follow from them by server/status_codes.h.
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), error["message"]);
}

}  // namespace treeline
