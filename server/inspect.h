// `treeline inspect`: what a model's folder holds, without loading its weights.
#ifndef TREELINE_SERVER_INSPECT_H_
#define TREELINE_SERVER_INSPECT_H_

#include <ostream>

#include "engine/base/status.h"
#include "proto/config.pb.h"

namespace treeline {

Status Inspect(const InspectConfig& config, std::ostream& out);

}  // namespace treeline

#endif  // TREELINE_SERVER_INSPECT_H_
