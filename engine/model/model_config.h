// The shape of a model: Hugging Face's config.json and generation_config.json.
#ifndef TREELINE_ENGINE_MODEL_MODEL_CONFIG_H_
#define TREELINE_ENGINE_MODEL_MODEL_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/json.h"
#include "engine/base/status.h"
#include "engine/model/attention_spec.h"
#include "engine/model/rope_frequencies.h"

namespace treeline {

struct ModelConfig {
  std::string model_type;  // "llama", "mistral" or "qwen2": one family.
  int32_t vocab_size = 0;
  int32_t hidden_size = 0;
  int32_t intermediate_size = 0;  // Of the MLP.
  int32_t num_layers = 0;
  int32_t num_heads = 0;  // Query heads; a multiple of num_kv_heads.
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;  // Even.
  int32_t max_position_embeddings = 0;
  float rms_norm_eps = 1e-5f;
  RopeConfig rope;
  bool tie_word_embeddings = false;
  // Which products have a bias.
  bool qkv_bias = false, o_bias = false, mlp_bias = false;
  // Softmax attention that reaches only this many tokens back: longer contexts are not served.
  std::optional<int32_t> sliding_window;
  std::vector<AttentionSpec> attention;  // One a layer.
  std::vector<int32_t> eos_token_ids;    // generation_config.json's, else config.json's.

  // Defaults for sampling from generation_config.json; absent ones are the API's own.
  struct SamplingDefaults {
    std::optional<float> temperature, top_p, min_p, repetition_penalty;
    std::optional<int32_t> top_k;
  } sampling_defaults;

  // True if no layer attends to everything: then a state's size does not depend on the context.
  bool is_linearized() const;

  // Reads a model folder. NOT_FOUND without config.json; INVALID_ARGUMENT naming file and key for
  // missing or impossible values; UNIMPLEMENTED naming what is not supported (a model_type, a
  // kind of rope_scaling, a quantization_config, an activation other than silu).
  static StatusOr<ModelConfig> Load(const std::string& model_dir);
  // The same from parsed files; `generation_json` is null where the folder has none.
  static StatusOr<ModelConfig> FromJson(const Json& config_json, const Json& generation_json);
  // Takes over what the folder's generation_config.json says, where there is one. Errors as Load's.
  Status ReadGenerationConfig(const std::string& folder);
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_MODEL_MODEL_CONFIG_H_
