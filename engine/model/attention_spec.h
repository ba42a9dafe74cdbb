// What a checkpoint's config.json says about its attention, under "linear_attention":
// the AttentionForm that kernels compute, and where its scalars come from.
#ifndef TREELINE_ENGINE_MODEL_ATTENTION_SPEC_H_
#define TREELINE_ENGINE_MODEL_ATTENTION_SPEC_H_

#include <optional>
#include <string>

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

  // Reads the "linear_attention" object. INVALID_ARGUMENT for unknown keys or values and for
  // combinations that mean nothing; the message names every key involved. UNIMPLEMENTED for a
  // feature map of the family without a kernel (favor, rfa, yoso, flash).
  //
  // group_size is required; 0 means Softmax(), whatever window, window_size and sinks say. Above
  // 0, local and feature_map are required too. The others default to window group, window_size =
  // group_size, sinks 0, decay none, qk_norm none, denominator none, alpha 1, conv_kernel 0.
  static StatusOr<AttentionSpec> FromJson(const Json& json);

  // One line for people: "group 128, sliding 128, 4 sinks, softmax + hedgehog, joint, decay, conv
  // 63".
  std::string ToString() const;
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_MODEL_ATTENTION_SPEC_H_
