// For programs that measure a scheduler from outside.
#ifndef TREELINE_SCHEDULER_BENCH_NO_OBSERVER_H_
#define TREELINE_SCHEDULER_BENCH_NO_OBSERVER_H_

#include <cstdint>
#include <string_view>

#include "engine/base/clock.h"
#include "scheduler/observer.h"

namespace treeline {

class NoObserver : public SchedulerObserver {
 public:
  void OnStep(int32_t, int32_t, const SchedulerGauges&) override {}
  void OnPromptComputed(int32_t, int32_t) override {}
  void OnDraft(int32_t, int32_t) override {}
  void OnFirstToken(Duration) override {}
  void OnNextTokens(Duration) override {}
  void OnFinished(const RequestTimes&) override {}
  void OnRejected(std::string_view) override {}
};

}  // namespace treeline

#endif  // TREELINE_SCHEDULER_BENCH_NO_OBSERVER_H_
