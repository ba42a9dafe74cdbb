// Blocks of threads that run at the same time and read one another's shared memory, where
// Stream::has_clusters.
#ifndef TREELINE_KERNELS_CUDA_CLUSTER_CUH_
#define TREELINE_KERNELS_CUDA_CLUSTER_CUH_

#include <cstdint>

namespace treeline::cuda {

// Returns when all threads of the cluster are here; what they wrote before is there.
__device__ inline void WaitForCluster() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  __syncwarp();  // Lanes must come to it together.
  asm volatile(
      "barrier.cluster.arrive.aligned;\n"
      "barrier.cluster.wait.aligned;" ::
          : "memory");
#endif
}

// Returns when all threads of the cluster are here: where a block's memory must stay until others
// have read it. What was written meanwhile need not be there.
__device__ inline void LeaveCluster() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  __syncwarp();
  asm volatile(
      "barrier.cluster.arrive.relaxed.aligned;\n"
      "barrier.cluster.wait.aligned;" ::
          : "memory");
#endif
}

// Where block `rank` of the cluster has what this block has at `mine` in shared memory.
__device__ inline const float* OfBlock(const float* mine, int rank) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  const float* theirs;
  asm volatile("mapa.u64 %0, %1, %2;" : "=l"(theirs) : "l"(mine), "r"(rank));
  return theirs;
#else
  return mine;
#endif
}

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_CLUSTER_CUH_
