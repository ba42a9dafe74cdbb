#include "scheduler/batch_builder.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

namespace treeline {
namespace {

struct Decode {
  SequenceGroup* group;
  Sequence* sequence;
  std::optional<Sequence::Draft> draft{};
};

std::vector<Decode> Decodes(std::span<const std::unique_ptr<SequenceGroup>> groups) {
  std::vector<Decode> decodes;
  for (const auto& group : groups) {
    for (Sequence& sequence : group->sequences()) {
      if (sequence.running() && sequence.decoding()) decodes.push_back({group.get(), &sequence});
    }
  }
  return decodes;
}

// What the draft heads say, by sequence; nothing where no sequence asks, or they fail: a guess less
// costs no answer.
std::map<const Sequence*, HeadGuesses> AskHeads(std::span<const Decode> decodes,
                                                DraftHeadPolicy& policy, Engine& engine) {
  std::vector<const Sequence*> sequences;
  std::vector<int32_t> rows;
  for (const Decode& decode : decodes) {
    const std::optional<int32_t> row = decode.sequence->RowForHeads();
    if (!row) continue;
    sequences.push_back(decode.sequence);
    rows.push_back(*row);
  }
  std::map<const Sequence*, HeadGuesses> guesses;
  if (rows.empty() || !policy.Ask()) return guesses;
  StatusOr<std::vector<HeadGuesses>> answers = engine.Draft(rows);
  if (!answers.ok()) {
    spdlog::warn("the draft heads failed: {}", answers.status().ToString());
    return guesses;
  }
  for (size_t i = 0; i < rows.size(); ++i) guesses[sequences[i]] = std::move((*answers)[i]);
  return guesses;
}

// How many guesses of each decode to verify.
std::vector<int32_t> CountGuesses(std::span<const Decode> decodes, int32_t num_heads_asked,
                                  int32_t max_tokens, Speculation& speculation) {
  std::vector<std::vector<float>> all, without_heads;
  for (const Decode& decode : decodes) {
    all.push_back(decode.draft ? decode.draft->probabilities : std::vector<float>());
    without_heads.push_back(decode.draft ? decode.draft->without_heads : std::vector<float>());
  }
  const CostModel& costs = speculation.costs;
  const int32_t most = max_tokens - static_cast<int32_t>(decodes.size());
  if (num_heads_asked == 0) return ChooseGuesses(all, most, costs).counts;
  GuessChoice choice = ChooseGuesses(all, most, costs, costs.HeadSeconds(num_heads_asked));
  const GuessChoice otherwise = ChooseGuesses(without_heads, most, costs);
  speculation.heads.Observe(choice.tokens_per_second / otherwise.tokens_per_second);
  return std::move(choice.counts);
}

void AddDecodes(std::vector<Decode> decodes, int32_t max_tokens, Speculation& speculation,
                Engine& engine, StepPlan& plan) {
  const std::map<const Sequence*, HeadGuesses> heads = AskHeads(decodes, speculation.heads, engine);
  plan.heads_asked = static_cast<int32_t>(heads.size());
  for (Decode& decode : decodes) {
    const auto guesses = heads.find(decode.sequence);
    decode.draft = decode.sequence->Guess(guesses == heads.end() ? nullptr : &guesses->second);
  }
  const std::vector<int32_t> counts =
      CountGuesses(decodes, plan.heads_asked, max_tokens, speculation);
  for (size_t i = 0; i < decodes.size(); ++i) {
    const auto& [group, sequence, draft] = decodes[i];
    const bool is_draft = counts[i] > 0;
    const int32_t num_requests = is_draft ? sequence->AddDraftTo(plan.batch, *draft, counts[i])
                                          : sequence->AddTo(plan.batch, 1);
    plan.entries.push_back({group, sequence, 1 + counts[i], num_requests, is_draft});
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
                    int32_t max_prompt_tokens, Speculation& speculation, Engine& engine) {
  StepPlan plan;
  AddDecodes(Decodes(groups), max_tokens, speculation, engine, plan);
  AddPrompts(groups, max_tokens, max_prompt_tokens, engine, plan);
  return plan;
}

}  // namespace treeline
