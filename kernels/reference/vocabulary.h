// Definitions of the operations over a vocabulary, in the plainest code.
#ifndef TREELINE_KERNELS_REFERENCE_VOCABULARY_H_
#define TREELINE_KERNELS_REFERENCE_VOCABULARY_H_

#include "kernels/vocabulary_params.h"

namespace treeline::reference {

void BlockMaxima(const BlockMaximaParams& params);
void BlockWeights(const BlockWeightsParams& params);
void TopTokens(const TopTokensParams& params);
void DrawTokens(const DrawTokensParams& params);

}  // namespace treeline::reference

#endif  // TREELINE_KERNELS_REFERENCE_VOCABULARY_H_
