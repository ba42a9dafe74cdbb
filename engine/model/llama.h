// The LLaMA family, with Mistral and Qwen2: RMSNorm, rotary positions, grouped queries, SwiGLU,
// biases where the configuration has them; any AttentionSpec in each layer.
#ifndef TREELINE_ENGINE_MODEL_LLAMA_H_
#define TREELINE_ENGINE_MODEL_LLAMA_H_

#include <memory>

#include "engine/model/model.h"

namespace treeline {

// INVALID_ARGUMENT naming the tensor for what is missing, misshapen, or of an attention that
// the configuration does not speak of.
StatusOr<std::unique_ptr<Model>> LoadLlama(const Checkpoint& checkpoint,
                                           const ModelOptions& options, Backend& backend);

}  // namespace treeline

#endif  // TREELINE_ENGINE_MODEL_LLAMA_H_
