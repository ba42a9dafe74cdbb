// Measures what a step of an engine takes by the number of its rows, and what Engine::Draft takes
// by the number of sequences.
#ifndef TREELINE_SCHEDULER_STEP_COSTS_H_
#define TREELINE_SCHEDULER_STEP_COSTS_H_

#include <cstdint>

#include "engine/base/clock.h"
#include "engine/base/status.h"
#include "engine/engine.h"
#include "scheduler/speculation.h"

namespace treeline {

// With draft chains of 1, 2, 4 ... up to max_nodes nodes, and drafts for as many sequences as there
// are slots for, each the fastest of three; free slots are borrowed, and nothing is committed.
// Errors are the engine's. REQUIRES: nobody else steps it.
StatusOr<StepCosts> MeasureStepCosts(Engine& engine, const Clock& clock, int32_t max_nodes);

}  // namespace treeline

#endif  // TREELINE_SCHEDULER_STEP_COSTS_H_
