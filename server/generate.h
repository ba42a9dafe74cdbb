// `treeline generate`: one prompt, answered at the terminal as it is written.
#ifndef TREELINE_SERVER_GENERATE_H_
#define TREELINE_SERVER_GENERATE_H_

#include <istream>
#include <ostream>

#include "engine/base/status.h"
#include "proto/config.pb.h"
#include "server/runtime.h"

namespace treeline {

// Reads the prompt from `in` where the flags hold none; writes the text to `out`.
Status Generate(const GenerateConfig& config, LoadedModel model, std::istream& in,
                std::ostream& out);

}  // namespace treeline

#endif  // TREELINE_SERVER_GENERATE_H_
