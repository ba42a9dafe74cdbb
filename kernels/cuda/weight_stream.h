// Dense products of 5 to 64 rows of activations with bf16 matrices that few_rows.h leaves, at the
// rate at which memory gives the weights: a batch that decodes, a tree that is verified. Compute
// capability 9.0.
#ifndef TREELINE_KERNELS_CUDA_WEIGHT_STREAM_H_
#define TREELINE_KERNELS_CUDA_WEIGHT_STREAM_H_

#include "kernels/cuda/device_matrix.h"
#include "kernels/cuda/stream.h"
#include "kernels/params.h"

namespace treeline::cuda {

// Enqueued, or false where this product is for others. x: [rows, k] bf16, already normalised; what
// params say of it is not read. gate and up have one shape.
bool MatMulByStream(const MatMulParams& params, const void* x, const DeviceMatrix& matrix,
                    Stream& stream);
bool GatedMatMulByStream(const GatedMatMulParams& params, const void* x, const DeviceMatrix& gate,
                         const DeviceMatrix& up, Stream& stream);

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_WEIGHT_STREAM_H_
