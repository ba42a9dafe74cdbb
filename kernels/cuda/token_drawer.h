// Draws tokens on the GPU; kernels/reference/vocabulary.h defines it. `logits` and `tokens` are
// device memory, all else host memory.
#ifndef TREELINE_KERNELS_CUDA_TOKEN_DRAWER_H_
#define TREELINE_KERNELS_CUDA_TOKEN_DRAWER_H_

#include "kernels/cuda/stream.h"
#include "kernels/vocabulary_params.h"

namespace treeline::cuda {

class TokenDrawer {
 public:
  // The stream must outlive it.
  explicit TokenDrawer(Stream& stream) : stream_(stream), changed_(stream) {}
  void Draw(const DrawTokensParams& params);

 private:
  Stream& stream_;
  Scratch changed_;  // [rows that have changes, n]
};

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_TOKEN_DRAWER_H_
