#include "scheduler/step_costs.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

namespace treeline {
namespace {

// The first of a size may have kernels to load and memory to take.
constexpr int kRounds = 3;

// A draft chain of so many nodes. Every row draws, as the rows of a draft do.
StatusOr<double> TimeStep(Engine& engine, const Clock& clock, const StateSlot& slot, int32_t rows) {
  std::vector<int32_t> parents(rows);
  for (int32_t i = 0; i < rows; ++i) parents[i] = i - 1;
  TREELINE_ASSIGN_OR_RETURN(const TokenTree tree,
                            TokenTree::Create(std::vector<int32_t>(rows), std::move(parents)));
  const SamplingParams greedy{.temperature = 0};
  const std::vector<int32_t> drafted(rows);
  Batch batch;
  batch.AddTree(slot.index(), tree);
  for (int32_t row = 0; row < rows; ++row) {
    RowRequest request;
    request.row = row;
    request.sampling = &greedy;
    request.drafted = std::span(drafted).first(row + 1);
    request.random.seed = greedy.seed;
    request.random.position = row + 1;
    batch.requests.push_back(request);
  }
  const TimePoint start = clock.Now();
  TREELINE_RETURN_IF_ERROR(engine.Step(batch).status());
  return ToSeconds(clock.Now() - start);
}

// The heads at all rows of the last step.
StatusOr<double> TimeHeads(Engine& engine, const Clock& clock, int32_t rows) {
  std::vector<int32_t> all(rows);
  std::iota(all.begin(), all.end(), 0);
  const TimePoint start = clock.Now();
  TREELINE_RETURN_IF_ERROR(engine.Draft(all).status());
  return ToSeconds(clock.Now() - start);
}

}  // namespace

StatusOr<StepCosts> MeasureStepCosts(Engine& engine, const Clock& clock, int32_t max_nodes) {
  const int32_t most = std::min(max_nodes, engine.limits().max_context);
  TREELINE_ASSIGN_OR_RETURN(const StateSlot slot, engine.AcquireSlot());
  std::vector<StepCosts::Point> steps, heads;
  for (int32_t rows = 1; rows <= most; rows *= 2) {
    StepCosts::Point step{rows, std::numeric_limits<double>::infinity()}, head = step;
    for (int round = 0; round < kRounds; ++round) {
      TREELINE_ASSIGN_OR_RETURN(const double step_seconds, TimeStep(engine, clock, slot, rows));
      step.seconds = std::min(step.seconds, step_seconds);
      if (engine.limits().num_draft_heads == 0) continue;
      TREELINE_ASSIGN_OR_RETURN(const double head_seconds, TimeHeads(engine, clock, rows));
      head.seconds = std::min(head.seconds, head_seconds);
    }
    steps.push_back(step);
    if (engine.limits().num_draft_heads > 0) heads.push_back(head);
  }
  return StepCosts(std::move(steps), std::move(heads));
}

}  // namespace treeline
