// Copies from global to shared memory that run on while the thread does other things.
#ifndef TREELINE_KERNELS_CUDA_COPY_ASYNC_CUH_
#define TREELINE_KERNELS_CUDA_COPY_ASYNC_CUH_

#include <cstdint>

namespace treeline::cuda {

// 16 bytes; both addresses are multiples of 16. They do not stay in the first-level cache.
__device__ inline void CopyAsync(void* shared, const void* global) {
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
}
// Makes a group of the thread's copies since the last one, if any.
__device__ inline void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Returns when all but the newest kPending groups of the thread are there.
template <int kPending>
__device__ inline void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_COPY_ASYNC_CUH_
