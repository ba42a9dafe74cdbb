#include "scheduler/step_costs.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace treeline {
namespace {

// Every row draws, as the rows of a draft do.
StatusOr<double> Time(Engine& engine, const Clock& clock, const StateSlot& slot, int32_t rows) {
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

}  // namespace

StatusOr<StepCosts> MeasureStepCosts(Engine& engine, const Clock& clock, int32_t max_nodes) {
  const int32_t most = std::min(max_nodes, engine.limits().max_context);
  TREELINE_ASSIGN_OR_RETURN(const StateSlot slot, engine.AcquireSlot());
  std::vector<StepCosts::Point> points;
  for (int32_t rows = 1; rows <= most; rows *= 2) {
    TREELINE_ASSIGN_OR_RETURN(const double first, Time(engine, clock, slot, rows));
    TREELINE_ASSIGN_OR_RETURN(const double second, Time(engine, clock, slot, rows));
    points.push_back({rows, std::min(first, second)});
  }
  return StepCosts(std::move(points));
}

}  // namespace treeline
