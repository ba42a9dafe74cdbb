// What attention wants of rows: phi of queries and keys, and K and V rounded to bf16. phi: a block
// of threads takes some rows of one head, in fp32; with bf16 rings the hedgehog's product runs on
// tensor cores, its operands rounded to bf16.
#include <algorithm>

#include "kernels/cuda/attention_rows.cuh"
#include "kernels/cuda/tiles.cuh"

namespace treeline::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int kFeatureRows = 16;  // Of a block, in fp32.

// out = softmax over [y, -y], by one warp; y: [half].
__device__ void SignedSoftmax(const float* y, int half, float* out) {
  const int lane = threadIdx.x % kWarp;
  float largest = 0;
  for (int i = lane; i < half; i += kWarp) largest = fmaxf(largest, fabsf(y[i]));
  largest = WarpMax(largest);
  float sum = 0;
  for (int i = lane; i < half; i += kWarp) sum += expf(y[i] - largest) + expf(-y[i] - largest);
  const float scale = 1.0f / WarpSum(sum);
  for (int i = lane; i < half; i += kWarp) {
    out[i] = expf(y[i] - largest) * scale;
    out[half + i] = expf(-y[i] - largest) * scale;
  }
}

// Columns of a hedgehog's matrix.
__host__ __device__ int HalfOf(int feature_dim) { return feature_dim / 2; }

// Of a head, [dim, half].
__device__ const float* MapOf(const float* maps, int head, const AttentionStep& step) {
  return maps + int64_t{head} * step.layer.head_dim * HalfOf(step.feature_dim);
}

__device__ float PointwiseFeature(FeatureMap map, float x) {
  if (map == FeatureMap::kRelu) return fmaxf(x, 0.0f);
  if (map == FeatureMap::kElu1) return x > 0 ? x + 1.0f : expf(x);
  return x;
}

// x: [kFeatureRows, dim], y: [kFeatureRows, half], in shared memory; x is there for all threads.
// Row r's features go to out + r * out_stride.
__device__ void ComputeFeatures(const AttentionStep& step, float* x, float* y, int rows,
                                const float* map, float* out, int64_t out_stride) {
  const int dim = step.layer.head_dim, warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (step.layer.form.qk_norm == QkNorm::kL2) {
    for (int r = warp; r < rows; r += kWarps) {
      float squares = 0;
      for (int i = lane; i < dim; i += kWarp) squares += x[r * dim + i] * x[r * dim + i];
      const float scale = 1.0f / sqrtf(fmaxf(WarpSum(squares), 1e-12f));
      for (int i = lane; i < dim; i += kWarp) x[r * dim + i] *= scale;
    }
    __syncthreads();
  }
  const FeatureMap feature_map = step.layer.form.feature_map;
  if (feature_map != FeatureMap::kHedgehog) {
    for (int i = threadIdx.x; i < rows * dim; i += kThreads) {
      out[i / dim * out_stride + i % dim] = PointwiseFeature(feature_map, x[i]);
    }
    return;
  }
  const int half = HalfOf(step.feature_dim);
  for (int j = threadIdx.x; j < half; j += kThreads) {
    float sums[kFeatureRows] = {};
    for (int i = 0; i < dim; ++i) {
      const float w = map[i * half + j];
#pragma unroll
      for (int r = 0; r < kFeatureRows; ++r) sums[r] += x[r * dim + i] * w;
    }
#pragma unroll
    for (int r = 0; r < kFeatureRows; ++r) y[r * half + j] = sums[r];
  }
  __syncthreads();
  for (int r = warp; r < rows; r += kWarps) SignedSoftmax(y + r * half, half, out + r * out_stride);
}

// Grid: tiles of rows, heads.
__global__ void QueryFeaturesKernel(AttentionStep step) {
  WaitForEarlierKernels();
  const int dim = step.layer.head_dim, head = blockIdx.y;
  const int first = blockIdx.x * kFeatureRows, rows = min(kFeatureRows, step.num_rows - first);
  float* x = SharedFloats();
  for (int i = threadIdx.x; i < kFeatureRows * dim; i += kThreads) {
    const int row = i / dim;
    x[i] = row < rows ? step.q[int64_t{first + row} * step.q_stride + int64_t{head} * dim + i % dim]
                      : 0.0f;
  }
  __syncthreads();
  const int64_t stride = int64_t{step.layer.heads} * step.feature_dim;
  ComputeFeatures(step, x, x + kFeatureRows * dim, rows,
                  MapOf(step.layer.feature_map_q, head, step),
                  step.query_features + first * stride + int64_t{head} * step.feature_dim, stride);
}

// Grid: tiles of the plan, KV heads.
template <typename Stored>
__global__ void KeyFeaturesKernel(AttentionStep step) {
  WaitForEarlierKernels();
  const int dim = step.layer.head_dim, kv_head = blockIdx.y;
  const FeatureTile tile = step.feature_tiles[blockIdx.x];
  const Tree tree = step.trees[tile.tree];
  const RowSource keys = KeySource<Stored>(step, tree, kv_head);
  const int committed = tree.length - tree.features_begin;
  const int rows = min(kFeatureRows, committed + tree.num_rows - tile.first);
  float* x = SharedFloats();
  for (int i = threadIdx.x; i < kFeatureRows * dim; i += kThreads) {
    const int row = i / dim, offset = tile.first + row;
    x[i] = 0;
    if (row >= rows) continue;
    const RowPointer key = offset < committed
                               ? RowAt<Stored>(step, tree, keys, tree.features_begin + offset)
                               : NodeRow(step, tree, keys, offset - committed);
    x[i] = Load<Stored>(key, i % dim);
  }
  __syncthreads();
  const int64_t stride = int64_t{step.layer.kv_heads} * step.feature_dim;
  ComputeFeatures(step, x, x + kFeatureRows * dim, rows,
                  MapOf(step.layer.feature_map_k, kv_head, step),
                  step.key_features + (tree.features + tile.first) * stride +
                      int64_t{kv_head} * step.feature_dim,
                  stride);
}

// -- The hedgehog on tensor cores.

constexpr int kTileRows = 64;  // Of a block; 16 of each of its four warps.
static_assert(kTileRows == kWarps * 16);

template <bool kExact>
__device__ float Exp(float x) {
  return kExact ? expf(x) : __expf(x);
}

// The block's rows x [rows, kDim], fetched by row_of, times map and through softmax over [y, -y]. x
// is rounded to bf16; with kExact, which is for x that is bf16 anyway, map goes in as the sum of
// two bf16, so that what is folded into S is exact to fp32 rounding.
template <int kDim, bool kExact, typename RowOf>
__device__ void HedgehogTile(const AttentionStep& step, int rows, const RowOf& row_of,
                             const float* map, float* out, int64_t out_stride) {
  LetNextKernelComeUp();
  constexpr int kStride = kDim + kPad, kVectors = kDim / kVector, kTiles = kDim / 8;
  const int half = HalfOf(step.feature_dim);  // Up to kDim; the tile's other columns stay 0.
  Bf16* x = reinterpret_cast<Bf16*>(SharedFloats());  // [kTileRows, kStride]
  Bf16* w = x + kTileRows * kStride;                  // [kDim, kStride]
  Bf16* w_rest = w + kDim * kStride;                  // The same; where kExact.
  __shared__ float norms[kTileRows];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  MoveVectors<kThreads>(
      kDim * kVectors,
      [&](int i, float(&values)[kVector]) {
        const int at = i % kVectors * kVector;
        if (at < half) {
          LoadVector(map + i / kVectors * half + at, values);
        } else {
          SetZero(values);
        }
      },
      [&](int i, float(&values)[kVector]) {
        const int to = i / kVectors * kStride + i % kVectors * kVector;
        StoreRounded(w + to, values);
        if constexpr (kExact) {
          for (float& value : values) value -= Bf16Rounded(value);
          StoreRounded(w_rest + to, values);
        }
      });
  WaitForEarlierKernels();
  // kVectors neighbouring lanes share a row. Its norm is applied to the product.
  MoveVectors<kThreads>(
      kTileRows * kVectors,
      [&](int i, float(&values)[kVector]) {
        if (i / kVectors < rows) {
          row_of(i / kVectors, i % kVectors * kVector, values);
        } else {
          SetZero(values);
        }
      },
      [&](int i, const float(&values)[kVector]) {
        const int row = i / kVectors;
        float squares = 0;
        for (const float value : values) squares += value * value;
        for (int offset = kVectors / 2; offset > 0; offset /= 2) {
          squares += __shfl_xor_sync(kAllLanes, squares, offset);
        }
        if (i % kVectors == 0) norms[row] = 1.0f / sqrtf(fmaxf(squares, 1e-12f));
        StoreRounded(x + row * kStride + i % kVectors * kVector, values);
      });
  __syncthreads();
  if (warp * 16 >= rows) return;
  float y[kTiles][4] = {};
  Multiply<false, true>(y, x + warp * 16 * kStride, kStride, w, kStride, 0, kDim);
  if constexpr (kExact) {
    Multiply<false, true>(y, x + warp * 16 * kStride, kStride, w_rest, kStride, 0, kDim);
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    // Four lanes share a row.
    const int row = warp * 16 + lane / 4 + 8 * h;
    const float norm = step.layer.form.qk_norm == QkNorm::kL2 ? norms[row] : 1.0f;
    float largest = 0, sum = 0;
#pragma unroll
    for (int i = 0; i < 2 * kTiles; ++i) {
      float& value = y[i / 2][2 * h + i % 2];
      value *= norm;
      largest = fmaxf(largest, fabsf(value));
    }
    for (int offset = 1; offset < 4; offset *= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, offset));
    }
#pragma unroll
    for (int i = 0; i < 2 * kTiles; ++i) {
      if (i / 2 * 8 >= half) break;
      const float value = y[i / 2][2 * h + i % 2];
      sum += Exp<kExact>(value - largest) + Exp<kExact>(-value - largest);
    }
    for (int offset = 1; offset < 4; offset *= 2) sum += __shfl_xor_sync(kAllLanes, sum, offset);
    const float scale = 1.0f / sum;
    if (row >= rows) continue;
    float* to = out + row * out_stride + 2 * (lane % 4);
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      if (t * 8 >= half) break;
      const float a = y[t][2 * h], b = y[t][2 * h + 1];
      *reinterpret_cast<float2*>(to + 8 * t) =
          make_float2(Exp<kExact>(a - largest) * scale, Exp<kExact>(b - largest) * scale);
      *reinterpret_cast<float2*>(to + half + 8 * t) =
          make_float2(Exp<kExact>(-a - largest) * scale, Exp<kExact>(-b - largest) * scale);
    }
  }
}

// Grid: tiles of rows, heads.
template <int kDim>
__global__ void __launch_bounds__(kThreads) QueryHedgehogKernel(AttentionStep step) {
  const int head = blockIdx.y, first = blockIdx.x * kTileRows;
  const float* q = step.q + int64_t{head} * kDim;
  const int64_t stride = int64_t{step.layer.heads} * step.feature_dim;
  HedgehogTile<kDim, false>(
      step, min(kTileRows, step.num_rows - first),
      [&](int row, int at, float(&values)[kVector]) {
        LoadVector(q + int64_t{first + row} * step.q_stride + at, values);
      },
      MapOf(step.layer.feature_map_q, head, step),
      step.query_features + first * stride + int64_t{head} * step.feature_dim, stride);
}

// Grid: tiles of the plan, KV heads.
template <int kDim>
__global__ void __launch_bounds__(kThreads) KeyHedgehogKernel(AttentionStep step) {
  const int kv_head = blockIdx.y;
  const FeatureTile tile = step.feature_tiles[blockIdx.x];
  const Tree tree = step.trees[tile.tree];
  const RowSource keys = KeySource<Bf16>(step, tree, kv_head);
  const int committed = tree.length - tree.features_begin;
  const int64_t stride = int64_t{step.layer.kv_heads} * step.feature_dim;
  HedgehogTile<kDim, true>(
      step, min(kTileRows, committed + tree.num_rows - tile.first),
      [&](int row, int at, float(&values)[kVector]) {
        const int offset = tile.first + row;
        const RowPointer key = offset < committed
                                   ? RowAt<Bf16>(step, tree, keys, tree.features_begin + offset)
                                   : NodeRow(step, tree, keys, offset - committed);
        LoadVector(key, at, values);
      },
      MapOf(step.layer.feature_map_k, kv_head, step),
      step.key_features + (tree.features + tile.first) * stride +
          int64_t{kv_head} * step.feature_dim,
      stride);
}

// -- The hedgehog of few queries, of the same rounded operands: a matrix is read once, into
// registers, while earlier kernels still run.

constexpr int kFewQueries = 16;       // Of a block of threads, at most.
constexpr int kMostFewQueries = 256;  // Of a step.
constexpr int kParts = 4;             // Threads that share a column of the matrix.

// K and V of a row of the batch become bf16, by all threads of the block.
__device__ void RoundKv(const AttentionStep& step, int64_t row) {
  const int size = step.layer.kv_heads * step.layer.head_dim;  // Of K, and of V.
  for (int i = threadIdx.x * kVector; i < 2 * size; i += blockDim.x * kVector) {
    const float* from = i < size ? step.k + i : step.v + i - size;
    float values[kVector];
    LoadVector(from + row * step.kv_stride, values);
    StoreRounded(KvRow(step, row) + i, values);
  }
}

// Grid: rows of the batch.
__global__ void KvToBf16Kernel(AttentionStep step) {
  WaitForEarlierKernels();
  RoundKv(step, blockIdx.x);
}

// Grid: heads, `query_blocks` blocks of block_rows rows; behind them, a row each, blocks that round
// K and V.
template <int kDim>
__global__ void __launch_bounds__(kParts* kDim)
    FewQueriesKernel(AttentionStep step, int block_rows, int query_blocks) {
  LetNextKernelComeUp();
  if (blockIdx.y >= query_blocks) {
    WaitForEarlierKernels();
    const int64_t row = int64_t{blockIdx.y - query_blocks} * gridDim.x + blockIdx.x;
    if (row < step.num_rows) RoundKv(step, row);
    return;
  }
  constexpr int kPartDims = kDim / kParts, kLaneColumns = kDim / kWarp;
  __shared__ __align__(16) float q[kFewQueries][kDim];
  __shared__ float partial[kFewQueries][kParts][kDim];
  const int head = blockIdx.x, first = blockIdx.y * block_rows;
  const int rows = min(block_rows, step.num_rows - first), half = HalfOf(step.feature_dim);
  const int part = threadIdx.x / kDim, column = threadIdx.x % kDim;
  const float* map = MapOf(step.layer.feature_map_q, head, step);
  float w[kPartDims];
#pragma unroll
  for (int i = 0; i < kPartDims; ++i) {
    w[i] = column < half ? Bf16Rounded(map[(part * kPartDims + i) * half + column]) : 0.0f;
  }
  WaitForEarlierKernels();
  for (int i = threadIdx.x; i < rows * kDim; i += kParts * kDim) {
    q[i / kDim][i % kDim] = Bf16Rounded(
        step.q[int64_t{first + i / kDim} * step.q_stride + int64_t{head} * kDim + i % kDim]);
  }
  __syncthreads();
#pragma unroll 1
  for (int row = 0; row < rows; ++row) {
    const auto* values = reinterpret_cast<const float4*>(&q[row][part * kPartDims]);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kPartDims / 4; ++i) {
      const float4 v = values[i];
      sum += v.x * w[4 * i] + v.y * w[4 * i + 1] + v.z * w[4 * i + 2] + v.w * w[4 * i + 3];
    }
    partial[row][part][column] = sum;
  }
  __syncthreads();
  const int lane = threadIdx.x % kWarp;
  for (int row = threadIdx.x / kWarp; row < rows; row += kParts * kDim / kWarp) {
    float y[kLaneColumns], squares = 0;
#pragma unroll
    for (int i = 0; i < kLaneColumns; ++i) {
      const int c = lane + kWarp * i;
      y[i] = partial[row][0][c] + partial[row][1][c] + partial[row][2][c] + partial[row][3][c];
      squares += q[row][c] * q[row][c];
    }
    const float norm = step.layer.form.qk_norm == QkNorm::kL2
                           ? 1.0f / sqrtf(fmaxf(WarpSum(squares), 1e-12f))
                           : 1.0f;
    float largest = 0, sum = 0;
#pragma unroll
    for (float& value : y) {
      value *= norm;
      largest = fmaxf(largest, fabsf(value));
    }
    largest = WarpMax(largest);
    float up[kLaneColumns], down[kLaneColumns];
#pragma unroll
    for (int i = 0; i < kLaneColumns; ++i) {
      const bool is_feature = lane + kWarp * i < half;
      up[i] = is_feature ? __expf(y[i] - largest) : 0.0f;
      down[i] = is_feature ? __expf(-y[i] - largest) : 0.0f;
      sum += up[i] + down[i];
    }
    const float scale = 1.0f / WarpSum(sum);
    float* out =
        step.query_features + (int64_t{first + row} * step.layer.heads + head) * step.feature_dim;
#pragma unroll
    for (int i = 0; i < kLaneColumns; ++i) {
      const int c = lane + kWarp * i;
      if (c >= half) continue;
      out[c] = up[i] * scale;
      out[half + c] = down[i] * scale;
    }
  }
}

bool HedgehogOnTensorCores(const AttentionLayer& layer) {
  return layer.state_type == StateType::kBF16 && layer.form.feature_map == FeatureMap::kHedgehog &&
         (layer.head_dim == 64 || layer.head_dim == 128) &&
         HalfOf(layer.feature_dim()) % kVector == 0 &&
         HalfOf(layer.feature_dim()) <= layer.head_dim;
}

// exact: as HedgehogTile's kExact.
size_t SharedBytes(const AttentionLayer& layer, bool exact) {
  const size_t dim = layer.head_dim;
  if (HedgehogOnTensorCores(layer)) {
    return sizeof(Bf16) * (kTileRows + (exact ? 2 : 1) * dim) * (dim + kPad);
  }
  return sizeof(float) * kFeatureRows * (dim + HalfOf(layer.feature_dim()));
}

}  // namespace

int32_t FeatureTileRows(const AttentionLayer& layer) {
  return HedgehogOnTensorCores(layer) ? kTileRows : kFeatureRows;
}

void PrepareRows(const AttentionStep& step, Stream& stream) {
  const bool rounds = step.num_wide_blocks > 0;
  if (step.has_linear && HedgehogOnTensorCores(step.layer) && step.num_rows <= kMostFewQueries) {
    // Few enough that all multiprocessors have some.
    const int64_t share =
        CeilDiv(int64_t{step.num_rows} * step.layer.heads, 2 * stream.num_multiprocessors());
    const int block_rows = static_cast<int>(std::min<int64_t>(share, kFewQueries));
    const int query_blocks = static_cast<int>(CeilDiv(step.num_rows, block_rows));
    const int kv_blocks = rounds ? static_cast<int>(CeilDiv(step.num_rows, step.layer.heads)) : 0;
    Launch(stream, "QueryFeatures",
           step.layer.head_dim == 64 ? FewQueriesKernel<64> : FewQueriesKernel<128>,
           dim3(step.layer.heads, query_blocks + kv_blocks), kParts * step.layer.head_dim, 0, step,
           block_rows, query_blocks);
    return;
  }
  if (rounds) {
    Launch(stream, "KvToBf16", KvToBf16Kernel, dim3(step.num_rows), kThreads, 0, step);
  }
  if (!step.has_linear) return;
  const auto kernel = !HedgehogOnTensorCores(step.layer) ? QueryFeaturesKernel
                      : step.layer.head_dim == 64        ? QueryHedgehogKernel<64>
                                                         : QueryHedgehogKernel<128>;
  const dim3 grid(static_cast<unsigned>(CeilDiv(step.num_rows, FeatureTileRows(step.layer))),
                  step.layer.heads);
  Launch(stream, "QueryFeatures", kernel, grid, kThreads, SharedBytes(step.layer, false), step);
}

void ComputeKeyFeatures(const AttentionStep& step, Stream& stream) {
  const auto in_fp32 =
      step.layer.state_type == StateType::kF32 ? KeyFeaturesKernel<float> : KeyFeaturesKernel<Bf16>;
  const auto kernel = !HedgehogOnTensorCores(step.layer) ? in_fp32
                      : step.layer.head_dim == 64        ? KeyHedgehogKernel<64>
                                                         : KeyHedgehogKernel<128>;
  Launch(stream, "KeyFeatures", kernel, dim3(step.num_feature_tiles, step.layer.kv_heads), kThreads,
         SharedBytes(step.layer, true), step);
}

}  // namespace treeline::cuda
