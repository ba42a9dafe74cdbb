// Answers a RowRequest from one row of logits: log-probabilities of the model's own
// distribution, and a token drawn from the distribution the request asks for:
//
//   logits -> bias -> bans -> penalties -> greedy, where temperature is 0
//          -> temperature -> top_k -> top_p (of what top_k left) -> min_p -> draw
//
// The draw walks the kept tokens in id order, so it depends on the kept set, their
// probabilities and the RandomKey alone. Equal logits rank by lower id.
//
// The vocabulary is never sorted. Vectorised passes tell the maximum of each block of the
// row and its weight; bounds from them leave few candidates, among which a selection by
// mass finds the last one kept. Reusable; one per thread.
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

// INTERNAL: a row has NaN, +infinity or nothing but -infinity.
Status DamagedLogits();

class Sampler {
 public:
  // `logits` is the row, [vocab_size]; every token id in `request` lies within. Single logits
  // may be -infinity (no probability). INTERNAL where the row has NaN, +infinity or nothing
  // but -infinity, or where bans and penalties leave no token to draw.
  StatusOr<RowResult> Sample(std::span<const float> logits, const RowRequest& request);

 private:
  // Logits and the largest of each of their blocks (kernels/vocabulary_params.h).
  struct Row {
    std::span<const float> logits;
    std::vector<float> maxima;
    float best = 0;  // NaN where a logit is NaN.

    void Set(std::span<const float> values);
    int32_t BestId() const;  // The lowest of equals. REQUIRES: best is finite.
  };
  struct Candidate {
    int32_t id;
    float logit;    // After bias, bans and penalties.
    double weight;  // exp of the tempered logit; the best token's is 1.
  };
  static bool Better(const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  }

  // The row after bias, bans and penalties.
  const Row& Process(const RowRequest& request);
  // Cai et al., "Medusa" (2024), section 3.3: a guess x passes where its probability, with
  // temperature and before any truncation, is above min(epsilon, delta exp(-entropy)), by the
  // released code's 0.09 and 0.3; of temperature 0, the most probable token alone.
  std::vector<bool> Typical(const Row& row, const RowRequest& request);
  StatusOr<int32_t> Draw(const RowRequest& request);

  // Weighs the whole row; its total. Fills weights_ only where they are wanted.
  double Weigh(const Row& row, float temperature, bool keep_weights);

  // The candidates, always ascending by id: the `count` best tokens, not weighed ...
  void SelectBest(const Row& row, size_t count);
  // ... or the weighed tokens of at least this weight.
  void SelectHeavy(const Row& row, double weight);
  // Leaves the smallest set of the best candidates whose masses add up to `target`.
  template <typename Mass>
  void KeepBest(double target, const Mass& mass);
  // Leaves the smallest set of the best candidates that has `top_p` of `total`.
  void KeepTopP(double top_p, double total);

  // Draws in proportion to the weights: among the candidates, or among all of weights_.
  int32_t DrawCandidate(const RandomKey& key) const;
  int32_t DrawWeighed(const RandomKey& key, double total) const;

  Penalties penalties_;
  std::vector<int32_t> generated_;
  std::vector<float> adjusted_;  // [vocab_size]
  Row raw_, processed_;
  std::vector<float> weights_;       // [vocab_size] of the last Weigh that kept them.
  std::vector<double> weight_sums_;  // Of the blocks, in the last Weigh.
  std::vector<float> bounds_;        // Scratch of SelectBest.
  std::vector<Candidate> candidates_;
  std::vector<Candidate> ranked_;  // Scratch of KeepBest.
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_SAMPLING_SAMPLER_H_
