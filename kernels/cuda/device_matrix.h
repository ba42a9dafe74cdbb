// A weight matrix in GPU memory.
#ifndef TREELINE_KERNELS_CUDA_DEVICE_MATRIX_H_
#define TREELINE_KERNELS_CUDA_DEVICE_MATRIX_H_

#include <cstdint>

#include "kernels/params.h"

namespace treeline::cuda {

// W [n, k], row-major. Not owned.
struct DeviceMatrix {
  WeightType type = WeightType::kBF16;  // Or kF32.
  int32_t n = 0;
  int32_t k = 0;
  const void* data = nullptr;
};

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_DEVICE_MATRIX_H_
