// The gate of a gated product.
#ifndef TREELINE_KERNELS_CUDA_GATE_CUH_
#define TREELINE_KERNELS_CUDA_GATE_CUH_

#include "kernels/params.h"

namespace treeline::cuda {

// silu(gate + bias) * (up + bias), of a column.
__device__ inline float Gated(const GatedMatMulParams& params, float gate, float up, int column) {
  if (params.gate_bias != nullptr) gate += params.gate_bias[column];
  if (params.up_bias != nullptr) up += params.up_bias[column];
  return gate / (1.0f + expf(-gate)) * up;
}

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_GATE_CUH_
