// Copies of whole tiles to shared memory by the tensor memory accelerator, and the barriers that
// tell when they are there. Compute capability 9.0; kernels that use this must not be launched
// elsewhere.
#ifndef TREELINE_KERNELS_CUDA_BULK_COPY_CUH_
#define TREELINE_KERNELS_CUDA_BULK_COPY_CUH_

#include <cuda.h>

#include <cstdint>

namespace treeline::cuda {

// In shared memory. It turns when as many threads have arrived as it was made for, and the bytes
// that they expect: its phases are 0, 1, 0, 1 ...
using Barrier = uint64_t;

__device__ inline uint32_t InShared(const void* data) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(data));
}

__device__ inline void MakeBarrier(Barrier& barrier, int arrivals) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(InShared(&barrier)), "r"(arrivals)
               : "memory");
#endif
}
// By the thread that made barriers, before others use them.
__device__ inline void LetCopiesSeeBarriers() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}
__device__ inline void Arrive(Barrier& barrier) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(InShared(&barrier)) : "memory");
#endif
}
__device__ inline void ArriveExpecting(Barrier& barrier, uint32_t bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(InShared(&barrier)),
               "r"(bytes)
               : "memory");
#endif
}
// Returns when the barrier's phase `phase` is over.
__device__ inline void WaitForPhase(Barrier& barrier, uint32_t phase) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n"
      ".reg .pred over;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1;\n"
      "@!over bra again;\n"
      "}" ::"r"(InShared(&barrier)),
      "r"(phase)
      : "memory");
#endif
}

// Begins to copy a box of `map` from `row`, `column` on; `barrier` has its bytes when it is there.
// What lies outside the matrix is 0.
__device__ inline void CopyBox(void* shared, const CUtensorMap& map, int row, int column,
                               Barrier& barrier) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4}], [%2];" ::"r"(InShared(shared)),
      "l"(reinterpret_cast<uint64_t>(&map)), "r"(InShared(&barrier)), "r"(column), "r"(row)
      : "memory");
#endif
}

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_BULK_COPY_CUH_
