// Draws tokens from rows of logits, as kernels/vocabulary_params.h says, on the calling thread:
// rows go to threads as a whole, each with a drawer of its own.
//
// The vocabulary is never sorted. Vectorised passes tell the maximum of each block of the
// row and its weight; bounds from them leave few candidates, among which a selection by
// mass finds the last one kept.
#ifndef TREELINE_KERNELS_CPU_TOKEN_DRAWER_H_
#define TREELINE_KERNELS_CPU_TOKEN_DRAWER_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/vocabulary_params.h"

namespace treeline::cpu {

// In place.
void ApplyChanges(std::span<const LogitChange> changes, std::span<float> logits);

class TokenDrawer {
 public:
  DrawnToken Draw(std::span<const float> logits, const TokenDraw& draw);

 private:
  // Logits and the largest of each of their blocks.
  struct Row {
    std::span<const float> logits;
    std::vector<float> maxima;
    float best = 0;  // NaN where a logit is NaN.

    void Set(std::span<const float> values);
    int32_t BestId() const;  // The lowest of equals. REQUIRES: best is finite.
  };
  struct Candidate {
    int32_t id;
    float logit;    // After the changes.
    double weight;  // exp of the tempered logit; the best token's is 1.
  };
  static bool Better(const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  }

  const Row& Changed(const TokenDraw& draw);
  // REQUIRES: row.best is finite.
  int32_t DrawFrom(const Row& row, const TokenDraw& draw);

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
  int32_t DrawCandidate(double uniform) const;
  int32_t DrawWeighed(double uniform, double total) const;

  std::vector<float> changed_logits_;  // [n]
  Row raw_, changed_;
  std::vector<float> weights_;       // [n] of the last Weigh that kept them.
  std::vector<double> weight_sums_;  // Of the blocks, in the last Weigh.
  std::vector<float> bounds_;        // Scratch of SelectBest.
  std::vector<Candidate> candidates_;
  std::vector<Candidate> ranked_;  // Scratch of KeepBest.
};

}  // namespace treeline::cpu

#endif  // TREELINE_KERNELS_CPU_TOKEN_DRAWER_H_
