// How many prompt tokens a step may run so that those who decode in it do not wait too
// long: learns what steps take and divides the time they are given. Not thread-safe.
#ifndef TREELINE_SCHEDULER_PROMPT_PACER_H_
#define TREELINE_SCHEDULER_PROMPT_PACER_H_

#include <cstdint>

#include "engine/base/clock.h"

namespace treeline {

class PromptPacer {
 public:
  // 0: steps may take as long as they like. Where the decodes alone take half of step_time or more,
  // prompts get as much time as they: a slow machine must not starve its prompts.
  explicit PromptPacer(Duration step_time) : step_time_(ToSeconds(step_time)) {}

  // The tokens of prompts that the next step may run beside `num_decoding` sequences, at least 1.
  int32_t MaxPromptTokens(int32_t num_decoding) const;

  // What a step took that ran so much.
  void Observe(int32_t prompt_tokens, int32_t num_decoding, Duration took);

 private:
  const double step_time_;  // Seconds.
  // Seconds; moving averages, less than 0 before there was such a step.
  double decode_step_ = -1;   // A step without prompts.
  double prompt_token_ = -1;  // A prompt token more in a step.
};

}  // namespace treeline

#endif  // TREELINE_SCHEDULER_PROMPT_PACER_H_
