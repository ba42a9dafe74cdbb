// `treeline serve`: answers HTTP until told to stop.
#ifndef TREELINE_SERVER_SERVE_H_
#define TREELINE_SERVER_SERVE_H_

#include <functional>

#include "engine/base/status.h"
#include "proto/config.pb.h"
#include "server/runtime.h"

namespace treeline {

// SIGTERM and SIGINT: the first refuses new generations and lets running ones finish (up to the
// drain timeout), a second one stops at once. Blocked in the calling thread and all it starts.
// `load` reads the model; it is called after the cheap checks. OK after a stop by signal.
Status Serve(const ServeConfig& config, const std::function<StatusOr<LoadedModel>()>& load);

// The keys of a file, one a line; blank lines and lines that begin with '#' do not count.
// INVALID_ARGUMENT where none is left.
StatusOr<std::vector<std::string>> ReadApiKeys(const std::string& path);

}  // namespace treeline

#endif  // TREELINE_SERVER_SERVE_H_
