// What every transport does with an OpenAI request before it runs: the allowance of
// its key, parsing, submission. Counts what is refused. Thread-safe.
#ifndef TREELINE_SERVER_INTAKE_H_
#define TREELINE_SERVER_INTAKE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "engine/base/clock.h"
#include "engine/base/json.h"
#include "engine/base/status.h"
#include "engine/sampling/params.h"
#include "scheduler/observer.h"
#include "server/api_keys.h"
#include "server/generation_service.h"
#include "server/openai_request.h"
#include "server/rate_limiter.h"

namespace treeline {

// What requests are answered with.
struct ServedModel {
  GenerationService& service;
  SamplingParams sampling_defaults{};  // For fields that a request leaves out.
  int64_t created = 0;                 // When the model came up; Unix time, seconds.
};

// Told to clients that come before the model.
Status StillLoading();

class Intake {
 public:
  // Who asks.
  struct Caller {
    std::string request_id;
    ApiKey key;  // Without a name where no keys are asked for.
    TimePoint arrival;
  };

  // A generation that runs.
  struct Accepted {
    // Takes what was used from the key's allowance, and gives back the rest.
    void Account(const Usage& usage);
    // For the log: what was used, the seed, and how long each phase took.
    OrderedJson Notes() const;

    OpenAiRequest request;
    Generation generation;
    std::unique_ptr<TokenAllowance> allowance;
    Usage used{};
  };

  // `observer` and `clock` outlive this.
  Intake(SchedulerObserver& observer, const Clock& clock)
      : observer_(observer), rate_limiter_(clock) {}

  // Starts it, or tells why not. The body is asked for once the key may ask at all.
  StatusOr<Accepted> Start(ApiKind kind, const ServedModel& model, const Caller& caller,
                           const std::function<StatusOr<Json>()>& body);
  // A refusal that a transport decided.
  void CountRefusal(std::string_view reason) { observer_.OnRejected(reason); }

 private:
  StatusOr<OpenAiRequest> Parse(ApiKind kind, const ServedModel& model, const Caller& caller,
                                const std::function<StatusOr<Json>()>& body);
  void LogUnknownFields(const std::vector<std::string>& names);

  SchedulerObserver& observer_;
  RateLimiter rate_limiter_;
  std::mutex mutex_;
  std::set<std::string> logged_fields_;  // Protected by mutex_; of a bounded size.
};

}  // namespace treeline

#endif  // TREELINE_SERVER_INTAKE_H_
