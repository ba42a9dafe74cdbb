// Operations over a vocabulary on the GPU; kernels/reference/vocabulary.h defines them.
// Pointers in params are device memory.
#ifndef TREELINE_KERNELS_CUDA_VOCABULARY_H_
#define TREELINE_KERNELS_CUDA_VOCABULARY_H_

#include "kernels/cuda/stream.h"
#include "kernels/vocabulary_params.h"

namespace treeline::cuda {

void TopTokens(const TopTokensParams& params, Stream& stream);

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_VOCABULARY_H_
