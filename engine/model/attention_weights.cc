#include "engine/model/attention_weights.h"

#include <cmath>

namespace treeline {
namespace {

// dwconv.weight [heads, 1, K, 1] -> taps [heads, K/2 + 1] by distance: tap tau is element
// K/2 - tau. What lies past the middle looks ahead; the released models mask it away.
StatusOr<std::vector<float>> ReadTaps(const AttentionLayer& layer, const std::string& prefix,
                                      WeightReader& reader) {
  const int32_t kernel = layer.form.conv_kernel, taps = layer.form.conv_taps();
  TREELINE_ASSIGN_OR_RETURN(std::vector<float> weight,
                            reader.Values(prefix + "dwconv.weight", {layer.heads, 1, kernel, 1}));
  std::vector<float> mask(kernel, 1.0f);
  if (reader.Has(prefix + "conv_mask")) {
    TREELINE_ASSIGN_OR_RETURN(mask, reader.Values(prefix + "conv_mask", {1, 1, kernel, 1}));
  }
  std::vector<float> result;
  for (int32_t head = 0; head < layer.heads; ++head) {
    for (int32_t tau = 0; tau < taps; ++tau) {
      const int32_t element = kernel / 2 - tau;
      result.push_back(weight[head * kernel + element] * mask[element]);
    }
  }
  return result;
}

}  // namespace

AttentionLayer AttentionShape(const ModelConfig& config, int32_t index, StateType state_type,
                              int32_t max_context) {
  AttentionLayer layer;
  layer.form = config.attention[index].form;
  layer.heads = config.num_heads;
  layer.kv_heads = config.num_kv_heads;
  layer.head_dim = config.head_dim;
  layer.k_ring_rows = layer.form.k_ring_rows(max_context);
  layer.v_ring_rows = layer.form.v_ring_rows(max_context);
  layer.state_type = state_type;
  return layer;
}

StatusOr<AttentionWeights> ReadAttentionWeights(const ModelConfig& config, int32_t index,
                                                StateType state_type, int32_t max_context,
                                                const std::string& prefix, WeightReader& reader) {
  AttentionWeights weights;
  AttentionLayer& layer = weights.layer;
  layer = AttentionShape(config, index, state_type, max_context);
  const AttentionForm& form = layer.form;
  const int64_t heads = layer.heads, kv_heads = layer.kv_heads, dim = layer.head_dim;

  if (form.has_linear() && form.denominator != Denominator::kJoint) {
    const std::optional<float>& constant = config.attention[index].alpha;
    if (constant.has_value()) {
      layer.alpha = *constant;
    } else {
      TREELINE_ASSIGN_OR_RETURN(std::vector<float> alpha,
                                reader.Values(prefix + "global_factor", {1}));
      layer.alpha = alpha[0];
    }
  }
  if (form.denominator == Denominator::kJoint) {
    TREELINE_ASSIGN_OR_RETURN(std::vector<float> factor,
                              reader.Values(prefix + "linear_factor", {heads}));
    for (float& f : factor) f = std::exp(f);
    TREELINE_ASSIGN_OR_RETURN(weights.linear_factor, reader.Upload(factor));
    layer.linear_factor = weights.linear_factor.data();
  }
  if (form.decay) {
    TREELINE_ASSIGN_OR_RETURN(std::vector<float> decay,
                              reader.Values(prefix + "decay", {kv_heads}));
    for (float& x : decay) x = static_cast<float>(1.0 / (1.0 + std::exp(-double{x})));
    TREELINE_ASSIGN_OR_RETURN(weights.decay, reader.Upload(decay));
    layer.decay = weights.decay.data();
  }
  if (form.feature_map == FeatureMap::kHedgehog) {
    const int64_t half = layer.feature_dim() / 2;
    TREELINE_ASSIGN_OR_RETURN(weights.feature_map_q,
                              reader.Vector(prefix + "feature_map_q.weight", {heads, dim, half}));
    TREELINE_ASSIGN_OR_RETURN(weights.feature_map_k, reader.Vector(prefix + "feature_map_k.weight",
                                                                   {kv_heads, dim, half}));
    layer.feature_map_q = weights.feature_map_q.data();
    layer.feature_map_k = weights.feature_map_k.data();
  }
  if (form.conv_kernel > 0) {
    TREELINE_ASSIGN_OR_RETURN(std::vector<float> taps, ReadTaps(layer, prefix, reader));
    TREELINE_ASSIGN_OR_RETURN(weights.conv_taps, reader.Upload(taps));
    layer.conv_taps = weights.conv_taps.data();
  }
  return weights;
}

}  // namespace treeline
