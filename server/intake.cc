#include "server/intake.h"

#include <spdlog/spdlog.h>

#include <chrono>
#include <utility>

#include "server/json_fields.h"
#include "server/request_log.h"
#include "server/status_codes.h"

namespace treeline {

namespace {

constexpr size_t kMaxLoggedFields = 1000;
constexpr size_t kMaxLoggedNameBytes = 80;

}  // namespace

Status StillLoading() {
  // Loads take seconds, not minutes.
  return WithRetryAfter(MakeStatus(StatusCode::kUnavailable, "the model is being loaded"),
                        std::chrono::seconds(2));
}

void Intake::Accepted::Account(const Usage& usage) {
  used = usage;
  allowance->Use(int64_t{usage.prompt_tokens} + usage.completion_tokens);
}

OrderedJson Intake::Accepted::Notes() const {
  OrderedJson notes = {{"prompt_tokens", used.prompt_tokens},
                       {"completion_tokens", used.completion_tokens},
                       {"cached_tokens", used.cached_tokens},
                       {"accepted_draft_tokens", used.accepted_draft_tokens},
                       {"seed", generation.seed()}};
  if (const auto times = generation.times()) {
    notes["queue_ms"] = Milliseconds(times->queue);
    if (times->prefill) notes["prefill_ms"] = Milliseconds(*times->prefill);
    if (times->decode) notes["decode_ms"] = Milliseconds(*times->decode);
  }
  return notes;
}

void Intake::LogUnknownFields(const std::vector<std::string>& names) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (const std::string& name : names) {
    const std::string shown = name.substr(0, kMaxLoggedNameBytes);
    if (logged_fields_.size() >= kMaxLoggedFields || !logged_fields_.insert(shown).second) continue;
    spdlog::warn("ignoring the unknown request field {}", Quote(shown));
  }
}

StatusOr<OpenAiRequest> Intake::Parse(ApiKind kind, const ServedModel& model, const Caller& caller,
                                      const std::function<StatusOr<Json>()>& body) {
  TREELINE_ASSIGN_OR_RETURN(const Json json, body());
  const RequestLimits limits{model.service.options().vocab_size, model.sampling_defaults};
  TREELINE_ASSIGN_OR_RETURN(OpenAiRequest request, ParseOpenAiRequest(kind, json, limits));
  request.generation.id = caller.request_id;
  request.generation.arrival = caller.arrival;
  return request;
}

StatusOr<Intake::Accepted> Intake::Start(ApiKind kind, const ServedModel& model,
                                         const Caller& caller,
                                         const std::function<StatusOr<Json>()>& body) {
  if (const Status allowed = rate_limiter_.TakeRequest(caller.key); !allowed.ok()) {
    observer_.OnRejected("rate_limited");
    return allowed;
  }
  StatusOr<OpenAiRequest> request = Parse(kind, model, caller, body);
  if (!request.ok()) {
    observer_.OnRejected("invalid");
    return request.status();
  }
  LogUnknownFields(request->unknown_fields);
  auto allowance = std::make_unique<TokenAllowance>(rate_limiter_, caller.key);
  request->generation.admit = [&](int64_t tokens) { return allowance->Take(tokens); };
  TREELINE_ASSIGN_OR_RETURN(Generation generation, model.service.Start(request->generation));
  request->generation.admit = nullptr;
  return Accepted{*std::move(request), std::move(generation), std::move(allowance)};
}

}  // namespace treeline
