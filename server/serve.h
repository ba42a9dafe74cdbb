// `treeline serve`: answers HTTP until told to stop.
#ifndef TREELINE_SERVER_SERVE_H_
#define TREELINE_SERVER_SERVE_H_

#include <functional>

#include "engine/base/status.h"
#include "proto/config.pb.h"
#include "server/runtime.h"

namespace treeline {

// Listens first and loads then: until the model is there, /ready and the API answer 503.
// SIGTERM and SIGINT: the first refuses new generations and lets running ones finish (up to the
// drain timeout), a second one stops at once. SIGHUP: API keys and certificate are read again. All
// are blocked in the calling thread and all it starts.
// `load` reads the model, in a thread of its own. OK after a stop by signal; CANCELLED where it
// came during the load, which then still goes on: leave the process without cleaning up.
Status Serve(const ServeConfig& config, const std::function<StatusOr<LoadedModel>()>& load);

}  // namespace treeline

#endif  // TREELINE_SERVER_SERVE_H_
