// The backend of an NVIDIA GPU (compute capability 8.0 or newer): weights in bf16 or fp32, sums
// in fp32, states in device memory. Part of builds with --config=cuda; in others CreateCudaBackend
// says so.
#ifndef TREELINE_ENGINE_BACKEND_CUDA_BACKEND_H_
#define TREELINE_ENGINE_BACKEND_CUDA_BACKEND_H_

#include <cstdint>
#include <memory>

#include "engine/backend/backend.h"
#include "engine/base/status.h"

namespace treeline {

struct CudaBackendOptions {
  int32_t ordinal = 0;  // Among the GPUs that CUDA_VISIBLE_DEVICES leaves.
  int32_t threads = 0;  // Of the host, for loading and between operations; 0: one for each core.
};

// UNIMPLEMENTED where the build has no CUDA; INTERNAL naming the remedy where there is no GPU,
// driver or cuBLAS.
StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(const CudaBackendOptions& options);

}  // namespace treeline

#endif  // TREELINE_ENGINE_BACKEND_CUDA_BACKEND_H_
