#include "scheduler/batch_builder.h"

#include <algorithm>

namespace treeline {
namespace {

void Add(SequenceGroup& group, Sequence& sequence, int32_t num_tokens, StepPlan& plan) {
  const int32_t num_requests = sequence.AddTo(plan.batch, num_tokens);
  plan.entries.push_back({&group, &sequence, num_tokens, num_requests});
}

}  // namespace

StepPlan BuildBatch(std::span<const std::unique_ptr<SequenceGroup>> groups, int32_t max_tokens,
                    int32_t max_prompt_tokens, Engine& engine) {
  StepPlan plan;
  for (const auto& group : groups) {
    for (Sequence& sequence : group->sequences()) {
      if (sequence.running() && sequence.decoding()) Add(*group, sequence, 1, plan);
    }
  }
  for (const auto& group : groups) {
    for (Sequence& sequence : group->sequences()) {
      if (!sequence.running() || sequence.decoding()) continue;
      const int32_t room =
          std::min(max_tokens - plan.batch.num_tokens(), max_prompt_tokens - plan.prompt_tokens);
      if (room <= 0) return plan;
      sequence.UsePrefix(engine);
      const int32_t num_tokens = std::min(sequence.num_pending(), room);
      Add(*group, sequence, num_tokens, plan);
      plan.prompt_tokens += num_tokens;
      // Its other choices start where this one's state will have been kept.
      if (sequence.shares_prompt() && num_tokens > 1) break;
    }
  }
  return plan;
}

}  // namespace treeline
