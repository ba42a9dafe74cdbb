#include "kernels/reference/vocabulary.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace treeline::reference {

void BlockMaxima(const BlockMaximaParams& params) {
  for (int32_t block = 0; block < VocabularyBlocks(params.n); ++block) {
    params.maxima[block] = -std::numeric_limits<float>::infinity();
  }
  for (int32_t i = 0; i < params.n; ++i) {
    float& maximum = params.maxima[i / kVocabularyBlock];
    if (params.x[i] > maximum || std::isnan(params.x[i])) maximum = params.x[i];
  }
}

void BlockWeights(const BlockWeightsParams& params) {
  for (int32_t block = 0; block < VocabularyBlocks(params.n); ++block) params.sums[block] = 0;
  for (int32_t i = 0; i < params.n; ++i) {
    const double weight = std::exp((double{params.x[i]} - params.max) * params.scale);
    if (params.weights != nullptr) params.weights[i] = static_cast<float>(weight);
    params.sums[i / kVocabularyBlock] += weight;
  }
}

void TopTokens(const TopTokensParams& params) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (int32_t row = 0; row < params.rows; ++row) {
    const float* logits = params.logits + int64_t{row} * params.n;
    std::vector<int32_t> order;
    double best = -kInfinity, total = 0;
    bool damaged = false;
    for (int32_t i = 0; i < params.n; ++i) {
      damaged = damaged || std::isnan(logits[i]) || logits[i] == kInfinity;
      best = std::max<double>(best, logits[i]);
      if (logits[i] > -kInfinity) order.push_back(i);
    }
    damaged = damaged || order.empty();
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
    for (int32_t i = 0; i < params.n; ++i) total += std::exp(logits[i] - best);
    for (int32_t rank = 0; rank < params.k; ++rank) {
      const bool is_there = !damaged && rank < static_cast<int32_t>(order.size());
      const int64_t at = int64_t{row} * params.k + rank;
      params.ids[at] = is_there ? order[rank] : -1;
      const double logprob = is_there  ? logits[order[rank]] - best - std::log(total)
                             : damaged ? std::numeric_limits<double>::quiet_NaN()
                                       : -kInfinity;
      params.logprobs[at] = static_cast<float>(logprob);
    }
  }
}

}  // namespace treeline::reference
