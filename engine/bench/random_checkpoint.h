// A model that nobody trained: a configuration, and seeded random weights for every
// tensor that it implies. What a step costs depends on shapes alone, so that the speed
// of any form and size can be measured without its weights.
#ifndef TREELINE_ENGINE_BENCH_RANDOM_CHECKPOINT_H_
#define TREELINE_ENGINE_BENCH_RANDOM_CHECKPOINT_H_

#include <memory>
#include <string>

#include "engine/base/status.h"
#include "engine/model/checkpoint.h"

namespace treeline {

// `config_path`: a Hugging Face config.json, by whatever name. The weights are bf16. There is no
// tokenizer and no chat template. Errors of ModelConfig name the file; RESOURCE_EXHAUSTED where
// memory for the largest tensor is not to be had.
StatusOr<std::unique_ptr<Checkpoint>> MakeRandomCheckpoint(const std::string& config_path);

}  // namespace treeline

#endif  // TREELINE_ENGINE_BENCH_RANDOM_CHECKPOINT_H_
