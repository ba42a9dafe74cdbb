// What a client may say about how tokens are chosen. Plain values, validated once
// at the edge (Validate), read everywhere.
#ifndef TREELINE_ENGINE_SAMPLING_PARAMS_H_
#define TREELINE_ENGINE_SAMPLING_PARAMS_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "engine/base/status.h"

namespace treeline {

struct SamplingParams {
  float temperature = 1.0f;  // 0: the most probable token. At most 2 from the API.
  float top_p = 1.0f;        // (0, 1]; keep the smallest set with this much probability.
  int32_t top_k = 0;         // Keep this many; 0: all.
  float min_p = 0.0f;        // [0, 1]; keep tokens at least min_p times as probable as the best.
  float presence_penalty = 0.0f;    // [-2, 2], once for each token already generated.
  float frequency_penalty = 0.0f;   // [-2, 2], times its count in what was generated.
  float repetition_penalty = 1.0f;  // [0.01, 100], so that logits stay finite; divides (multiplies)
                                    // positive (negative) logits of tokens in prompt or output.
  // Token id, and what is added to its raw logit: [-100, 100].
  std::vector<std::pair<int32_t, float>> logit_bias{};
  uint64_t seed = 0;  // Same seed, same draws (sampling/random.h).

  // Whether bias or penalties change logits before a token is chosen.
  bool AltersLogits() const {
    return !logit_bias.empty() || repetition_penalty != 1 || presence_penalty != 0 ||
           frequency_penalty != 0;
  }

  // INVALID_ARGUMENT naming the parameter, its value and the legal range; NaN is never legal.
  // Token ids in logit_bias must lie in [0, vocab_size).
  Status Validate(int32_t vocab_size) const;
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_SAMPLING_PARAMS_H_
