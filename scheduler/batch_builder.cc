#include "scheduler/batch_builder.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace treeline {
namespace {

struct Decode {
  SequenceGroup* group;
  Sequence* sequence;
  std::optional<Sequence::Draft> draft;
};

std::vector<Decode> Decodes(std::span<const std::unique_ptr<SequenceGroup>> groups) {
  std::vector<Decode> decodes;
  for (const auto& group : groups) {
    for (Sequence& sequence : group->sequences()) {
      if (!sequence.running() || !sequence.decoding()) continue;
      decodes.push_back({group.get(), &sequence, sequence.Guess()});
    }
  }
  return decodes;
}

void AddDecodes(std::vector<Decode> decodes, int32_t max_tokens, const StepCosts& costs,
                StepPlan& plan) {
  std::vector<std::vector<float>> probabilities;
  for (const Decode& decode : decodes) {
    probabilities.push_back(decode.draft ? decode.draft->probabilities : std::vector<float>());
  }
  const auto rows = static_cast<int32_t>(decodes.size());
  const std::vector<int32_t> guesses = ChooseGuesses(probabilities, rows, max_tokens - rows, costs);
  for (size_t i = 0; i < decodes.size(); ++i) {
    const auto& [group, sequence, draft] = decodes[i];
    const bool is_draft = guesses[i] > 0;
    const int32_t num_requests = is_draft ? sequence->AddDraftTo(plan.batch, *draft, guesses[i])
                                          : sequence->AddTo(plan.batch, 1);
    plan.entries.push_back({group, sequence, 1 + guesses[i], num_requests, is_draft});
  }
}

void AddPrompts(std::span<const std::unique_ptr<SequenceGroup>> groups, int32_t max_tokens,
                int32_t max_prompt_tokens, Engine& engine, StepPlan& plan) {
  for (const auto& group : groups) {
    for (Sequence& sequence : group->sequences()) {
      if (!sequence.running() || sequence.decoding()) continue;
      const int32_t room =
          std::min(max_tokens - plan.batch.num_tokens(), max_prompt_tokens - plan.prompt_tokens);
      if (room <= 0) return;
      sequence.UsePrefix(engine);
      const int32_t num_tokens = std::min(sequence.num_pending(), room);
      const int32_t num_requests = sequence.AddTo(plan.batch, num_tokens);
      plan.entries.push_back({group.get(), &sequence, num_tokens, num_requests, false});
      plan.prompt_tokens += num_tokens;
      // Its other choices start where this one's state will have been kept.
      if (sequence.shares_prompt() && num_tokens > 1) break;
    }
  }
}

}  // namespace

StepPlan BuildBatch(std::span<const std::unique_ptr<SequenceGroup>> groups, int32_t max_tokens,
                    int32_t max_prompt_tokens, const StepCosts& costs, Engine& engine) {
  StepPlan plan;
  AddDecodes(Decodes(groups), max_tokens, costs, plan);
  AddPrompts(groups, max_tokens, max_prompt_tokens, engine, plan);
  return plan;
}

}  // namespace treeline
