// One plain struct an operation: pointers and shapes, row-major, no ownership.
// Kernels know these and nothing above. kernels/reference defines what each
// operation computes; kernels/cpu computes it fast.
//
// Activations are fp32. A weight matrix is [n, k] as Hugging Face stores it
// (y = x W^T), held as a WeightType.
#ifndef TREELINE_KERNELS_PARAMS_H_
#define TREELINE_KERNELS_PARAMS_H_

#include <cstdint>

#include "kernels/attention_form.h"

namespace treeline {

// How weight matrices are held in memory.
// kernels/quantization.h defines kInt8 and kInt4.
enum class WeightType { kF32, kBF16, kInt8, kInt4 };

// How the rows of the K and V rings and of the sinks are stored.
enum class StateType { kF32, kBF16 };

// A piece of memory and where it goes.
struct CopyParams {
  void* to = nullptr;
  const void* from = nullptr;
  int64_t bytes = 0;
};

// y = x * rsqrt(mean(x^2) + eps) * weight, row by row.
struct RmsNormParams {
  const float* x = nullptr;       // [rows, dim]
  const float* weight = nullptr;  // [dim]
  float* y = nullptr;             // [rows, dim]
  int32_t rows = 0;
  int32_t dim = 0;
  float eps = 0;
};

// The rotations of a step's rows, the same in every layer: scale * cos of the angles
// positions[row] * inverse_frequencies[i], then scale * sin of them.
struct RopeAnglesParams {
  const int32_t* positions = nullptr;          // [rows]
  const float* inverse_frequencies = nullptr;  // [head_dim / 2]
  float* angles = nullptr;                     // [rows, head_dim]
  int32_t rows = 0;
  int32_t head_dim = 0;
  float scale = 1.0f;
};

// What lies between the product of queries, keys and values and their attention. Each head of the
// queries (in place) and keys is rotated: dimensions i and i + head_dim/2 (the "half-split" layout
// of LLaMA) by the row's angle i. Keys and values are rounded to what a state can hold.
struct RopeQkvParams {
  float* qkv = nullptr;           // [rows, heads + 2 kv_heads, head_dim]
  float* kv = nullptr;            // [rows, 2 kv_heads, head_dim] what becomes of keys and values
  const float* angles = nullptr;  // [rows, head_dim] of RopeAnglesParams
  int32_t rows = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  StateType state_type = StateType::kF32;
};

// Adds the same vector to every row of x in place: y = x W^T + bias is a product and this.
struct AddBiasParams {
  float* x = nullptr;           // [rows, dim]
  const float* bias = nullptr;  // [dim]
  int32_t rows = 0;
  int32_t dim = 0;
};

// y = x + silu(gates + bias) for several heads: what a Medusa head does with its product. Its own x
// has a bias, too.
struct ResidualSiluParams {
  const float* x = nullptr;  // [rows, dim], for all heads; null: each head has its own.
  // [rows, heads, dim], or where x is null [rows, 2, heads, dim]: after the gates the heads' own x.
  const float* gates = nullptr;
  const float* bias = nullptr;  // [heads, dim], or [2, heads, dim].
  float* y = nullptr;           // [heads, rows, dim]
  int32_t rows = 0;
  int32_t heads = 0;
  int32_t dim = 0;
};

// The rows of a product's x are normalised first, as RmsNormParams says. Not where weight is null.
struct Normalization {
  const float* weight = nullptr;  // [k]
  float eps = 0;
};

// y = x W^T, or y += x W^T.
struct MatMulParams {
  const float* x = nullptr;  // [rows, k]
  float* y = nullptr;        // [rows, n]
  int32_t rows = 0;
  bool accumulate = false;  // Adds to y: the residual connection.
  Normalization norm = {};
};

// y = silu(x Wg^T + gate_bias) * (x Wu^T + up_bias): the gated unit of LLaMA's MLP, in one pass,
// since the two products are larger than all else of a layer.
struct GatedMatMulParams {
  const float* x = nullptr;  // [rows, k]
  float* y = nullptr;        // [rows, n]
  int32_t rows = 0;
  const float* gate_bias = nullptr;  // [n] or null
  const float* up_bias = nullptr;    // [n] or null
  Normalization norm = {};
};

// One layer of one sequence's state (docs/attention.md, "State"). Token j's ring row is
// j mod rows.
struct LayerState {
  float* s = nullptr;      // [kv_heads, feature_dim, head_dim]
  float* z = nullptr;      // [kv_heads, feature_dim], where the denominator is not kNone
  void* sink_k = nullptr;  // [kv_heads, sinks, head_dim]
  void* sink_v = nullptr;  // [kv_heads, sinks, head_dim]
  void* ring_k = nullptr;  // [kv_heads, k_ring_rows, head_dim] rotated, not normalised
  void* ring_v = nullptr;  // [kv_heads, v_ring_rows, head_dim]
};

// One layer's attention: its form, shape and learned parameters.
struct AttentionLayer {
  AttentionForm form;
  int32_t heads = 0;  // Query heads; head h reads KV head h / (heads / kv_heads).
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t k_ring_rows = 0;
  int32_t v_ring_rows = 0;
  StateType state_type = StateType::kF32;
  float alpha = 1.0f;                    // Where the denominator is not kJoint.
  const float* linear_factor = nullptr;  // [heads] f, already exponentiated; kJoint
  const float* decay = nullptr;          // [kv_heads] in (0, 1); where form.decay
  const float* feature_map_q = nullptr;  // [heads, head_dim, feature_dim / 2]; kHedgehog
  const float* feature_map_k = nullptr;  // [kv_heads, head_dim, feature_dim / 2]; kHedgehog
  const float* conv_taps = nullptr;      // [heads, conv_taps] by distance; where conv_kernel > 0

  int32_t feature_dim() const { return form.feature_dim(head_dim); }
};

// A sequence's tree in a step.
struct AttentionTree {
  LayerState state;
  int32_t length = 0;  // Tokens committed to the state.
  int32_t first_row = 0;
  int32_t num_rows = 0;
  const int32_t* parents = nullptr;  // [num_rows] within the tree; -1 at node 0
  // A chain whose tokens are all accepted: committed here, after they were attended to.
  bool commit = false;
};

// Attention of every row to its tree's state and its own ancestors. k and v have been
// rounded to state_type already.
struct AttentionParams {
  const AttentionLayer* layer = nullptr;
  const float* q = nullptr;  // [num_tokens, heads, head_dim] rotated, q_stride apart
  const float* k = nullptr;  // [num_tokens, kv_heads, head_dim] rotated, kv_stride apart
  const float* v = nullptr;  // [num_tokens, kv_heads, head_dim], kv_stride apart
  float* out = nullptr;      // [num_tokens, heads, head_dim], dense
  int32_t q_stride = 0;      // In floats.
  int32_t kv_stride = 0;
  const AttentionTree* trees = nullptr;  // [num_trees]
  int32_t num_trees = 0;
};

// The accepted rows of a sequence.
struct CommitTree {
  LayerState state;
  int32_t length = 0;             // Before the commit.
  const int32_t* rows = nullptr;  // [num_rows] which rows of CommitParams::k and v, in order
  int32_t num_rows = 0;
};

// Appends rows to states, folding each group that leaves every window.
struct CommitParams {
  const AttentionLayer* layer = nullptr;
  const float* k = nullptr;  // [.., kv_heads, head_dim], kv_stride apart
  const float* v = nullptr;
  int32_t kv_stride = 0;
  const CommitTree* trees = nullptr;  // [num_trees] each of a state of its own
  int32_t num_trees = 0;
};

}  // namespace treeline

#endif  // TREELINE_KERNELS_PARAMS_H_
