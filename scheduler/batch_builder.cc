#include "scheduler/batch_builder.h"

#include <algorithm>

namespace treeline {

StepPlan BuildBatch(std::span<const std::unique_ptr<SequenceGroup>> groups, int32_t max_tokens) {
  StepPlan plan;
  const auto add_all = [&](bool decoding) {
    for (const auto& group : groups) {
      for (Sequence& sequence : group->sequences()) {
        if (!sequence.running() || sequence.decoding() != decoding) continue;
        const int32_t room = max_tokens - plan.batch.num_tokens();
        const int32_t num_tokens = std::min(sequence.num_pending(), room);
        if (num_tokens == 0) return;
        const int32_t num_requests = sequence.AddTo(plan.batch, num_tokens);
        plan.entries.push_back({group.get(), &sequence, num_tokens, num_requests});
        if (!decoding) plan.prompt_tokens += num_tokens;
      }
    }
  };
  add_all(/*decoding=*/true);
  add_all(/*decoding=*/false);
  return plan;
}

}  // namespace treeline
