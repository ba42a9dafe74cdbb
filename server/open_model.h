// A model's folder or GGUF file, loaded for use: the only place that knows which engine runs it.
#ifndef TREELINE_SERVER_OPEN_MODEL_H_
#define TREELINE_SERVER_OPEN_MODEL_H_

#include "engine/base/status.h"
#include "engine/model_engine.h"
#include "proto/config.pb.h"
#include "server/runtime.h"

namespace treeline {

// INVALID_ARGUMENT naming the flag with a bad value.
StatusOr<ModelEngine::Options> EngineOptions(const EngineConfig& config);

// Loads engine, tokenizer, template and defaults; tells the log how far it is and what it found.
// Errors name the file or flag.
StatusOr<LoadedModel> OpenModel(const EngineConfig& config);

}  // namespace treeline

#endif  // TREELINE_SERVER_OPEN_MODEL_H_
