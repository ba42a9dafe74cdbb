// Dense products of few rows of activations with bf16 weights: a step that decodes, or verifies a
// tree. Their time is that of reading the weights once. x is normalised and rounded to bf16, and
// the gate applied, on the way.
#ifndef TREELINE_KERNELS_CUDA_FEW_ROWS_H_
#define TREELINE_KERNELS_CUDA_FEW_ROWS_H_

#include "kernels/cuda/device_matrix.h"
#include "kernels/cuda/stream.h"
#include "kernels/params.h"

namespace treeline::cuda {

// Enqueued, or false where this product is for others: more rows, weights of another type, of more
// than 4 rows a large matrix (weight_stream.h), a shape that the kernels do not take. gate and up
// have one shape.
bool MatMulOfFewRows(const MatMulParams& params, const DeviceMatrix& matrix, Stream& stream);
bool GatedMatMulOfFewRows(const GatedMatMulParams& params, const DeviceMatrix& gate,
                          const DeviceMatrix& up, Stream& stream);

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_FEW_ROWS_H_
