#include "scheduler/step_costs.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <span>
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

// Engine::Draft at rows of so many sequences, which draw their first tokens.
StatusOr<double> TimeDraft(Engine& engine, const Clock& clock, std::span<const StateSlot> slots) {
  TREELINE_ASSIGN_OR_RETURN(const TokenTree root, TokenTree::Create({0}, {-1}));
  const SamplingParams greedy{.temperature = 0};
  const int32_t drafted = 0;
  Batch batch;
  std::vector<int32_t> rows;
  for (const StateSlot& slot : slots) {
    RowRequest request;
    request.row = batch.AddTree(slot.index(), root);
    request.sampling = &greedy;
    request.drafted = {&drafted, 1};
    request.random.seed = greedy.seed;
    request.random.position = 1;
    batch.requests.push_back(request);
    rows.push_back(request.row);
  }
  TREELINE_RETURN_IF_ERROR(engine.Step(batch).status());
  const TimePoint start = clock.Now();
  TREELINE_RETURN_IF_ERROR(engine.Draft(rows, TokenTree::kMaxNodes - 1).status());
  return ToSeconds(clock.Now() - start);
}

// The fastest of a few.
StatusOr<double> Fastest(const std::function<StatusOr<double>()>& time) {
  double fastest = std::numeric_limits<double>::infinity();
  for (int round = 0; round < kRounds; ++round) {
    TREELINE_ASSIGN_OR_RETURN(const double seconds, time());
    fastest = std::min(fastest, seconds);
  }
  return fastest;
}

}  // namespace

StatusOr<StepCosts> MeasureStepCosts(Engine& engine, const Clock& clock, int32_t max_nodes) {
  const int32_t most = std::min(max_nodes, engine.limits().max_context);
  std::vector<StateSlot> slots;
  std::vector<StepCosts::Point> steps, drafts;
  for (int32_t rows = 1; rows <= most; rows *= 2) {
    while (slots.empty() ||
           (static_cast<int32_t>(slots.size()) < rows && engine.free_slots() > 0)) {
      TREELINE_ASSIGN_OR_RETURN(StateSlot slot, engine.AcquireSlot());
      slots.push_back(std::move(slot));
    }
    TREELINE_ASSIGN_OR_RETURN(const double step_seconds, Fastest([&] {
                                return TimeStep(engine, clock, slots.front(), rows);
                              }));
    steps.push_back({rows, step_seconds});
    const auto sequences = static_cast<int32_t>(slots.size());
    if (!engine.limits().drafts() || sequences < rows) continue;
    TREELINE_ASSIGN_OR_RETURN(const double draft_seconds,
                              Fastest([&] { return TimeDraft(engine, clock, slots); }));
    drafts.push_back({sequences, draft_seconds});
  }
  return StepCosts(std::move(steps), std::move(drafts));
}

}  // namespace treeline
