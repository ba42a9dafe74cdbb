// Tiles of bf16 in shared memory, and products of them by one warp.
#ifndef TREELINE_KERNELS_CUDA_TILES_CUH_
#define TREELINE_KERNELS_CUDA_TILES_CUH_

#include "kernels/cuda/mma.cuh"

namespace treeline::cuda {

using Bf16 = __nv_bfloat16;

constexpr int kPad = 8;     // Between rows of a tile, so that eight of them lie in different banks.
constexpr int kVector = 8;  // bf16 of a 16-byte access.

// Eight floats rounded, side by side.
__device__ inline void StoreRounded(Bf16* to, const float (&from)[kVector]) {
  __nv_bfloat162 values[kVector / 2];
#pragma unroll
  for (int i = 0; i < kVector / 2; ++i) {
    values[i] = __floats2bfloat162_rn(from[2 * i], from[2 * i + 1]);
  }
  *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(values);
}
// From a multiple of 16 bytes.
__device__ inline void LoadVector(const float* from, float (&to)[kVector]) {
  const float4 a = *reinterpret_cast<const float4*>(from);
  const float4 b = *(reinterpret_cast<const float4*>(from) + 1);
  to[0] = a.x, to[1] = a.y, to[2] = a.z, to[3] = a.w;
  to[4] = b.x, to[5] = b.y, to[6] = b.z, to[7] = b.w;
}
__device__ inline void Unpack(const uint4& bits, float (&to)[kVector]) {
  const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[2 * i] = __uint_as_float(words[i] << 16);
    to[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}
__device__ inline void LoadVector(const Bf16* from, float (&to)[kVector]) {
  Unpack(*reinterpret_cast<const uint4*>(from), to);
}

// Calls fetch(i, values) and then store(i, values) for every i below `count`, divided among the
// block's threads; a thread fetches four before it stores them, so that their loads overlap.
template <int kThreads, typename Fetch, typename Store>
__device__ void MoveVectors(int count, const Fetch& fetch, const Store& store) {
  constexpr int kBatch = 4;
  for (int first = threadIdx.x; first < count; first += kBatch * kThreads) {
    float values[kBatch][kVector];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      if (first + j * kThreads < count) fetch(first + j * kThreads, values[j]);
    }
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      if (first + j * kThreads < count) store(first + j * kThreads, values[j]);
    }
  }
}
__device__ inline void SetZero(float (&values)[kVector]) {
#pragma unroll
  for (float& value : values) value = 0.0f;
}

// sums[t] += a [16, depth] times columns first + 8 t .. of b, for kTiles tiles of 8 columns. a is
// row-major, or [depth, 16] where kAByDepth; b is [columns, depth], or [depth, columns] where
// kBByDepth. Strides in elements. Lane l has of tile t the sums of rows l / 4 (first two values)
// and l / 4 + 8, columns 2 (l % 4) and the next.
template <bool kAByDepth, bool kBByDepth, int kTiles>
__device__ void Multiply(float (&sums)[kTiles][4], const Bf16* a, int a_stride, const Bf16* b,
                         int b_stride, int first, int depth) {
  static_assert(kTiles % 2 == 0);
  const int lane = threadIdx.x % kWarp, in_matrix = lane % 8;
  const int low = lane / 8 % 2, high = lane / 16;  // Bits of the matrix whose row the lane names.
  for (int k = 0; k < depth; k += 16) {
    uint32_t a_values[4];
    if constexpr (kAByDepth) {
      LoadMatricesTransposed(a_values, a + (k + in_matrix + 8 * high) * a_stride + 8 * low);
    } else {
      LoadMatrices(a_values, a + (in_matrix + 8 * low) * a_stride + k + 8 * high);
    }
#pragma unroll
    for (int t = 0; t < kTiles; t += 2) {
      const int column = first + 8 * t;
      uint32_t b_values[4];
      if constexpr (kBByDepth) {
        LoadMatricesTransposed(b_values,
                               b + (k + in_matrix + 8 * low) * b_stride + column + 8 * high);
      } else {
        LoadMatrices(b_values, b + (column + in_matrix + 8 * high) * b_stride + k + 8 * low);
      }
      MultiplyAdd(sums[t], a_values, b_values[0], b_values[1]);
      MultiplyAdd(sums[t + 1], a_values, b_values[2], b_values[3]);
    }
  }
}

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_TILES_CUH_
