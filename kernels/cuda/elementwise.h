// The row-wise operations of a model on the GPU; kernels/reference/ops.h defines them.
// Pointers in params are device memory.
#ifndef TREELINE_KERNELS_CUDA_ELEMENTWISE_H_
#define TREELINE_KERNELS_CUDA_ELEMENTWISE_H_

#include <cstdint>

#include "kernels/cuda/stream.h"
#include "kernels/params.h"

namespace treeline::cuda {

void RmsNorm(const RmsNormParams& params, Stream& stream);
void RopeAngles(const RopeAnglesParams& params, Stream& stream);
void Rope(const RopeParams& params, Stream& stream);
void AddBias(const AddBiasParams& params, Stream& stream);
void ResidualSilu(const ResidualSiluParams& params, Stream& stream);

// Rounds [rows, columns], row_stride floats apart, to bf16 and back.
void RoundToBf16(float* x, int32_t rows, int32_t columns, int32_t row_stride, Stream& stream);

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_ELEMENTWISE_H_
