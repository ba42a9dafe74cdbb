// What the scheduler tells whoever counts (server/metrics, tests). Called on the
// scheduler's thread (OnRejected: on the submitting thread); must not block. All of a
// request's calls come before its stream ends.
#ifndef TREELINE_SCHEDULER_OBSERVER_H_
#define TREELINE_SCHEDULER_OBSERVER_H_

#include <cstdint>
#include <optional>
#include <string_view>

#include "engine/base/clock.h"
#include "scheduler/token_stream.h"

namespace treeline {

// Where every waiting and running thing stands after a step.
struct SchedulerGauges {
  int32_t running = 0;     // Requests admitted: at least one choice has got its slot.
  int32_t waiting = 0;     // Requests in the queue: for a slot.
  int32_t prefilling = 0;  // Of those running: waiting for their prompt to be computed.
  int32_t slots_used = 0;
  int32_t slots_total = 0;
};

// How a request ended.
enum class Outcome {
  kStop,    // Every choice stopped by itself.
  kLength,  // A choice met max_tokens or the context limit.
  kAbort,   // The client went away, or the server stopped.
  kError,   // Anything else, a passed deadline too.
};

struct RequestTimes : PhaseTimes {
  Outcome outcome = Outcome::kStop;
  Usage usage;
  int32_t max_tokens = 0;
  std::optional<Duration> inference;  // First slot to last token.
  Duration end_to_end{};              // Arrival to end.
};

class SchedulerObserver {
 public:
  virtual ~SchedulerObserver() = default;
  // After every step, with what it ran and drew. Both are 0 where the step failed, or where a
  // round ran nothing and only ended requests.
  virtual void OnStep(int32_t prompt_tokens, int32_t generated_tokens,
                      const SchedulerGauges& gauges) = 0;
  // A choice's prompt is done: so many tokens, of which the prefix cache spared so many.
  virtual void OnPromptComputed(int32_t prompt_tokens, int32_t cached_tokens) = 0;
  // A choice's draft was verified: so many guesses, of which the first so many were right, one
  // after the other.
  virtual void OnDraft(int32_t num_guesses, int32_t num_accepted) = 0;
  virtual void OnFirstToken(Duration since_arrival) = 0;   // The first of all choices.
  virtual void OnNextTokens(Duration since_previous) = 0;  // One choice's later steps.
  virtual void OnFinished(const RequestTimes& times) = 0;
  // "invalid", "queue_full", "draining", "device_lost".
  virtual void OnRejected(std::string_view reason) = 0;
};

}  // namespace treeline

#endif  // TREELINE_SCHEDULER_OBSERVER_H_
