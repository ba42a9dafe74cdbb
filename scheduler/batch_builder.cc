#include "scheduler/batch_builder.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <map>
#include <numeric>
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

// What Engine::Draft says, by sequence; nothing where no sequence asks, or it fails: a guess less
// costs no answer.
std::map<const Sequence*, Guesses> AskModel(std::span<const Decode> decodes, DraftPolicy& policy,
                                            Engine& engine) {
  std::vector<const Sequence*> sequences;
  std::vector<int32_t> rows;
  int32_t max_nodes = 0;
  for (const Decode& decode : decodes) {
    const std::optional<int32_t> row = decode.sequence->RowToDraft();
    if (!row) continue;
    sequences.push_back(decode.sequence);
    rows.push_back(*row);
    max_nodes = std::max(max_nodes, decode.sequence->max_draft_nodes());
  }
  std::map<const Sequence*, Guesses> guesses;
  if (rows.empty() || !policy.Ask()) return guesses;
  StatusOr<std::vector<Guesses>> answers = engine.Draft(rows, max_nodes - 1);
  policy.Answered(answers.ok());
  if (!answers.ok()) {
    spdlog::warn("drafting failed: {}", answers.status().ToString());
    return guesses;
  }
  for (size_t i = 0; i < rows.size(); ++i) guesses[sequences[i]] = std::move((*answers)[i]);
  return guesses;
}

// How many guesses of each decode to verify; the sequences' own took so long.
std::vector<int32_t> CountGuesses(std::span<const Decode> decodes,
                                  const std::map<const Sequence*, Guesses>& by_model,
                                  int32_t max_tokens, double guessing_seconds,
                                  Speculation& speculation) {
  std::vector<std::vector<float>> all, without_model;
  for (const Decode& decode : decodes) {
    all.push_back(decode.draft ? decode.draft->probabilities : std::vector<float>());
    without_model.push_back(decode.draft ? decode.draft->without_model : std::vector<float>());
  }
  const CostModel& costs = speculation.costs;
  const auto sequences = static_cast<int32_t>(decodes.size());
  const int32_t most = max_tokens - sequences;
  GuessChoice otherwise = ChooseGuesses(without_model, most, costs, guessing_seconds);
  // A draft model that is still reading prompts says nothing about what it is worth.
  const bool guessed = std::any_of(by_model.begin(), by_model.end(),
                                   [](const auto& entry) { return !entry.second.empty(); });
  if (!guessed) {
    speculation.ObserveSequences(sequences, guessing_seconds, otherwise);
    return std::move(otherwise.counts);
  }
  const double model_seconds = costs.DraftSeconds(static_cast<int32_t>(by_model.size()));
  GuessChoice choice = ChooseGuesses(all, most, costs, guessing_seconds + model_seconds);
  speculation.ObserveModel(sequences, choice, otherwise);
  return std::move(choice.counts);
}

void AddDecodes(std::vector<Decode> decodes, int32_t max_tokens, const Clock& clock,
                Speculation& speculation, Engine& engine, StepPlan& plan) {
  if (decodes.empty()) return;
  const auto num_decodes = plan.num_decodes = static_cast<int32_t>(decodes.size());
  const std::map<const Sequence*, Guesses> by_model =
      AskModel(decodes, speculation.model[num_decodes], engine);
  plan.model_asked = static_cast<int32_t>(by_model.size());
  std::vector<int32_t> counts(decodes.size());
  if (!by_model.empty() || speculation.sequences[num_decodes].Ask()) {
    const TimePoint start = clock.Now();
    for (Decode& decode : decodes) {
      const auto guesses = by_model.find(decode.sequence);
      decode.draft = decode.sequence->Guess(guesses == by_model.end() ? nullptr : &guesses->second);
    }
    counts =
        CountGuesses(decodes, by_model, max_tokens, ToSeconds(clock.Now() - start), speculation);
  }
  plan.batch.requests.reserve(
      std::accumulate(counts.begin(), counts.end(), static_cast<int32_t>(decodes.size())));
  for (size_t i = 0; i < decodes.size(); ++i) {
    const auto& [group, sequence, draft] = decodes[i];
    const bool is_draft = counts[i] > 0;
    const int32_t num_requests = is_draft ? sequence->AddDraftTo(plan.batch, *draft, counts[i])
                                          : sequence->AddTo(plan.batch, 1);
    plan.entries.push_back({group, sequence, 1 + counts[i], num_requests, is_draft});
    if (!is_draft) continue;
    plan.num_guesses += counts[i];
    plan.expected_guesses += sequence->expected_guesses();
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
                    int32_t max_prompt_tokens, const Clock& clock, Speculation& speculation,
                    Engine& engine) {
  StepPlan plan;
  AddDecodes(Decodes(groups), max_tokens, clock, speculation, engine, plan);
  AddPrompts(groups, max_tokens, max_prompt_tokens, engine, plan);
  return plan;
}

}  // namespace treeline
