// A model's folder or GGUF file, with its adapter, loaded for use: the only place that knows which
// engine runs it.
#ifndef TREELINE_SERVER_OPEN_MODEL_H_
#define TREELINE_SERVER_OPEN_MODEL_H_

#include <memory>

#include "engine/backend/backend.h"
#include "engine/base/status.h"
#include "engine/model/checkpoint.h"
#include "engine/model_engine.h"
#include "proto/config.pb.h"
#include "server/runtime.h"

namespace treeline {

// INVALID_ARGUMENT naming the flag with a bad value.
StatusOr<ModelEngine::Options> EngineOptions(const EngineConfig& config);

// The model that --model and --adapter name. Errors name the file.
StatusOr<std::unique_ptr<Checkpoint>> OpenCheckpoint(const EngineConfig& config);

// What runs the model: the backend that --device names. Errors name the flag.
StatusOr<std::unique_ptr<Backend>> CreateBackend(const EngineConfig& config);

// Loads engine, tokenizer, template and defaults; tells the log how far it is and what it found.
// Errors name the file or flag.
StatusOr<LoadedModel> OpenModel(const EngineConfig& config);
// The same with a prefix cache: of its default size, or
StatusOr<LoadedModel> OpenModel(const EvalConfig& config);
// as the server's flags ask for.
StatusOr<LoadedModel> OpenModel(const ServeConfig& config);

}  // namespace treeline

#endif  // TREELINE_SERVER_OPEN_MODEL_H_
