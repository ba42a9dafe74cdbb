// Products of bf16 tiles by a warp group: four warps, whose tensor cores take both operands from
// shared memory and run beside the warps. Compute capability 9.0 (wgmma); kernels that use this
// must not be launched elsewhere.
//
// An operand has rows of kTileDepth values, 128 bytes, and begins at a multiple of 1024 bytes. Of
// row r, 16-byte vector v lies where SwizzledAt says.
#ifndef TREELINE_KERNELS_CUDA_WARP_GROUP_CUH_
#define TREELINE_KERNELS_CUDA_WARP_GROUP_CUH_

#include "kernels/cuda/tiles.cuh"

namespace treeline::cuda {

constexpr int kWarpGroup = 4 * kWarp;
constexpr int kTileRows = 64;
constexpr int kTileDepth = 64;

__device__ constexpr int SwizzledAt(int row, int vector) {
  return row * kTileDepth + (vector ^ row % 8) * kVector;
}

// Makes what this thread has written to shared memory visible to tensor cores.
__device__ inline void LetTensorCoresSeeShared() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// Where an operand is, as the instruction takes it: swizzled in rows of 128 bytes, eight of them in
// 1024 bytes.
__device__ inline uint64_t OperandAt(const Bf16* shared) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62, kStride = uint64_t{1024 >> 4} << 32;
  constexpr uint64_t kUnused = uint64_t{1} << 16;
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  return kSwizzle128 | kStride | kUnused | (address & 0x3ffff) >> 4;
}

// sums [64, kColumns] += a [64, 16] b [kColumns, 16]^T, begun.
template <int kColumns>
__device__ inline void MultiplyAsync(float (&sums)[kColumns / 2], uint64_t a, uint64_t b) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  if constexpr (kColumns == 16) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7"
        "}, %8, %9, 1, 1, 1, 0, 0;"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]), "+f"(sums[4]), "+f"(sums[5]),
          "+f"(sums[6]), "+f"(sums[7])
        : "l"(a), "l"(b));
  } else if constexpr (kColumns == 32) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
        "}, %16, %17, 1, 1, 1, 0, 0;"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]), "+f"(sums[4]), "+f"(sums[5]),
          "+f"(sums[6]), "+f"(sums[7]), "+f"(sums[8]), "+f"(sums[9]), "+f"(sums[10]),
          "+f"(sums[11]), "+f"(sums[12]), "+f"(sums[13]), "+f"(sums[14]), "+f"(sums[15])
        : "l"(a), "l"(b));
  } else {
    static_assert(kColumns == 64);
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
        "}, %32, %33, 1, 1, 1, 0, 0;"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]), "+f"(sums[4]), "+f"(sums[5]),
          "+f"(sums[6]), "+f"(sums[7]), "+f"(sums[8]), "+f"(sums[9]), "+f"(sums[10]),
          "+f"(sums[11]), "+f"(sums[12]), "+f"(sums[13]), "+f"(sums[14]), "+f"(sums[15]),
          "+f"(sums[16]), "+f"(sums[17]), "+f"(sums[18]), "+f"(sums[19]), "+f"(sums[20]),
          "+f"(sums[21]), "+f"(sums[22]), "+f"(sums[23]), "+f"(sums[24]), "+f"(sums[25]),
          "+f"(sums[26]), "+f"(sums[27]), "+f"(sums[28]), "+f"(sums[29]), "+f"(sums[30]),
          "+f"(sums[31])
        : "l"(a), "l"(b));
  }
#endif
}

// sums [64, kColumns] += a [64, kTileDepth] b [kColumns, kTileDepth]^T, begun; WaitForTiles ends
// it. Value 4 t + i of lane l of the group's warp w has row 16 w + l / 4 + 8 (i / 2) and column 8 t
// + 2 (l % 4) + i % 2. REQUIRES: all warps of the group call it.
template <int kColumns>
__device__ inline void MultiplyTiles(float (&sums)[kColumns / 2], const Bf16* a, const Bf16* b) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  constexpr int kStep = 16;                               // Of the depth, by an instruction,
  constexpr int kAtOnce = kColumns < 64 ? kColumns : 64;  // and of the columns.
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
  for (int at = 0; at < kTileDepth; at += kStep) {
#pragma unroll
    for (int first = 0; first < kColumns; first += kAtOnce) {
      auto& some = *reinterpret_cast<float(*)[kAtOnce / 2]>(sums + first / 2);
      MultiplyAsync<kAtOnce>(some, OperandAt(a + at), OperandAt(b + first * kTileDepth + at));
    }
  }
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

// Returns when what MultiplyTiles has begun is in sums.
template <int kValues>
__device__ inline void WaitForTiles(float (&sums)[kValues]) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
  for (float& sum : sums) asm volatile("" : "+f"(sum)::"memory");
#endif
}

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_WARP_GROUP_CUH_
