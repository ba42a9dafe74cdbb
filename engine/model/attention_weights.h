// One layer's attention parameters, from either checkpoint layout: the released
// Linearized-LLM one (dwconv, conv_mask, global_factor) or ours (feature maps,
// linear_factor, decay). docs/attention.md lists the tensors.
#ifndef TREELINE_ENGINE_MODEL_ATTENTION_WEIGHTS_H_
#define TREELINE_ENGINE_MODEL_ATTENTION_WEIGHTS_H_

#include <string>

#include "engine/base/status.h"
#include "engine/model/model_config.h"
#include "engine/model/weights.h"
#include "kernels/params.h"

namespace treeline {

// The layer and the memory that its pointers point into.
struct AttentionWeights {
  AttentionLayer layer;
  DeviceVector linear_factor, decay, feature_map_q, feature_map_k, conv_taps;
};

// Of layer `index`. `prefix`: "model.layers.3.self_attn.".
StatusOr<AttentionWeights> ReadAttentionWeights(const ModelConfig& config, int32_t index,
                                                StateType state_type, int32_t max_context,
                                                const std::string& prefix, WeightReader& reader);

// The layer's form and shape alone: what sizes its state.
AttentionLayer AttentionShape(const ModelConfig& config, int32_t index, StateType state_type,
                              int32_t max_context);

}  // namespace treeline

#endif  // TREELINE_ENGINE_MODEL_ATTENTION_WEIGHTS_H_
