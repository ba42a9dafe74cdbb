#include "engine/sampling/logits_processors.h"

#include <limits>

namespace treeline {

void AddLogitBias(std::span<const std::pair<int32_t, float>> bias, std::span<float> logits) {
  for (const auto& [token, value] : bias) logits[token] += value;
}

void BanTokens(std::span<const int32_t> banned, std::span<float> logits) {
  for (const int32_t token : banned) logits[token] = -std::numeric_limits<float>::infinity();
}

void Penalties::Apply(const SamplingParams& params, std::span<const int32_t> prompt,
                      std::span<const int32_t> generated, std::span<float> logits) {
  counts_.resize(logits.size());
  if (params.repetition_penalty != 1) {
    PenalizeRepetition(params.repetition_penalty, prompt, generated, logits);
  }
  if (params.frequency_penalty != 0 || params.presence_penalty != 0) {
    PenalizeCounts(params.frequency_penalty, params.presence_penalty, generated, logits);
  }
}

void Penalties::PenalizeRepetition(float penalty, std::span<const int32_t> prompt,
                                   std::span<const int32_t> generated, std::span<float> logits) {
  for (const auto tokens : {prompt, generated}) {
    for (const int32_t token : tokens) {
      if (counts_[token]++ > 0) continue;
      logits[token] = logits[token] > 0 ? logits[token] / penalty : logits[token] * penalty;
    }
  }
  for (const auto tokens : {prompt, generated}) {
    for (const int32_t token : tokens) counts_[token] = 0;
  }
}

void Penalties::PenalizeCounts(float frequency, float presence, std::span<const int32_t> generated,
                               std::span<float> logits) {
  for (const int32_t token : generated) ++counts_[token];
  for (const int32_t token : generated) {
    const int32_t count = std::exchange(counts_[token], 0);
    if (count > 0) logits[token] -= static_cast<float>(count) * frequency + presence;
  }
}

}  // namespace treeline
