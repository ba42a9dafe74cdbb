// What a request changes in a row of logits before its next token is drawn. Each
// works in place on the logits of one row, [vocab_size]; token ids must lie within.
#ifndef TREELINE_ENGINE_SAMPLING_LOGITS_PROCESSORS_H_
#define TREELINE_ENGINE_SAMPLING_LOGITS_PROCESSORS_H_

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "engine/sampling/params.h"

namespace treeline {

void AddLogitBias(std::span<const std::pair<int32_t, float>> bias, std::span<float> logits);

// Gives the tokens no probability at all.
void BanTokens(std::span<const int32_t> banned, std::span<float> logits);

// Repetition, presence and frequency penalties. Not thread-safe: keeps a table of counts
// between calls, so that a call costs the tokens' number and not the vocabulary's.
class Penalties {
 public:
  // `prompt` and `generated` are the sequence's tokens so far.
  void Apply(const SamplingParams& params, std::span<const int32_t> prompt,
             std::span<const int32_t> generated, std::span<float> logits);

 private:
  // Each distinct token of prompt and output once: a positive logit is divided by the
  // penalty, a negative one multiplied.
  void PenalizeRepetition(float penalty, std::span<const int32_t> prompt,
                          std::span<const int32_t> generated, std::span<float> logits);
  // Of generated tokens only: minus `frequency` times the count, minus `presence`.
  void PenalizeCounts(float frequency, float presence, std::span<const int32_t> generated,
                      std::span<float> logits);

  std::vector<int32_t> counts_;  // [vocab_size]; all zero between calls.
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_SAMPLING_LOGITS_PROCESSORS_H_
