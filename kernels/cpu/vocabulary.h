// Passes over one row of the vocabulary, vectorised with Highway; each runs on the
// calling thread, rows go to threads as a whole. A maximum is exact. A weight is within
// 2 ulp of exp of its rounded argument, and a sum adds 16 fixed lanes in a fixed order,
// so targets with fused multiply-adds agree bit for bit, whatever their vector width.
#ifndef TREELINE_KERNELS_CPU_VOCABULARY_H_
#define TREELINE_KERNELS_CPU_VOCABULARY_H_

#include "kernels/vocabulary_params.h"

namespace treeline::cpu {

void BlockMaxima(const BlockMaximaParams& params);
void BlockWeights(const BlockWeightsParams& params);
// log of the sum of exp(x[i]); NaN where x has NaN or +infinity, or nothing above -infinity.
double LogSum(const float* x, int32_t n);
// One row: params.rows is 1.
void TopTokens(const TopTokensParams& params);

}  // namespace treeline::cpu

#endif  // TREELINE_KERNELS_CPU_VOCABULARY_H_
