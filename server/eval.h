// `treeline eval`: how well a model predicts a text or answers the questions of a task.
#ifndef TREELINE_SERVER_EVAL_H_
#define TREELINE_SERVER_EVAL_H_

#include <ostream>

#include "engine/base/status.h"
#include "proto/config.pb.h"
#include "server/runtime.h"

namespace treeline {

// The result goes to `out`, progress to `log`.
Status Eval(const EvalConfig& config, LoadedModel model, std::ostream& out, std::ostream& log);

}  // namespace treeline

#endif  // TREELINE_SERVER_EVAL_H_
