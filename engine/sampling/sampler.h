// Answers a RowRequest from one row of logits: log-probabilities of the model's own
// distribution, and a token drawn from the distribution the request asks for:
//
//   logits -> bias -> bans -> penalties -> greedy, where temperature is 0
//          -> temperature -> top_k -> top_p (of what top_k left) -> min_p -> draw
//
// The draw walks the kept tokens in id order, so it depends on the kept set, their
// probabilities and the RandomKey alone. Equal logits rank by lower id. The vocabulary
// is never sorted. Reusable; one per thread.
#ifndef TREELINE_ENGINE_SAMPLING_SAMPLER_H_
#define TREELINE_ENGINE_SAMPLING_SAMPLER_H_

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "engine/base/status.h"
#include "engine/batch.h"
#include "engine/sampling/logits_processors.h"

namespace treeline {

class Sampler {
 public:
  // `logits` is the row, [vocab_size]; every token id in `request` lies within. Single logits
  // may be -infinity (no probability). INTERNAL where the row has NaN, +infinity or nothing
  // but -infinity, or where bans and penalties leave no token to draw.
  StatusOr<RowResult> Sample(std::span<const float> logits, const RowRequest& request);

 private:
  struct Candidate {
    int32_t id;
    float logit;    // After bias, bans and penalties.
    double weight;  // exp of the tempered logit; the best token's is 1.
  };
  static bool Better(const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  }

  StatusOr<int32_t> Draw(std::span<const float> logits, const RowRequest& request);
  // The `count` best tokens, best first, without their weights. -infinity never counts.
  void SelectBest(std::span<const float> logits, size_t count);
  void SelectAll(std::span<const float> logits);
  // Leaves the smallest set of the best candidates that has `top_p` of the weight.
  void KeepTopP(double top_p);
  // Draws among candidates_ in proportion to their weights.
  int32_t DrawCandidate(const RandomKey& key);

  Penalties penalties_;
  std::vector<float> adjusted_;  // [vocab_size]
  std::vector<Candidate> candidates_;
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_SAMPLING_SAMPLER_H_
