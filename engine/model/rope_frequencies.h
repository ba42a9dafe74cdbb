// Rotary positions: what config.json says about them, as Hugging Face transformers 5 defines it
// (modeling_rope_utils.py), and the frequencies that follow.
//
// Where transformers and this differ: "dynamic" scaling depends on how long a sequence is.
// transformers recomputes the frequencies as a sequence grows, so that older keys keep angles of
// an older set, and a prompt read in pieces differs from one read at once. Here they are fixed
// when a model is loaded: those that transformers uses for one pass over a sequence of the whole
// configured context. Up to max_position_embeddings both are the same.
#ifndef TREELINE_ENGINE_MODEL_ROPE_FREQUENCIES_H_
#define TREELINE_ENGINE_MODEL_ROPE_FREQUENCIES_H_

#include <cstdint>
#include <vector>

#include "engine/base/json.h"
#include "engine/base/status.h"

namespace treeline {

struct RopeConfig {
  enum class Scaling { kNone, kLinear, kDynamic, kLlama3, kYarn };
  Scaling scaling = Scaling::kNone;
  double theta = 10000;
  double factor = 1;             // By which the context was extended; >= 1.
  int32_t original_context = 0;  // Before it was: of kLlama3 and kYarn; of the others the model's
                                 // max_position_embeddings.
  double low_freq_factor = 1, high_freq_factor = 4;  // Of kLlama3.
  double beta_fast = 32, beta_slow = 1;              // Of kYarn.
  bool truncate = true;                              // Of kYarn: ramp between whole dimensions.
  double attention_factor = 1;                       // Of kYarn: multiplies rotated q and k.
  // By dimension: divides the frequencies further. A GGUF file's rope_freqs.weight; empty: none.
  std::vector<float> frequency_divisors;

  // Reads rope_theta and rope_scaling or rope_parameters of a config.json. INVALID_ARGUMENT or
  // (for other kinds of scaling, or rotation of a part of the head) UNIMPLEMENTED naming the key.
  // REQUIRES: config is an object.
  static StatusOr<RopeConfig> FromJson(const Json& config, int32_t max_position_embeddings);

  // The longest sequence that positions are made for. Files disagree on whether
  // max_position_embeddings counts the extension; this is the larger reading.
  int32_t LongestContext(int32_t max_position_embeddings) const;
};

struct RopeFrequencies {
  // [head_dim / 2] radians a position. Computed in double and rounded once: within a
  // millionth of transformers' own, which are computed in float32.
  std::vector<float> inverse;
  float scale;  // Of rotated queries and keys.
};

// max_context: the longest sequence that is to be served. REQUIRES: head_dim is even and above 2;
// frequency_divisors is empty or [head_dim / 2].
RopeFrequencies ComputeRopeFrequencies(const RopeConfig& config, int32_t head_dim,
                                       int32_t max_context);

}  // namespace treeline

#endif  // TREELINE_ENGINE_MODEL_ROPE_FREQUENCIES_H_
