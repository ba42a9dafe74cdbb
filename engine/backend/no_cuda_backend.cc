#include "engine/backend/cuda_backend.h"

namespace treeline {

StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(const CudaBackendOptions&) {
  return Unimplemented("this build runs on cpu only; build with bazel build --config=cuda");
}

}  // namespace treeline
