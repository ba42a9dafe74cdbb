// Which requests can be served at all, whatever the load.
#ifndef TREELINE_SCHEDULER_ADMISSION_H_
#define TREELINE_SCHEDULER_ADMISSION_H_

#include "engine/base/status.h"
#include "engine/engine.h"
#include "scheduler/request.h"

namespace treeline {

// INVALID_ARGUMENT naming the field, its value and what is legal. request.sampling is taken
// as validated.
Status CheckAdmissible(const Request& request, const EngineLimits& limits);

}  // namespace treeline

#endif  // TREELINE_SCHEDULER_ADMISSION_H_
