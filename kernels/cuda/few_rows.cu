#include <algorithm>

#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/copy_async.cuh"
#include "kernels/cuda/few_rows.h"
#include "kernels/cuda/gate.cuh"
#include "kernels/cuda/tiles.cuh"

namespace treeline::cuda {
namespace {

// -- What a product leads to.

// Columns of y = x W^T.
struct Columns {
  MatMulParams params;
  const Bf16* weights;  // [n, k]

  static constexpr int kMatrices = 1;
  __device__ const Bf16* Row(int, int column, int k) const { return weights + int64_t{column} * k; }
  // sums: of the column, one for each matrix.
  __device__ void Store(const float (&sums)[kMatrices], int row, int column, int n) const {
    float& y = params.y[int64_t{row} * n + column];
    y = params.accumulate ? y + sums[0] : sums[0];
  }
};

// Columns of y = silu(x Wg^T + bias) * (x Wu^T + bias).
struct GatedColumns {
  GatedMatMulParams params;
  const Bf16* gate;  // [n, k]
  const Bf16* up;

  static constexpr int kMatrices = 2;
  __device__ const Bf16* Row(int matrix, int column, int k) const {
    return (matrix == 0 ? gate : up) + int64_t{column} * k;
  }
  __device__ void Store(const float (&sums)[kMatrices], int row, int column, int n) const {
    params.y[int64_t{row} * n + column] = Gated(params, sums[0], sums[1], column);
  }
};

// x is multiplied by the norm's weights before the product and by the row's scale after it, when
// the squares of the whole row are known.
__device__ float SumOfSquares(const float (&values)[kVector]) {
  float sum = 0;
#pragma unroll
  for (const float value : values) sum += value * value;
  return sum;
}
__device__ void MultiplyBy(const float* weight, float (&values)[kVector]) {
  float weights[kVector];
  LoadVector(weight, weights);
#pragma unroll
  for (int i = 0; i < kVector; ++i) values[i] *= weights[i];
}
__device__ float RowScale(const Normalization& norm, float squares, int k) {
  return norm.weight == nullptr ? 1.0f : rsqrtf(squares / static_cast<float>(k) + norm.eps);
}

// -- Up to kMostLanesRows rows, by the ordinary units.

constexpr int kMostLanesRows = 4;
constexpr int kWarps = 8;
// Rows of weights that a warp multiplies by at once, and vectors of each that a lane has in flight.
constexpr int kWeightRows = 2;
constexpr int kBatch = 4;

// y [Rows, n]: a warp takes kWeightRows rows of weights, its lanes divide k. x is rounded to bf16
// into shared memory while the first weights are on their way.
// REQUIRES: k % kVector == 0.
template <int Rows, typename Output>
__global__ void __launch_bounds__(kWarps* kWarp) LanesKernel(Output output, int n, int k) {
  LetNextKernelComeUp();
  constexpr int kColumns = kWeightRows / Output::kMatrices;  // Of a warp.
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int column = (blockIdx.x * kWarps + warp) * kColumns;
  const Bf16* weights[kWeightRows];
#pragma unroll
  for (int c = 0; c < kWeightRows; ++c) {
    // Past the end the last column's are read again, and the sum thrown away.
    const int of = min(column + c / Output::kMatrices, n - 1);
    weights[c] = output.Row(c % Output::kMatrices, of, k) + lane * kVector;
  }
  constexpr int kStride = kWarp * kVector;  // From one vector of a lane to the next.
  uint4 bits[kBatch][kWeightRows];
  const auto load = [&](int first) {
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int at = first + j * kStride;
#pragma unroll
      for (int c = 0; c < kWeightRows; ++c) {
        bits[j][c] = at + lane * kVector < k
                         ? __ldcs(reinterpret_cast<const uint4*>(weights[c] + at))
                         : uint4{0, 0, 0, 0};
      }
    }
  };
  load(0);
  WaitForEarlierKernels();
  const Normalization norm = output.params.norm;
  Bf16* x = reinterpret_cast<Bf16*>(SharedFloats());  // [Rows, k]
  __shared__ float squares[Rows][kWarps];             // Of what a warp has loaded.
#pragma unroll
  for (int row = 0; row < Rows; ++row) {
    float sum = 0;
    for (int i = threadIdx.x * kVector; i < k; i += kWarps * kWarp * kVector) {
      float values[kVector] = {};
      if (row < output.params.rows) LoadVector(output.params.x + int64_t{row} * k + i, values);
      sum += SumOfSquares(values);
      if (norm.weight != nullptr) MultiplyBy(norm.weight + i, values);
      StoreRounded(x + row * k + i, values);
    }
    sum = WarpSum(sum);
    if (lane == 0) squares[row][warp] = sum;
  }
  __syncthreads();
  if (column >= n) return;

  float sums[Rows][kWeightRows] = {};
  for (int first = 0; first < k; first += kBatch * kStride) {
    uint4 now[kBatch][kWeightRows];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
#pragma unroll
      for (int c = 0; c < kWeightRows; ++c) now[j][c] = bits[j][c];
    }
    load(first + kBatch * kStride);
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int at = first + j * kStride + lane * kVector;
      if (at >= k) break;
      float w[kWeightRows][kVector];
#pragma unroll
      for (int c = 0; c < kWeightRows; ++c) Unpack(now[j][c], w[c]);
#pragma unroll
      for (int row = 0; row < Rows; ++row) {
        float values[kVector];
        Unpack(*reinterpret_cast<const uint4*>(x + row * k + at), values);
#pragma unroll
        for (int c = 0; c < kWeightRows; ++c) {
#pragma unroll
          for (int i = 0; i < kVector; ++i) sums[row][c] += w[c][i] * values[i];
        }
      }
    }
  }
#pragma unroll
  for (int row = 0; row < Rows; ++row) {
#pragma unroll
    for (int c = 0; c < kWeightRows; ++c) sums[row][c] = WarpSum(sums[row][c]);
    if (lane != 0 || row >= output.params.rows) continue;
    float total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += squares[row][w];
    const float scale = RowScale(norm, total, k);
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      float of_column[Output::kMatrices];
#pragma unroll
      for (int m = 0; m < Output::kMatrices; ++m) {
        of_column[m] = scale * sums[row][j * Output::kMatrices + m];
      }
      if (column + j < n) output.Store(of_column, row, column + j, n);
    }
  }
}

// -- Up to kMostTilesRows rows, on tensor cores.

constexpr int kMostTilesRows = 64;
constexpr int kChunk = 64;  // Of k, that is multiplied at once.
constexpr int kStages = 4;  // Chunks of weights on their way or in use.
constexpr int kChunkStride = kChunk + kPad;
constexpr int kChunkVectors = kChunk / kVector;
constexpr int kTile = 16;       // Rows of weights that a product of tiles takes.
constexpr int kWarpTiles = 2;   // A warp has so many of them, or one of each matrix.
constexpr int kMostSplits = 8;  // Blocks of a cluster.
constexpr int kPartialPad = 4;  // Lanes that write a tile's sums then meet different banks.

// Sizes of a kernel for 8 kRowTiles rows, by blocks of kNumWarps warps.
template <int kRowTiles, int kNumWarps>
struct TilesSizes {
  static constexpr int kRows = 8 * kRowTiles;
  static constexpr int kThreads = kNumWarps * kWarp;
  static constexpr int kWeightRows = kNumWarps * kWarpTiles * kTile;  // Of a block.
  static constexpr int kWeightsSize = kStages * kWeightRows * kChunkStride;
  static constexpr int kPartialStride = kWeightRows + kPartialPad;
  static constexpr size_t kBytes = sizeof(Bf16) * (kWeightsSize + 2 * kRows * kChunkStride);
  // What a block has summed lies where its weights were.
  static_assert(sizeof(float) * kRows * (kPartialStride + 1) <= sizeof(Bf16) * kWeightsSize);
};

// y [rows, n]. A block takes kWeightRows rows of weights, and of k a part: the `splits` blocks of a
// cluster have the parts of the same rows and add up what they have summed, each for some of the
// outputs, always in the same order. Weights pass through shared memory a chunk of k at a time,
// kStages - 1 of them on their way; x is rounded into two chunks in turns.
// REQUIRES: k % kChunk == 0, splits <= k / kChunk.
template <int kRowTiles, int kNumWarps, typename Output>
__global__ void __launch_bounds__(kNumWarps* kWarp)
    TilesKernel(Output output, int n, int k, int splits) {
  LetNextKernelComeUp();
  using Sizes = TilesSizes<kRowTiles, kNumWarps>;
  constexpr int kThreads = Sizes::kThreads, kWeightRows = Sizes::kWeightRows;
  constexpr int kColumns = kWeightRows / Output::kMatrices;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int part = blockIdx.x % splits, first_column = blockIdx.x / splits * kColumns;
  const int chunks = k / kChunk;
  const int begin = chunks * part / splits, end = chunks * (part + 1) / splits;
  Bf16* const weights = reinterpret_cast<Bf16*>(SharedFloats());  // [kStages, kWeightRows, chunk]
  Bf16* const x = weights + Sizes::kWeightsSize;                  // [2, kRows, chunk]

  // Row i of the block's weights: tiles of the matrices in turns, so that a warp has all of a
  // column's.
  constexpr int kCopies = kWeightRows * kChunkVectors / kThreads;
  const int in_chunk = threadIdx.x % kChunkVectors * kVector;
  const Bf16* rows[kCopies];
#pragma unroll
  for (int j = 0; j < kCopies; ++j) {
    const int i = threadIdx.x / kChunkVectors + j * (kThreads / kChunkVectors);
    const int column = i / (kTile * Output::kMatrices) * kTile + i % kTile;
    rows[j] =
        output.Row(i / kTile % Output::kMatrices, min(first_column + column, n - 1), k) + in_chunk;
  }
  const auto fetch_weights = [&](int chunk) {
    if (chunk < end) {
      Bf16* to = weights + (chunk - begin) % kStages * kWeightRows * kChunkStride + in_chunk;
#pragma unroll
      for (int j = 0; j < kCopies; ++j) {
        const int i = threadIdx.x / kChunkVectors + j * (kThreads / kChunkVectors);
        CopyAsync(to + i * kChunkStride, rows[j] + chunk * kChunk);
      }
    }
    CommitCopies();
  };
  for (int i = 0; i < kStages - 1; ++i) fetch_weights(begin + i);
  WaitForEarlierKernels();

  // A thread's vectors of a chunk of x, of the same rows in every chunk.
  const Normalization norm = output.params.norm;
  constexpr int kRowStep = kThreads / kChunkVectors;
  constexpr int kXVectors = (Sizes::kRows + kRowStep - 1) / kRowStep;
  const int x_row = threadIdx.x / kChunkVectors;
  float fetched[kXVectors][kVector], squares[kXVectors] = {};
  const auto fetch_x = [&](int chunk) {
#pragma unroll
    for (int j = 0; j < kXVectors; ++j) {
      const int row = x_row + j * kRowStep;
      if (row < output.params.rows) {
        LoadVector(output.params.x + int64_t{row} * k + chunk * kChunk + in_chunk, fetched[j]);
      } else {
        SetZero(fetched[j]);
      }
    }
  };
  const auto store_x = [&](int chunk) {
    Bf16* to = x + chunk % 2 * Sizes::kRows * kChunkStride + in_chunk;
#pragma unroll
    for (int j = 0; j < kXVectors; ++j) {
      const int row = x_row + j * kRowStep;
      squares[j] += SumOfSquares(fetched[j]);
      if (norm.weight != nullptr) MultiplyBy(norm.weight + chunk * kChunk + in_chunk, fetched[j]);
      if (row < Sizes::kRows) StoreRounded(to + row * kChunkStride, fetched[j]);
    }
  };

  fetch_x(begin);
  float sums[kWarpTiles][kRowTiles][4] = {};
  for (int chunk = begin; chunk < end; ++chunk) {
    store_x(chunk);
    WaitForCopies<kStages - 2>();
    __syncthreads();  // Also: nobody reads the chunk before any more.
    fetch_weights(chunk + kStages - 1);
    if (chunk + 1 < end) fetch_x(chunk + 1);
    const int stage = (chunk - begin) % kStages;
    const Bf16* a = weights + (stage * kWeightRows + warp * kWarpTiles * kTile) * kChunkStride;
    MultiplyTiles<kWarpTiles, kRowTiles, kChunk>(
        sums, a, x + chunk % 2 * Sizes::kRows * kChunkStride, kChunkStride);
  }

  WaitForCopies<0>();
  __syncthreads();
  float* const partial = SharedFloats();  // [kRows, kPartialStride]
  float* const square_sums = partial + Sizes::kRows * Sizes::kPartialStride;  // [kRows]
#pragma unroll
  for (int m = 0; m < kWarpTiles; ++m) {
#pragma unroll
    for (int t = 0; t < kRowTiles; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = 8 * t + 2 * (lane % 4) + i % 2;
        const int weight_row = (warp * kWarpTiles + m) * kTile + lane / 4 + i / 2 * 8;
        partial[row * Sizes::kPartialStride + weight_row] = sums[m][t][i];
      }
    }
  }
#pragma unroll
  for (int j = 0; j < kXVectors; ++j) {
    for (int offset = kChunkVectors / 2; offset > 0; offset /= 2) {
      squares[j] += __shfl_xor_sync(kAllLanes, squares[j], offset);
    }
    const int row = x_row + j * kRowStep;
    if (threadIdx.x % kChunkVectors == 0 && row < Sizes::kRows) square_sums[row] = squares[j];
  }
  if (splits == 1) {
    __syncthreads();
  } else {
    WaitForCluster();
  }

  const int count = output.params.rows * kColumns;
  for (int i = part * kThreads + threadIdx.x; i < count; i += splits * kThreads) {
    const int row = i / kColumns, in_block = i % kColumns;
    const int at = row * Sizes::kPartialStride + in_block / kTile * kTile * Output::kMatrices +
                   in_block % kTile;
    float of_column[Output::kMatrices] = {}, total = 0;
    for (int s = 0; s < splits; ++s) {
      const float* theirs = splits == 1 ? partial : OfBlock(partial, s);
#pragma unroll
      for (int m = 0; m < Output::kMatrices; ++m) of_column[m] += theirs[at + m * kTile];
      total += theirs[Sizes::kRows * Sizes::kPartialStride + row];
    }
    const float scale = RowScale(norm, total, k);
#pragma unroll
    for (float& sum : of_column) sum *= scale;
    if (first_column + in_block < n) output.Store(of_column, row, first_column + in_block, n);
  }
  if (splits > 1) WaitForCluster();  // Others may still read this block's memory.
}

// Into how many parts k goes: the fewest chunks one after another, when blocks take turns on the
// multiprocessors.
int SplitsFor(int tiles, int chunks, int blocks_at_once) {
  constexpr int kStartChunks = 2;  // What a block costs besides.
  int best = 1;
  int64_t least = 0;
  for (int splits = 1; splits <= std::min(kMostSplits, chunks); ++splits) {
    const int64_t turns = CeilDiv(int64_t{tiles} * splits, blocks_at_once);
    const int64_t cost = turns * (CeilDiv(chunks, splits) + kStartChunks);
    if (splits == 1 || cost < least) {
      least = cost;
      best = splits;
    }
  }
  return best;
}

template <int kRowTiles, int kNumWarps, typename Output>
bool MultiplyByTiles(const Output& output, int n, int k, Stream& stream) {
  using Sizes = TilesSizes<kRowTiles, kNumWarps>;
  if (k % kChunk != 0 || Sizes::kBytes > stream.max_shared_memory()) return false;
  const int tiles = static_cast<int>(CeilDiv(n, Sizes::kWeightRows / Output::kMatrices));
  const int blocks_at_once =
      stream.num_multiprocessors() * static_cast<int>(stream.max_shared_memory() / Sizes::kBytes);
  const int splits = stream.has_clusters() ? SplitsFor(tiles, k / kChunk, blocks_at_once) : 1;
  LaunchClusters(stream, "MatMul", TilesKernel<kRowTiles, kNumWarps, Output>, dim3(tiles * splits),
                 splits, Sizes::kThreads, Sizes::kBytes, output, n, k, splits);
  return true;
}

template <typename Output>
bool MultiplyFewRows(const Output& output, int n, int k, Stream& stream) {
  const int rows = output.params.rows;
  const size_t row_bytes = size_t(k) * sizeof(Bf16);
  if (rows > kMostLanesRows) {
    if (rows <= 16) return MultiplyByTiles<2, 4>(output, n, k, stream);
    if (rows <= 32) return MultiplyByTiles<4, 8>(output, n, k, stream);
    return rows <= kMostTilesRows && MultiplyByTiles<8, 8>(output, n, k, stream);
  }
  if (k % kVector != 0 || kMostLanesRows * row_bytes > stream.max_shared_memory()) return false;
  const dim3 grid(static_cast<unsigned>(CeilDiv(n, kWarps * (kWeightRows / Output::kMatrices))));
  const auto launch = [&](auto kernel, int kernel_rows) {
    Launch(stream, "MatMul", kernel, grid, kWarps * kWarp, kernel_rows * row_bytes, output, n, k);
  };
  if (rows == 1) {
    launch(LanesKernel<1, Output>, 1);
  } else if (rows == 2) {
    launch(LanesKernel<2, Output>, 2);
  } else {
    launch(LanesKernel<kMostLanesRows, Output>, kMostLanesRows);
  }
  return true;
}

const Bf16* Bf16Of(const DeviceMatrix& matrix) { return static_cast<const Bf16*>(matrix.data); }

}  // namespace

bool MatMulOfFewRows(const MatMulParams& params, const DeviceMatrix& matrix, Stream& stream) {
  return matrix.type == WeightType::kBF16 &&
         MultiplyFewRows(Columns{params, Bf16Of(matrix)}, matrix.n, matrix.k, stream);
}

bool GatedMatMulOfFewRows(const GatedMatMulParams& params, const DeviceMatrix& gate,
                          const DeviceMatrix& up, Stream& stream) {
  return gate.type == WeightType::kBF16 &&
         MultiplyFewRows(GatedColumns{params, Bf16Of(gate), Bf16Of(up)}, gate.n, gate.k, stream);
}

}  // namespace treeline::cuda
