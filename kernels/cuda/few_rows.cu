#include <algorithm>

#include "kernels/cuda/copy_async.cuh"
#include "kernels/cuda/few_rows.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/product_outputs.cuh"
#include "kernels/cuda/warp_group.cuh"

namespace treeline::cuda {
namespace {

// A product's matrices, bf16 [n, k].
template <int kMatrices>
struct Weights {
  const Bf16* data[kMatrices];
  __device__ const Bf16* Row(int matrix, int column, int k) const {
    return data[matrix] + int64_t{column} * k;
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
constexpr int kLaneWeightRows = 2;
constexpr int kBatch = 4;

// y [Rows, n]: a warp takes kLaneWeightRows rows of weights, its lanes divide k. x is rounded to
// bf16 into shared memory while the first weights are on their way. REQUIRES: k % kVector == 0.
template <int Rows, typename Output>
__global__ void __launch_bounds__(kWarps* kWarp)
    LanesKernel(Output output, Weights<Output::kMatrices> matrices, int n, int k) {
  LetNextKernelComeUp();
  constexpr int kColumns = kLaneWeightRows / Output::kMatrices;  // Of a warp.
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int column = (blockIdx.x * kWarps + warp) * kColumns;
  const Bf16* weights[kLaneWeightRows];
#pragma unroll
  for (int c = 0; c < kLaneWeightRows; ++c) {
    // Past the end the last column's are read again, and the sum thrown away.
    const int of = min(column + c / Output::kMatrices, n - 1);
    weights[c] = matrices.Row(c % Output::kMatrices, of, k) + lane * kVector;
  }
  constexpr int kStride = kWarp * kVector;  // From one vector of a lane to the next.
  uint4 bits[kBatch][kLaneWeightRows];
  const auto load = [&](int first) {
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int at = first + j * kStride;
#pragma unroll
      for (int c = 0; c < kLaneWeightRows; ++c) {
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

  float sums[Rows][kLaneWeightRows] = {};
  for (int first = 0; first < k; first += kBatch * kStride) {
    uint4 now[kBatch][kLaneWeightRows];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
#pragma unroll
      for (int c = 0; c < kLaneWeightRows; ++c) now[j][c] = bits[j][c];
    }
    load(first + kBatch * kStride);
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int at = first + j * kStride + lane * kVector;
      if (at >= k) break;
      float w[kLaneWeightRows][kVector];
#pragma unroll
      for (int c = 0; c < kLaneWeightRows; ++c) Unpack(now[j][c], w[c]);
#pragma unroll
      for (int row = 0; row < Rows; ++row) {
        float values[kVector];
        Unpack(*reinterpret_cast<const uint4*>(x + row * k + at), values);
#pragma unroll
        for (int c = 0; c < kLaneWeightRows; ++c) {
#pragma unroll
          for (int i = 0; i < kVector; ++i) sums[row][c] += w[c][i] * values[i];
        }
      }
    }
  }
#pragma unroll
  for (int row = 0; row < Rows; ++row) {
#pragma unroll
    for (int c = 0; c < kLaneWeightRows; ++c) sums[row][c] = WarpSum(sums[row][c]);
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
      if (column + j < n) {
        float& y = output.params.y[int64_t{row} * n + column + j];
        y = output.Value(output.Accumulates() ? y : 0.0f, of_column, column + j);
      }
    }
  }
}

// -- Few rows of a small matrix, on tensor cores.

// One row is faster by the ordinary units; with two there is little between them.
constexpr int kFewestSlicesRows = 3, kMostSlicesRows = 32;
// Each block reads all of x: where there are more blocks, that is what takes the time.
constexpr int64_t kMostSlicesWeights = int64_t{2} << 20;
constexpr int kUnit = 32;          // Of k.
constexpr int kMatrixColumns = 8;  // Of a tensor core's product.

// y [rows, n]: a block takes kMatrixColumns * kTiles columns, its warps divide k. A lane loads 16
// bytes of a row of weights at a time, and of x what belongs to them: the two sides of a product
// agree on the order of k that this gives. A warp has kBatch units of k in flight; the first
// weights are on their way before x is there. REQUIRES: rows <= 16 kRowTiles, k % kUnit == 0.
template <int kRowTiles, int kTiles, int kBatch, typename Output>
__global__ void __launch_bounds__(kWarps* kWarp)
    SlicesKernel(Output output, Weights<Output::kMatrices> matrices, int n, int k) {
  LetNextKernelComeUp();
  constexpr int kColumns = kMatrixColumns * kTiles, kMatrices = Output::kMatrices;
  constexpr int kLaneRows = 2 * kRowTiles;  // Of x: lane / 4, eight behind it, ...
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int first_column = blockIdx.x * kColumns, rows = output.params.rows;
  const Normalization norm = output.params.norm;
  const int in_unit = lane % 4 * kVector;
  // A thread's weights wait in its own places of shared memory.
  uint4* const weights = reinterpret_cast<uint4*>(SharedFloats()) + threadIdx.x;
  const auto place = [&](int j, int t, int m) {
    return weights + ((j * kTiles + t) * kMatrices + m) * kWarps * kWarp;
  };
  const auto fetch_weights = [&](int first) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const int column = min(first_column + t * kMatrixColumns + lane / 4, n - 1);
#pragma unroll
      for (int m = 0; m < kMatrices; ++m) {
        const Bf16* row = matrices.Row(m, column, k) + in_unit;
#pragma unroll
        for (int j = 0; j < kBatch; ++j) {
          const int at = (first + j * kWarps) * kUnit;
          if (at < k) CopyAsync(place(j, t, m), row + at);
        }
      }
    }
    CommitCopies();
  };
  fetch_weights(warp);
  WaitForEarlierKernels();

  // What the thread adds its first output to. There are more only where nothing is added to.
  static_assert(kMatrices > 1 || 16 * kRowTiles * kColumns <= kWarps * kWarp);
  float* const y = output.params.y + first_column;
  float before = 0;
  if (output.Accumulates()) {
    const int row = threadIdx.x / kColumns, column = threadIdx.x % kColumns;
    if (row < rows && first_column + column < n) before = y[int64_t{row} * n + column];
  }

  float sums[kRowTiles][kTiles][kMatrices][4] = {}, squares[kLaneRows] = {};
#pragma unroll 1
  for (int first = warp; first * kUnit < k; first += kBatch * kWarps) {
    if (first != warp) fetch_weights(first);
    float x[kBatch][kLaneRows][kVector];
    float norm_weights[kBatch][kVector];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int at = (first + j * kWarps) * kUnit;
      if (at >= k) break;
#pragma unroll
      for (int h = 0; h < kLaneRows; ++h) {
        const int row = lane / 4 + 8 * h;
        if (row < rows) {
          LoadVector(output.params.x + int64_t{row} * k + at + in_unit, x[j][h]);
        } else {
          SetZero(x[j][h]);
        }
      }
      if (norm.weight != nullptr) LoadVector(norm.weight + at + in_unit, norm_weights[j]);
    }
    WaitForCopies<0>();
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      if ((first + j * kWarps) * kUnit >= k) break;
      uint4 rounded[kLaneRows];
#pragma unroll
      for (int h = 0; h < kLaneRows; ++h) {
        squares[h] += SumOfSquares(x[j][h]);
#pragma unroll
        for (int i = 0; i < kVector && norm.weight != nullptr; ++i) {
          x[j][h][i] *= norm_weights[j][i];
        }
        StoreRounded(reinterpret_cast<Bf16*>(&rounded[h]), x[j][h]);
      }
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
#pragma unroll
        for (int m = 0; m < kMatrices; ++m) {
          const uint4 w = *place(j, t, m);
#pragma unroll
          for (int r = 0; r < kRowTiles; ++r) {
            const uint4 &a = rounded[2 * r], &b = rounded[2 * r + 1];
            const uint32_t low[4] = {a.x, b.x, a.y, b.y}, high[4] = {a.z, b.z, a.w, b.w};
            MultiplyAdd(sums[r][t][m], low, w.x, w.y);
            MultiplyAdd(sums[r][t][m], high, w.z, w.w);
          }
        }
      }
    }
  }

  __shared__ float partial[kWarps][kMatrices][kTiles][16 * kRowTiles][kMatrixColumns];
  __shared__ float partial_squares[kWarps][16 * kRowTiles];
#pragma unroll
  for (int h = 0; h < kLaneRows; ++h) {
    const int row = lane / 4 + 8 * h;
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int m = 0; m < kMatrices; ++m) {
        *reinterpret_cast<float2*>(&partial[warp][m][t][row][lane % 4 * 2]) =
            make_float2(sums[h / 2][t][m][h % 2 * 2], sums[h / 2][t][m][h % 2 * 2 + 1]);
      }
    }
    squares[h] += __shfl_xor_sync(kAllLanes, squares[h], 1);
    squares[h] += __shfl_xor_sync(kAllLanes, squares[h], 2);
    if (lane % 4 == 0) partial_squares[warp][row] = squares[h];
  }
  __syncthreads();
#pragma unroll 1
  for (int i = threadIdx.x; i < rows * kColumns; i += kWarps * kWarp, before = 0) {
    const int row = i / kColumns, column = i % kColumns;
    if (first_column + column >= n) continue;
    float totals[kMatrices] = {}, row_squares = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      row_squares += partial_squares[w][row];
#pragma unroll
      for (int m = 0; m < kMatrices; ++m) {
        totals[m] += partial[w][m][column / kMatrixColumns][row][column % kMatrixColumns];
      }
    }
    const float scale = RowScale(norm, row_squares, k);
#pragma unroll
    for (float& total : totals) total *= scale;
    y[int64_t{row} * n + column] = output.Value(before, totals, first_column + column);
  }
}

template <int kRowTiles, typename Output>
bool MultiplyBySlices(const Output& output, const Weights<Output::kMatrices>& weights, int n, int k,
                      Stream& stream) {
  if (k % kUnit != 0 || int64_t{n} * k * Output::kMatrices > kMostSlicesWeights) return false;
  // Two matrices have more columns that could share x.
  constexpr int kTiles = Output::kMatrices;
  const dim3 grid(static_cast<unsigned>(CeilDiv(n, kMatrixColumns * kTiles)));
  const auto launch = [&](auto kernel, int batch) {
    Launch(stream, "MatMul", kernel, grid, kWarps * kWarp,
           sizeof(uint4) * kWarps * kWarp * batch * kTiles * Output::kMatrices, output, weights, n,
           k);
  };
  // A short batch goes round several times where k is long.
  constexpr int kShort = 3, kLong = 6;
  constexpr size_t kLongBytes = size_t{120} << 10;  // At most, of a block.
  const bool is_long = k > kShort * kWarps * kUnit && kLongBytes <= stream.max_shared_memory();
  if constexpr (kRowTiles == 1) {
    if (is_long) {
      launch(SlicesKernel<kRowTiles, kTiles, kLong, Output>, kLong);
      return true;
    }
  }
  launch(SlicesKernel<kRowTiles, kTiles, kShort, Output>, kShort);
  return true;
}

// -- Up to kMostTilesRows rows, on tensor cores.

constexpr int kMostTilesRows = 128;
constexpr int kThreads = 2 * kWarpGroup;
constexpr int kWeightRows = kThreads / kWarpGroup * kTileRows;  // Of a block.
constexpr int kStages = 5;    // Chunks of weights on their way or in use.
constexpr int kInTurns = 16;  // Rows of a matrix, before those of the next one.

// What a block has summed: [rows, kPartialStride], then the rows' sums of squares. Lanes that write
// a tile's sums meet different banks.
constexpr int kPartialStride = kWeightRows + 4;

// Bytes of shared memory, for `rows` rows.
constexpr size_t TilesBytes(int rows) {
  return sizeof(Bf16) * kTileDepth * (kStages * kWeightRows + 2 * rows);
}
static_assert(sizeof(float) * kMostTilesRows * (kPartialStride + 1) <=
              sizeof(Bf16) * kTileDepth * kStages * kWeightRows);

// y [rows, n], for up to 8 kRowTiles rows. A block takes kWeightRows rows of weights, and of k a
// part: the `splits` blocks of a cluster have the parts of the same rows and add up what they have
// summed, each for some of the outputs, always in the same order. Weights pass through shared
// memory a tile's depth of k at a time, kStages - 1 of these chunks on their way; x is rounded into
// two chunks in turns.
// REQUIRES: k % kTileDepth == 0, splits <= k / kTileDepth.
template <int kRowTiles, typename Output>
__global__ void __launch_bounds__(kThreads)
    TilesKernel(Output output, Weights<Output::kMatrices> matrices, int n, int k, int splits) {
  LetNextKernelComeUp();
  constexpr int kRows = 8 * kRowTiles, kColumns = kWeightRows / Output::kMatrices;
  constexpr int kVectors = kTileDepth / kVector;       // Of a row of a chunk.
  constexpr int kRowStep = kThreads / kVectors;        // From a thread's row to its next.
  constexpr int kCopies = kWeightRows / kRowStep;      // Of a thread, for a chunk of weights
  constexpr int kXVectors = CeilDiv(kRows, kRowStep);  // and of x.
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int part = blockIdx.x % splits, first_column = blockIdx.x / splits * kColumns;
  const int chunks = k / kTileDepth;
  const int begin = chunks * part / splits, end = chunks * (part + 1) / splits;
  const int my_row = threadIdx.x / kVectors, my_vector = threadIdx.x % kVectors;
  const int in_chunk = my_vector * kVector;
  // kRowStep is a multiple of 8, so that all rows of a thread are swizzled alike.
  const int to = SwizzledAt(my_row, my_vector);
  Bf16* const weights = reinterpret_cast<Bf16*>(SharedFloats());  // [kStages] of kWeightRows rows
  Bf16* const x = weights + kStages * kWeightRows * kTileDepth;   // [2] of kRows rows

  const Bf16* from[kCopies];
#pragma unroll
  for (int j = 0; j < kCopies; ++j) {
    const int i = my_row + j * kRowStep;
    const int column = i / (kInTurns * Output::kMatrices) * kInTurns + i % kInTurns;
    from[j] = matrices.Row(i / kInTurns % Output::kMatrices, min(first_column + column, n - 1), k) +
              in_chunk;
  }
  const auto fetch_weights = [&](int chunk) {
    if (chunk < end) {
      Bf16* stage = weights + (chunk - begin) % kStages * kWeightRows * kTileDepth;
#pragma unroll
      for (int j = 0; j < kCopies; ++j) {
        CopyAsync(stage + j * kRowStep * kTileDepth + to, from[j] + chunk * kTileDepth);
      }
    }
    CommitCopies();
  };
  for (int i = 0; i < kStages - 1; ++i) fetch_weights(begin + i);
  WaitForEarlierKernels();

  // Of x, two chunks are on their way; what the norm has for them comes along.
  const Normalization norm = output.params.norm;
  float fetched[2][kXVectors][kVector], norm_weights[2][kVector], squares[kXVectors] = {};
  const auto fetch_x = [&](int slot, int chunk) {
    if (chunk >= end) return;
    const int at = chunk * kTileDepth + in_chunk;
#pragma unroll
    for (int j = 0; j < kXVectors; ++j) {
      const int row = my_row + j * kRowStep;
      if (row < output.params.rows) {
        LoadVector(output.params.x + int64_t{row} * k + at, fetched[slot][j]);
      } else {
        SetZero(fetched[slot][j]);
      }
    }
    if (norm.weight != nullptr) LoadVector(norm.weight + at, norm_weights[slot]);
  };
  const auto store_x = [&](int slot, int chunk) {
#pragma unroll
    for (int j = 0; j < kXVectors; ++j) {
      if (my_row + j * kRowStep >= kRows) break;
      float(&values)[kVector] = fetched[slot][j];
      squares[j] += SumOfSquares(values);
#pragma unroll
      for (int i = 0; i < kVector && norm.weight != nullptr; ++i) {
        values[i] *= norm_weights[slot][i];
      }
      StoreRounded(x + (chunk % 2 * kRows + j * kRowStep) * kTileDepth + to, values);
    }
  };

  fetch_x(0, begin);
  fetch_x(1, begin + 1);
  float sums[4 * kRowTiles] = {};
  const auto multiply = [&](int slot, int chunk) {
    store_x(slot, chunk);
    fetch_x(slot, chunk + 2);
    WaitForCopies<kStages - 2>();
    LetTensorCoresSeeShared();
    __syncthreads();
    const int tile = (chunk - begin) % kStages * (kWeightRows / kTileRows) + warp / 4;
    MultiplyTiles<kRows>(sums, weights + tile * kTileRows * kTileDepth,
                         x + chunk % 2 * kRows * kTileDepth);
    // Everybody is done with the chunk before, whose place this one takes.
    fetch_weights(chunk + kStages - 1);
    WaitForTiles(sums);
  };
  for (int chunk = begin; chunk < end; chunk += 2) {
    multiply(0, chunk);
    if (chunk + 1 < end) multiply(1, chunk + 1);
  }

  WaitForCopies<0>();
  __syncthreads();
  float* const partial = SharedFloats();
  float* const square_sums = partial + kRows * kPartialStride;
#pragma unroll
  for (int i = 0; i < 4 * kRowTiles; ++i) {
    const int row = i / 4 * 8 + 2 * (lane % 4) + i % 2;
    const int weight_row = warp * 16 + lane / 4 + i % 4 / 2 * 8;
    partial[row * kPartialStride + weight_row] = sums[i];
  }
#pragma unroll
  for (int j = 0; j < kXVectors; ++j) {
    for (int offset = kVectors / 2; offset > 0; offset /= 2) {
      squares[j] += __shfl_xor_sync(kAllLanes, squares[j], offset);
    }
    const int row = my_row + j * kRowStep;
    if (my_vector == 0 && row < kRows) square_sums[row] = squares[j];
  }
  if (splits == 1) {
    __syncthreads();
  } else {
    WaitForCluster();
  }

  const auto scale_of = [&](int row) {
    float row_squares = 0;
    if (norm.weight != nullptr) {
      float part_squares[kMostSplits];
#pragma unroll
      for (int s = 0; s < kMostSplits; ++s) {
        if (s >= splits) break;
        part_squares[s] = (splits == 1 ? square_sums : OfBlock(square_sums, s))[row];
      }
#pragma unroll
      for (int s = 0; s < kMostSplits; ++s) {
        if (s >= splits) break;
        row_squares += part_squares[s];
      }
    }
    return RowScale(norm, row_squares, k);
  };
  StoreSums<kWeightRows, kPartialStride, kInTurns, kThreads>(output, partial, splits, part,
                                                             first_column, n, scale_of);
  if (splits > 1) LeaveCluster();  // Others may still read this block's memory.
}

// Into how many parts k goes: the fewest chunks one after another, when blocks take turns on the
// multiprocessors.
int SplitsFor(int tiles, int chunks, int blocks_at_once) {
  constexpr int kStartChunks = 3;  // What a block costs besides.
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

template <int kRowTiles, typename Output>
bool MultiplyByTiles(const Output& output, const Weights<Output::kMatrices>& weights, int n, int k,
                     Stream& stream) {
  constexpr size_t kBytes = TilesBytes(8 * kRowTiles);
  // Larger matrices are streamed better (weight_stream.h).
  constexpr int64_t kMostWeights = int64_t{8} << 20;
  if (!stream.has_clusters() || k % kTileDepth != 0 || int64_t{n} * k > kMostWeights ||
      kBytes > stream.max_shared_memory()) {
    return false;
  }
  const int tiles = static_cast<int>(CeilDiv(n, kWeightRows / Output::kMatrices));
  const int blocks_at_once =
      stream.num_multiprocessors() * static_cast<int>(stream.max_shared_memory() / kBytes);
  const int splits = SplitsFor(tiles, k / kTileDepth, blocks_at_once);
  LaunchClusters(stream, "MatMul", TilesKernel<kRowTiles, Output>, dim3(tiles * splits), splits,
                 kThreads, kBytes, output, weights, n, k, splits);
  return true;
}

template <typename Output>
bool MultiplyFewRows(const Output& output, const Weights<Output::kMatrices>& weights, int n, int k,
                     Stream& stream) {
  const int rows = output.params.rows;
  const size_t row_bytes = size_t(k) * sizeof(Bf16);
  if (rows >= kFewestSlicesRows && rows <= kMostSlicesRows &&
      (rows <= 16 ? MultiplyBySlices<1>(output, weights, n, k, stream)
                  : MultiplyBySlices<2>(output, weights, n, k, stream))) {
    return true;
  }
  if (rows > kMostLanesRows) {
    if (rows <= 16) return MultiplyByTiles<2>(output, weights, n, k, stream);
    if (rows <= 32) return MultiplyByTiles<4>(output, weights, n, k, stream);
    if (rows <= 64) return MultiplyByTiles<8>(output, weights, n, k, stream);
    return rows <= kMostTilesRows && MultiplyByTiles<16>(output, weights, n, k, stream);
  }
  constexpr size_t kBesides = 1024;  // The sums of squares, and alignment.
  if (k % kVector != 0 || kMostLanesRows * row_bytes + kBesides > stream.max_shared_memory()) {
    return false;
  }
  const dim3 grid(
      static_cast<unsigned>(CeilDiv(n, kWarps * (kLaneWeightRows / Output::kMatrices))));
  const auto launch = [&](auto kernel, int kernel_rows) {
    Launch(stream, "MatMul", kernel, grid, kWarps * kWarp, kernel_rows * row_bytes, output, weights,
           n, k);
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
         MultiplyFewRows(Columns{params}, Weights<1>{Bf16Of(matrix)}, matrix.n, matrix.k, stream);
}

bool GatedMatMulOfFewRows(const GatedMatMulParams& params, const DeviceMatrix& gate,
                          const DeviceMatrix& up, Stream& stream) {
  return gate.type == WeightType::kBF16 &&
         MultiplyFewRows(GatedColumns{params}, Weights<2>{Bf16Of(gate), Bf16Of(up)}, gate.n, gate.k,
                         stream);
}

}  // namespace treeline::cuda
