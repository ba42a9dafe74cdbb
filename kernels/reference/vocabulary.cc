#include "kernels/reference/vocabulary.h"

#include <cmath>
#include <limits>

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

}  // namespace treeline::reference
