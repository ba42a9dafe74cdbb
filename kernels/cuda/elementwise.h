// The row-wise operations of a model on the GPU; kernels/reference/ops.h defines them.
// Pointers in params are device memory.
#ifndef TREELINE_KERNELS_CUDA_ELEMENTWISE_H_
#define TREELINE_KERNELS_CUDA_ELEMENTWISE_H_

#include <cstdint>

#include "kernels/cuda/stream.h"
#include "kernels/params.h"

namespace treeline::cuda {

void RmsNorm(const RmsNormParams& params, Stream& stream);
// The same, rounded to bf16: y [rows, dim]. params.y is not used.
void RmsNormToBf16(const RmsNormParams& params, void* y, Stream& stream);
void RopeAngles(const RopeAnglesParams& params, Stream& stream);
void RopeQkv(const RopeQkvParams& params, Stream& stream);
void AddBias(const AddBiasParams& params, Stream& stream);
void ResidualSilu(const ResidualSiluParams& params, Stream& stream);

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_ELEMENTWISE_H_
