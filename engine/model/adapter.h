// Adapters: what training changed of a base model, in a folder of its own. They are applied while
// weights are read, so that nothing past the checkpoint knows of them. The layout is PEFT's:
//
//   adapter_model.safetensors  base_model.model.NAME.lora_A.weight [r, columns] and lora_B.weight
//                              [rows, r], in a floating type or as int8 rows with "....scale"
//                              beside them: NAME.weight becomes W + scale * B A. And what a
//                              linearized attention has learned, by the names of docs/attention.md.
//   adapter_config.json        r, lora_alpha (scale is lora_alpha / r), base_model_name_or_path
//                              and, where the adapter linearizes its base, linear_attention.
//   generation_config.json     Where there is one, in place of the base's.
#ifndef TREELINE_ENGINE_MODEL_ADAPTER_H_
#define TREELINE_ENGINE_MODEL_ADAPTER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "engine/base/json.h"
#include "engine/base/status.h"
#include "engine/model/checkpoint.h"
#include "engine/model/tensor.h"

namespace treeline {

// adapter_config.json.
struct AdapterConfig {
  int32_t rank = 0;
  float scale = 0;        // Of every update.
  std::string base;       // Empty where it does not say.
  Json linear_attention;  // Null: the attention is the base's.

  // INVALID_ARGUMENT naming the key; UNIMPLEMENTED naming what PEFT can do and this cannot.
  static StatusOr<AdapterConfig> FromJson(const Json& json);
};

// Whether this is an adapter's folder, not a model's.
bool IsAdapterFolder(const std::string& path);

// Where the base of an adapter's folder lies: the path that base_model_name_or_path gives, else the
// folder of that name, without what leads to it, in ~/.cache/treeline/models
// ($TREELINE_CACHE/models where that is set). NOT_FOUND saying how to name it where it is in
// neither.
StatusOr<std::string> FindBaseModel(const std::string& folder);

// The base with an adapter's changes; its path is the adapter's. INVALID_ARGUMENT naming file and
// tensor for half of a pair, shapes that do not fit r and the base, tensors without a place, and
// linear_attention on a base that has it already.
StatusOr<std::unique_ptr<Checkpoint>> ApplyAdapter(std::unique_ptr<Checkpoint> base,
                                                   const std::string& folder);

// The step of applying that reads tensors, on a file in memory; `file` names it in messages.
struct AdapterTensors {
  std::map<std::string, LowRankUpdate> updates;  // By the base's names.
  std::map<std::string, TensorView> added;
};
StatusOr<AdapterTensors> MatchAdapter(const std::map<std::string, TensorView>& tensors,
                                      const AdapterConfig& config, const Checkpoint& base,
                                      const std::string& file);

}  // namespace treeline

#endif  // TREELINE_ENGINE_MODEL_ADAPTER_H_
