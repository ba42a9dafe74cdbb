// A GGUF file of a LLaMA-like model (architectures "llama", which is also Mistral's, and "qwen2")
// as a checkpoint.
#ifndef TREELINE_ENGINE_MODEL_GGUF_CHECKPOINT_H_
#define TREELINE_ENGINE_MODEL_GGUF_CHECKPOINT_H_

#include <map>
#include <memory>
#include <string>

#include "engine/base/status.h"
#include "engine/model/checkpoint.h"
#include "engine/model/gguf.h"
#include "engine/text/tokenizer_spec.h"

namespace treeline {

// Maps the file. UNIMPLEMENTED naming the key for an architecture, a mixture of experts, a kind
// of scaling, or a part of a split file; INVALID_ARGUMENT naming key or tensor for what is
// malformed.
StatusOr<std::unique_ptr<Checkpoint>> OpenGgufCheckpoint(const std::string& path);

// The steps of opening, on a file in memory.

// The metadata as config.json would say it, and the frequencies of rope_freqs.weight.
StatusOr<ModelConfig> GgufModelConfig(const Gguf& gguf);
// The tensors under Hugging Face's names, with llama.cpp's order of rotated rows marked.
StatusOr<std::map<std::string, TensorView>> GgufTensors(const Gguf& gguf,
                                                        const ModelConfig& config);
// The tokenizer.ggml keys.
StatusOr<TokenizerSpec> GgufTokenizerSpec(const Gguf& gguf);

}  // namespace treeline

#endif  // TREELINE_ENGINE_MODEL_GGUF_CHECKPOINT_H_
