// A block of queries and the columns that it attends to: who is who, and which branch sees what.
#ifndef TREELINE_KERNELS_CUDA_ATTENTION_BLOCK_CUH_
#define TREELINE_KERNELS_CUDA_ATTENTION_BLOCK_CUH_

#include <cmath>
#include <numbers>

#include "kernels/cuda/attention_rows.cuh"

namespace treeline::cuda {

enum class Code { kNone, kLocal, kLinear };  // docs/attention.md, "Trees".

struct Query {
  int row = 0;  // In the segment.
  int head = 0;
  int position = 0, group = 0;
  int window_begin = 0;    // The first position in its window, sinks aside.
  uint64_t ancestors = 0;  // Where the segment is no chain.
};

struct Column {
  int node = -1;  // The segment's row; -1: committed.
  int position = 0;
};

// What the block works on, the same in all threads.
struct Block {
  const AttentionStep& step;
  const Segment segment;
  const Tree tree;
  const int32_t* depths;  // Of the segment's nodes, where it is no chain.
  int kv_head, first_row, first_head, num_queries;
  int num_columns;

  __device__ Block(const AttentionStep& s, const QueryBlock& block)
      : step(s),
        segment(s.segments[block.segment]),
        tree(s.trees[segment.tree]),
        depths(s.depths + segment.nodes),
        kv_head(blockIdx.y),
        first_row(block.first_row),
        first_head(block.first_head),
        num_queries(block.num_queries),
        num_columns(block.num_columns) {}

  __device__ int first_node_column() const {
    return segment.num_sinks + segment.length - segment.v_begin;
  }
  __device__ int GroupOf(int position) const {
    return step.layer.form.group_size > 0 ? position / step.layer.form.group_size : 0;
  }
  __device__ int PositionOfRow(int row) const {
    return segment.length + (segment.nodes < 0 ? row : depths[row]);
  }

  __device__ Query QueryAt(int q) const {
    Query query;
    const int heads = step.heads_per_kv;
    const int rows = heads == 1 ? q : (first_head + q) / heads;
    query.row = first_row + rows;
    query.head = kv_head * heads + first_head + q - rows * heads;
    query.position = PositionOfRow(query.row);
    // Few groups at most from the segment's first.
    query.group = segment.group;
    const int size = step.layer.form.group_size;
    while (size > 0 && query.position >= (query.group + 1) * size) ++query.group;
    if (segment.nodes >= 0) query.ancestors = step.ancestors[segment.nodes + query.row];
    const AttentionForm& form = step.layer.form;
    query.window_begin = form.window == Window::kSliding
                             ? query.position - form.window_size + 1
                             : (query.group + 1) * form.group_size - form.window_size;
    return query;
  }

  __device__ Column ColumnAt(int c) const {
    Column column;
    if (c < segment.num_sinks) {
      column.position = c;
    } else if (c < first_node_column()) {
      column.position = segment.v_begin + c - segment.num_sinks;
    } else {
      column.node = c - first_node_column();
      column.position = PositionOfRow(column.node);
    }
    return column;
  }

  __device__ bool IsVisible(const Query& query, const Column& column) const {
    if (column.node < 0) return true;
    return segment.nodes < 0 ? column.node <= query.row : query.ancestors >> column.node & 1;
  }

  // Which branch of the query's attention sees a column that IsVisible.
  __device__ Code CodeOf(const Query& query, const Column& column) const {
    const AttentionForm& form = step.layer.form;
    if (form.group_size == 0 || column.position < form.sinks) return Code::kLocal;
    if (column.node < 0 && column.position < segment.k_begin) return Code::kNone;  // It is in S.
    if (column.position >= query.window_begin) return Code::kLocal;
    return step.has_linear ? Code::kLinear : Code::kNone;
  }

  // The convolution's weight of a column. It is loaded in any case, so that loads of several
  // columns overlap. REQUIRES: conv_taps > 0.
  __device__ float Tap(const Query& query, const Column& column) const {
    const int distance = query.position - column.position, last = step.conv_taps - 1;
    const float* taps = step.layer.conv_taps + int64_t{query.head} * step.conv_taps;
    const float tap = taps[min(max(distance, 0), last)];
    const bool has_weight = distance >= 0 && distance <= last && IsVisible(query, column);
    return has_weight ? tap : 0.0f;
  }

  template <typename Stored>
  __device__ RowPointer RowOf(const RowSource& source, const Column& column) const {
    if (column.node < 0) return RowAt<Stored>(step, tree, source, column.position);
    // Of a later segment of its tree.
    return NodeRow(step, tree, source, segment.first_row - tree.first_row + column.node);
  }

  // phi of the column's key.
  __device__ const float* KeyFeatures(const Column& column) const {
    const int offset = column.node < 0 ? column.position - tree.features_begin
                                       : tree.length - tree.features_begin + segment.first_row -
                                             tree.first_row + column.node;
    return step.key_features +
           (int64_t{tree.features + offset} * step.layer.kv_heads + kv_head) * step.feature_dim;
  }

  // S of the KV head, and z behind it or in the state; null where nothing was folded.
  __device__ const float* S() const {
    const int64_t size = int64_t{step.feature_dim} * step.layer.head_dim;
    if (segment.sums == Segment::kNoSums) return nullptr;
    if (segment.sums == Segment::kSumsOfState) return OfTree(step.state.s, tree) + kv_head * size;
    return step.sums +
           (int64_t{segment.sums} * step.layer.kv_heads + kv_head) * (size + step.feature_dim);
  }
  __device__ const float* Z() const {
    const int64_t size = int64_t{step.feature_dim} * step.layer.head_dim;
    if (segment.sums == Segment::kSumsOfState) {
      return OfTree(step.state.z, tree) + int64_t{kv_head} * step.feature_dim;
    }
    return step.sums +
           (int64_t{segment.sums} * step.layer.kv_heads + kv_head) * (size + step.feature_dim) +
           size;
  }
  // S as attention on tensor cores reads it.
  __device__ const SplitHigh* HighS() const {
    const int64_t size = int64_t{step.feature_dim} * step.layer.head_dim;
    if (segment.sums == Segment::kNoSums) return nullptr;
    if (segment.sums == Segment::kSumsOfState) {
      return reinterpret_cast<const SplitHigh*>(OfTree(step.state.s, tree) + kv_head * size);
    }
    return step.high_sums + (int64_t{segment.sums} * step.layer.kv_heads + kv_head) * size;
  }
};

__device__ inline float InverseNorm(float squares) { return 1.0f / sqrtf(fmaxf(squares, 1e-12f)); }

// (1 + erf((s / g - mu) / (sd sqrt 2))) / 2, exact to the last bits where it is small.
__device__ inline float Laplace(float score, int group_size) {
  const float mu = sqrtf(0.5f), deviation = sqrtf(0.25f / std::numbers::pi_v<float>);
  const float x = score / static_cast<float>(group_size) - mu;
  return 0.5f * erfcf(-x / (deviation * std::numbers::sqrt2_v<float>));
}

// A local column's weight, or softmax's exponent. norm: the product of both inverse norms.
__device__ inline float LocalScore(const AttentionForm& form, int dim, float score, float norm) {
  if (form.local == Local::kSoftmax) return score * rsqrtf(static_cast<float>(dim));
  if (form.local == Local::kLaplace) return Laplace(score, form.group_size);
  const float cosine = fmaxf(score * norm, 0.0f);
  return cosine * cosine;
}

// What the branches' sums are multiplied by.
struct BranchFactors {
  float local, linear;
};
__device__ inline BranchFactors FactorsOf(const AttentionLayer& layer, int head, float local_sum,
                                          float linear_sum) {
  BranchFactors factors = {1.0f, layer.alpha};
  if (layer.form.denominator == Denominator::kJoint) {
    const float f = layer.linear_factor[head];
    factors.local = 1.0f / (local_sum + f * linear_sum);
    factors.linear = f * factors.local;
    return factors;
  }
  if (layer.form.local == Local::kSoftmax) factors.local = 1.0f / local_sum;
  if (layer.form.denominator == Denominator::kSum) factors.linear /= fmaxf(linear_sum, 1e-6f);
  return factors;
}

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_ATTENTION_BLOCK_CUH_
