// What CUDA sources share: checked calls, launches, and the small change of kernels.
#ifndef TREELINE_KERNELS_CUDA_LAUNCH_CUH_
#define TREELINE_KERNELS_CUDA_LAUNCH_CUH_

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>

#include "kernels/cuda/stream.h"

namespace treeline::cuda {

// The text for a failed CUDA call; empty when it succeeded.
std::string ErrorText(const char* call, cudaError_t code);

// True where the call succeeded; else the stream has failed.
inline bool Check(Stream& stream, const char* call, cudaError_t code) {
  if (code == cudaSuccess) return true;
  stream.Fail(ErrorText(call, code));
  return false;
}

// Lets a kernel have so much dynamic shared memory. False, and the stream has failed, where it
// cannot.
inline bool AllowSharedMemory(Stream& stream, const char* name, const void* kernel, size_t bytes) {
  if (bytes <= stream.SharedMemoryOf(kernel)) return true;
  if (!Check(stream, name,
             cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(bytes)))) {
    return false;
  }
  stream.SharedMemoryOf(kernel) = bytes;
  return true;
}

template <typename T>
T ReadNext(const std::byte*& at) {
  static_assert(std::is_trivially_copyable_v<T>);
  T value;
  std::memcpy(&value, at, sizeof value);
  at += sizeof value;
  return value;
}
template <typename T>
void WriteNext(T value, std::byte*& at) {
  if constexpr (std::is_class_v<T>) __builtin_clear_padding(&value);
  std::memcpy(at, &value, sizeof value);
  at += sizeof value;
}

// KernelLaunch::make of a kernel with these parameters.
template <typename... Parameters>
int MakeLaunch(const KernelLaunch& launch, const std::byte* arguments, CUstream_st* handle) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(launch.grid[0], launch.grid[1], launch.grid[2]);
  config.blockDim = dim3(launch.threads);
  config.dynamicSmemBytes = launch.shared_bytes;
  config.stream = handle;
  cudaLaunchAttribute attributes[2] = {};
  config.attrs = attributes;
  if (launch.overlaps != 0) {
    cudaLaunchAttribute& overlap = attributes[config.numAttrs++];
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
  }
  if (launch.cluster > 1) {
    cudaLaunchAttribute& together = attributes[config.numAttrs++];
    together.id = cudaLaunchAttributeClusterDimension;
    together.val.clusterDim.x = launch.cluster;
    together.val.clusterDim.y = together.val.clusterDim.z = 1;
  }
  const auto kernel = reinterpret_cast<void (*)(Parameters...)>(const_cast<void*>(launch.kernel));
  const std::tuple<Parameters...> values{ReadNext<Parameters>(arguments)...};
  return std::apply(
      [&](const Parameters&... v) -> int { return cudaLaunchKernelEx(&config, kernel, v...); },
      values);
}

// Enqueues kernel<<<grid, threads, shared_bytes>>>(arguments...), `cluster` neighbouring blocks
// together (cluster.cuh); `name` is for errors. An empty grid is no launch. It goes to the GPU when
// the stream is flushed.
//
// Where the GPU can, the kernel's blocks come up while the kernel before it runs out: every kernel
// calls WaitForEarlierKernels before it touches what earlier kernels read or write.
template <typename... Parameters>
void LaunchClusters(Stream& stream, const char* name, void (*kernel)(Parameters...), dim3 grid,
                    int cluster, int threads, size_t shared_bytes,
                    std::type_identity_t<Parameters>... arguments) {
  if (!stream.ok() || grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  KernelLaunch launch{};
  launch.name = name;
  launch.kernel = reinterpret_cast<const void*>(kernel);
  if (!AllowSharedMemory(stream, name, launch.kernel, shared_bytes)) return;
  launch.make = MakeLaunch<Parameters...>;
  launch.shared_bytes = shared_bytes;
  launch.argument_bytes = (sizeof(Parameters) + ... + 0);
  launch.grid[0] = grid.x, launch.grid[1] = grid.y, launch.grid[2] = grid.z;
  launch.cluster = cluster;
  launch.threads = threads;
  launch.overlaps = stream.overlaps_kernels();
  std::byte* to = stream.AddLaunch(launch);
  (WriteNext<Parameters>(arguments, to), ...);
}

template <typename... Parameters>
void Launch(Stream& stream, const char* name, void (*kernel)(Parameters...), dim3 grid, int threads,
            size_t shared_bytes, std::type_identity_t<Parameters>... arguments) {
  LaunchClusters(stream, name, kernel, grid, 1, threads, shared_bytes, arguments...);
}

// How many clusters of so many blocks of a kernel run at once; where the GPU has no clusters,
// groups of so many blocks. 0 where the driver does not tell.
template <typename... Parameters>
int ClustersAtOnce(Stream& stream, const char* name, void (*kernel)(Parameters...), int cluster,
                   int threads, size_t shared_bytes) {
  const void* function = reinterpret_cast<const void*>(kernel);
  std::optional<int>& known = stream.ClustersAtOnceOf(function, cluster);
  if (known || !stream.ok() || !AllowSharedMemory(stream, name, function, shared_bytes)) {
    return known.value_or(0);
  }
  int found = 0;
  cudaError_t code;
  if (stream.has_clusters()) {
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(cluster);
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared_bytes;
    cudaLaunchAttribute together{};
    together.id = cudaLaunchAttributeClusterDimension;
    together.val.clusterDim.x = cluster;
    together.val.clusterDim.y = together.val.clusterDim.z = 1;
    config.attrs = &together;
    config.numAttrs = 1;
    code = cudaOccupancyMaxActiveClusters(&found, kernel, &config);
  } else {
    code = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&found, kernel, threads, shared_bytes);
    found = found * stream.num_multiprocessors() / cluster;
  }
  if (code != cudaSuccess) cudaGetLastError();  // Known to be unknown: no failure of the stream.
  known = code == cudaSuccess ? found : 0;
  return *known;
}

__host__ __device__ constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// Lets the next kernel's blocks come up as soon as there is room for them. Kernels that do
// something before WaitForEarlierKernels call it first.
__device__ inline void LetNextKernelComeUp() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
// Returns when all that earlier kernels wrote is there. What a kernel reads before must be older
// than the step: weights, or a plan.
__device__ inline void WaitForEarlierKernels() {
  LetNextKernelComeUp();
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Begins to bring 128 bytes into the cache that all multiprocessors share; at any time.
__device__ inline void Prefetch(const void* data) {
#if defined(__CUDA_ARCH__)
  asm volatile("prefetch.global.L2 [%0];" ::"l"(data));
#endif
}

// The block's dynamic shared memory, aligned to 1024 bytes.
__device__ inline float* SharedFloats() {
  extern __shared__ __align__(1024) float shared_memory[];
  return shared_memory;
}

// Of all lanes, in all lanes.
__device__ inline float WarpSum(float value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, offset);
  }
  return value;
}
__device__ inline float WarpMax(float value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, offset));
  }
  return value;
}

__device__ inline float ToFloat(float value) { return value; }
__device__ inline float ToFloat(__nv_bfloat16 value) { return __bfloat162float(value); }
template <typename T>
__device__ inline T FromFloat(float value) {
  if constexpr (std::is_same_v<T, float>) {
    return value;
  } else {
    return __float2bfloat16_rn(value);
  }
}
__device__ inline float Bf16Rounded(float value) {
  return ToFloat(FromFloat<__nv_bfloat16>(value));
}

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_LAUNCH_CUH_
