// What a dense product of few rows leads to: its columns, stored or gated, from the sums of blocks
// that divide the depth among them.
#ifndef TREELINE_KERNELS_CUDA_PRODUCT_OUTPUTS_CUH_
#define TREELINE_KERNELS_CUDA_PRODUCT_OUTPUTS_CUH_

#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/gate.cuh"
#include "kernels/cuda/tiles.cuh"

namespace treeline::cuda {

// Columns of y = x W^T, or of y + x W^T.
struct Columns {
  MatMulParams params;

  static constexpr int kMatrices = 1;
  __device__ bool Accumulates() const { return params.accumulate; }
  // sums: of the column, one for each matrix; before: what is added to, where it accumulates.
  __device__ float Value(float before, const float (&sums)[kMatrices], int) const {
    return before + sums[0];
  }
};

// Columns of y = silu(x Wg^T + bias) * (x Wu^T + bias).
struct GatedColumns {
  GatedMatMulParams params;

  static constexpr int kMatrices = 2;
  __device__ bool Accumulates() const { return false; }
  __device__ float Value(float, const float (&sums)[kMatrices], int column) const {
    return Gated(params, sums[0], sums[1], column);
  }
};

// Four neighbouring floats of a row of y [rows, n] that may end within them.
constexpr int kQuad = 4;
__device__ inline void LoadQuad(const float* y, int row, int column, int n,
                                float (&values)[kQuad]) {
  const float* from = y + int64_t{row} * n + column;
  if (n % kQuad == 0) {
    const float4 all = column < n ? *reinterpret_cast<const float4*>(from) : float4{0, 0, 0, 0};
    values[0] = all.x, values[1] = all.y, values[2] = all.z, values[3] = all.w;
    return;
  }
#pragma unroll
  for (int c = 0; c < kQuad; ++c) values[c] = column + c < n ? from[c] : 0.0f;
}
__device__ inline void StoreQuad(float* y, int row, int column, int n,
                                 const float (&values)[kQuad]) {
  float* to = y + int64_t{row} * n + column;
  if (n % kQuad == 0) {
    if (column < n) {
      *reinterpret_cast<float4*>(to) = {values[0], values[1], values[2], values[3]};
    }
    return;
  }
#pragma unroll
  for (int c = 0; c < kQuad; ++c) {
    if (column + c < n) to[c] = values[c];
  }
}

// The most blocks of a cluster that divide a product's depth.
constexpr int kMostSplits = 8;

// Adds up what the `splits` blocks of a cluster have summed, each for some of the outputs, always
// in the same order, and stores it. A block's sums are in shared memory, [rows, kStride]: of each
// matrix kInTurns columns, before those of the next one. scale_of(row), called when all sums are on
// their way, is what they are multiplied by.
template <int kWeightRows, int kStride, int kInTurns, int kThreads, typename Output,
          typename ScaleOf>
__device__ void StoreSums(const Output& output, const float* sums, int splits, int part,
                          int first_column, int n, const ScaleOf& scale_of) {
  constexpr int kQuads = kWeightRows / Output::kMatrices / kQuad;
  const int count = output.params.rows * kQuads;
  for (int i = part * kThreads + threadIdx.x; i < count; i += splits * kThreads) {
    const int row = i / kQuads, in_block = i % kQuads * kQuad;
    const int at =
        row * kStride + in_block / kInTurns * kInTurns * Output::kMatrices + in_block % kInTurns;
    // All on their way before the first is added.
    float4 parts[kMostSplits][Output::kMatrices];
    float before[kQuad] = {};
    if (output.Accumulates()) LoadQuad(output.params.y, row, first_column + in_block, n, before);
#pragma unroll
    for (int s = 0; s < kMostSplits; ++s) {
      if (s >= splits) break;
      const float* theirs = splits == 1 ? sums : OfBlock(sums, s);
#pragma unroll
      for (int m = 0; m < Output::kMatrices; ++m) {
        parts[s][m] = *reinterpret_cast<const float4*>(theirs + at + m * kInTurns);
      }
    }
    const float scale = scale_of(row);
    float total[Output::kMatrices][kQuad] = {};
#pragma unroll
    for (int s = 0; s < kMostSplits; ++s) {
      if (s >= splits) break;
#pragma unroll
      for (int m = 0; m < Output::kMatrices; ++m) {
        total[m][0] += parts[s][m].x;
        total[m][1] += parts[s][m].y;
        total[m][2] += parts[s][m].z;
        total[m][3] += parts[s][m].w;
      }
    }
    float values[kQuad];
#pragma unroll
    for (int c = 0; c < kQuad; ++c) {
      float of_column[Output::kMatrices];
#pragma unroll
      for (int m = 0; m < Output::kMatrices; ++m) of_column[m] = scale * total[m][c];
      const int column = first_column + in_block + c;
      values[c] = column < n ? output.Value(before[c], of_column, column) : 0.0f;
    }
    StoreQuad(output.params.y, row, first_column + in_block, n, values);
  }
}

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_PRODUCT_OUTPUTS_CUH_
