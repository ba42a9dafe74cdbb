// What a checkpoint's config.json says about each layer's attention, under "linear_attention":
// the AttentionForm that kernels compute, and where its scalars come from.
#ifndef TREELINE_ENGINE_MODEL_ATTENTION_SPEC_H_
#define TREELINE_ENGINE_MODEL_ATTENTION_SPEC_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/json.h"
#include "engine/base/status.h"
#include "kernels/attention_form.h"

namespace treeline {

struct AttentionSpec {
  AttentionForm form;
  // The factor of the linear branch where the denominator is not joint: a constant, or (no
  // value) the checkpoint's self_attn.global_factor.
  std::optional<float> alpha = 1.0f;

  // Plain softmax attention: what a config.json without the key means.
  static AttentionSpec Softmax() { return AttentionSpec(); }

  // Reads the "linear_attention" object, one spec a layer. Its keys hold for every layer, but
  // where an entry of its list "layers" names the layer and the key; a later entry wins:
  //
  //   {"group_size": 64, ..., "layers": [{"layers": [7, 18], "window_size": 4224}]}
  //
  // INVALID_ARGUMENT for unknown keys or values and for combinations that mean nothing; the message
  // names the layer and every key involved. UNIMPLEMENTED for a feature map of the family without a
  // kernel (favor, rfa, yoso, flash).
  //
  // group_size is required; 0 means Softmax(), whatever window, window_size and sinks say. Above
  // 0, local and feature_map are required too. The others default to window group, window_size =
  // group_size, sinks 0, decay none, qk_norm none, denominator none, alpha 1, conv_kernel 0,
  // feature_size 0 (hedgehog then has two features a dimension of the head).
  static StatusOr<std::vector<AttentionSpec>> ForLayers(const Json& json, int32_t num_layers);

  // One line for people: "group 128, sliding 128, 4 sinks, softmax + hedgehog, joint, decay, conv
  // 63".
  std::string ToString() const;

  bool operator==(const AttentionSpec&) const = default;
};

// The same for all layers, in the order in which forms first appear: "layers 0-6, 8: group 64, ...;
// layers 7: ...". Layers that are all equal are not numbered.
std::string ToString(const std::vector<AttentionSpec>& layers);

}  // namespace treeline

#endif  // TREELINE_ENGINE_MODEL_ATTENTION_SPEC_H_
