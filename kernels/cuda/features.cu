// phi of queries and keys, in fp32: a block of threads takes kFeatureRows rows of one head.
#include "kernels/cuda/attention_rows.cuh"

namespace treeline::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;

// out[j] = softmax over [y, -y], by one warp.
__device__ void SignedSoftmax(const float* y, int dim, float* out) {
  const int lane = threadIdx.x % kWarp;
  float largest = 0;
  for (int i = lane; i < dim; i += kWarp) largest = fmaxf(largest, fabsf(y[i]));
  largest = WarpMax(largest);
  float sum = 0;
  for (int i = lane; i < dim; i += kWarp) sum += expf(y[i] - largest) + expf(-y[i] - largest);
  const float scale = 1.0f / WarpSum(sum);
  for (int i = lane; i < dim; i += kWarp) {
    out[i] = expf(y[i] - largest) * scale;
    out[dim + i] = expf(-y[i] - largest) * scale;
  }
}

__device__ float PointwiseFeature(FeatureMap map, float x) {
  if (map == FeatureMap::kRelu) return fmaxf(x, 0.0f);
  if (map == FeatureMap::kElu1) return x > 0 ? x + 1.0f : expf(x);
  return x;
}

// x, y: [kFeatureRows, dim] in shared memory; x is there for all threads. Row r's features go to
// out + r * out_stride.
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
  for (int j = threadIdx.x; j < dim; j += kThreads) {
    float sums[kFeatureRows] = {};
    for (int i = 0; i < dim; ++i) {
      const float w = map[i * dim + j];
#pragma unroll
      for (int r = 0; r < kFeatureRows; ++r) sums[r] += x[r * dim + i] * w;
    }
#pragma unroll
    for (int r = 0; r < kFeatureRows; ++r) y[r * dim + j] = sums[r];
  }
  __syncthreads();
  for (int r = warp; r < rows; r += kWarps) SignedSoftmax(y + r * dim, dim, out + r * out_stride);
}

// Grid: tiles of rows, heads.
__global__ void QueryFeaturesKernel(AttentionStep step) {
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
                  step.layer.feature_map_q + int64_t{head} * dim * dim,
                  step.query_features + first * stride + int64_t{head} * step.feature_dim, stride);
}

// Grid: tiles of the plan, KV heads.
template <typename Stored>
__global__ void KeyFeaturesKernel(AttentionStep step) {
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
                  step.layer.feature_map_k + int64_t{kv_head} * dim * dim,
                  step.key_features + (tree.features + tile.first) * stride +
                      int64_t{kv_head} * step.feature_dim,
                  stride);
}

size_t SharedBytes(const AttentionStep& step) {
  return 2 * sizeof(float) * kFeatureRows * static_cast<size_t>(step.layer.head_dim);
}

}  // namespace

void ComputeQueryFeatures(const AttentionStep& step, Stream& stream) {
  const dim3 grid(static_cast<unsigned>(CeilDiv(step.num_rows, kFeatureRows)), step.layer.heads);
  Launch(stream, "QueryFeatures", QueryFeaturesKernel, grid, kThreads, SharedBytes(step), step);
}

void ComputeKeyFeatures(const AttentionStep& step, int32_t num_tiles, Stream& stream) {
  const auto kernel = step.layer.state_type == StateType::kF32 ? KeyFeaturesKernel<float>
                                                               : KeyFeaturesKernel<__nv_bfloat16>;
  Launch(stream, "KeyFeatures", kernel, dim3(num_tiles, step.layer.kv_heads), kThreads,
         SharedBytes(step), step);
}

}  // namespace treeline::cuda
