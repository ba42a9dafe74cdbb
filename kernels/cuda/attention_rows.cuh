// Where kernels find rows of K and V: in a state's rings and sinks, or in the batch.
#ifndef TREELINE_KERNELS_CUDA_ATTENTION_ROWS_CUH_
#define TREELINE_KERNELS_CUDA_ATTENTION_ROWS_CUH_

#include "kernels/cuda/attention_stages.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/tiles.cuh"

namespace treeline::cuda {

// head_dim values: of the state's type where `stored` is set, else fp32.
struct RowPointer {
  const void* stored = nullptr;
  const float* fresh = nullptr;
};

template <typename Stored>
__device__ float Load(const RowPointer& row, int i) {
  return row.stored != nullptr ? ToFloat(static_cast<const Stored*>(row.stored)[i]) : row.fresh[i];
}

// Eight values from `at` on, a multiple of eight, of a row whose stored type is bf16.
__device__ inline void LoadVector(const RowPointer& row, int at, float (&values)[kVector]) {
  if (row.stored != nullptr) {
    LoadVector(static_cast<const Bf16*>(row.stored) + at, values);
  } else {
    LoadVector(row.fresh + at, values);
  }
}

// A part of the tree's state, from that of the plan's origin.
template <typename T>
__device__ T* OfTree(T* of_origin, const Tree& tree) {
  return reinterpret_cast<T*>(reinterpret_cast<intptr_t>(of_origin) + tree.state_offset);
}

// The rows of one of K and V.
struct RowSource {
  const float* batch;  // Of the KV head, rows `stride` apart.
  int64_t stride;
  const void* sinks;  // Of the KV head.
  const void* ring;   // Of the KV head.
  int32_t ring_rows;
};

template <typename Stored>
__device__ RowSource MakeSource(const AttentionStep& step, const Tree& tree, int kv_head,
                                const float* batch, const void* sinks, const void* ring,
                                int ring_rows) {
  const int dim = step.layer.head_dim;
  return {batch + int64_t{kv_head} * dim, step.kv_stride,
          static_cast<const Stored*>(OfTree(sinks, tree)) +
              int64_t{kv_head} * step.layer.form.sinks * dim,
          static_cast<const Stored*>(OfTree(ring, tree)) + int64_t{kv_head} * ring_rows * dim,
          ring_rows};
}
template <typename Stored>
__device__ RowSource KeySource(const AttentionStep& step, const Tree& tree, int kv_head) {
  return MakeSource<Stored>(step, tree, kv_head, step.k, step.state.sink_k, step.state.ring_k,
                            step.layer.k_ring_rows);
}
template <typename Stored>
__device__ RowSource ValueSource(const AttentionStep& step, const Tree& tree, int kv_head) {
  return MakeSource<Stored>(step, tree, kv_head, step.v, step.state.sink_v, step.state.ring_v,
                            step.layer.v_ring_rows);
}

// The batch's row of a tree's node.
__device__ inline int64_t BatchRow(const AttentionStep& step, const Tree& tree, int node) {
  return tree.rows < 0 ? tree.first_row + node : step.rows[tree.rows + node];
}
__device__ inline RowPointer NodeRow(const AttentionStep& step, const Tree& tree,
                                     const RowSource& source, int node) {
  return {nullptr, source.batch + BatchRow(step, tree, node) * source.stride};
}

// Where the state has the token at `position`.
template <typename Stored>
__device__ RowPointer StoredRow(const AttentionStep& step, const RowSource& source, int position) {
  const bool is_sink = step.layer.form.group_size > 0 && position < step.layer.form.sinks;
  const auto* rows = static_cast<const Stored*>(is_sink ? source.sinks : source.ring);
  const int row = is_sink ? position : position % source.ring_rows;
  return {rows + int64_t{row} * step.layer.head_dim, nullptr};
}

// The row of the token at `position`, which is committed or a node of a chain.
template <typename Stored>
__device__ RowPointer RowAt(const AttentionStep& step, const Tree& tree, const RowSource& source,
                            int position) {
  if (position >= tree.length) return NodeRow(step, tree, source, position - tree.length);
  return StoredRow<Stored>(step, source, position);
}

// decay^groups of a KV head.
__device__ inline float Fade(const AttentionStep& step, int kv_head, int groups) {
  float fade = 1.0f;
  for (int i = 0; i < groups && step.layer.form.decay; ++i) fade *= step.layer.decay[kv_head];
  return fade;
}

// K, then V, of a row of the batch: [kv_heads, head_dim] each, as states will have it.
__device__ inline Bf16* KvRow(const AttentionStep& step, int64_t row) {
  return static_cast<Bf16*>(step.kv_bf16) + row * 2 * step.layer.kv_heads * step.layer.head_dim;
}

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_ATTENTION_ROWS_CUH_
