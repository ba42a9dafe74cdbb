// The definition of attention in every form: over a whole sequence at once, no
// state, no chunks, all in double. Section numbers are those of docs/attention.md.
#ifndef TREELINE_KERNELS_REFERENCE_ATTENTION_H_
#define TREELINE_KERNELS_REFERENCE_ATTENTION_H_

#include <cstdint>
#include <vector>

#include "kernels/params.h"

namespace treeline::reference {

// Attention of tokens 0..n-1 of one sequence. q: [n, heads, head_dim]; k, v:
// [n, kv_heads, head_dim]; all dense, k and v already rounded to the state's type. Returns
// [n, heads, head_dim].
std::vector<double> Attention(const AttentionLayer& layer, int32_t n, const float* q,
                              const float* k, const float* v);

// The last row of the same: [heads, head_dim].
std::vector<double> LastRow(const AttentionLayer& layer, int32_t n, const float* q, const float* k,
                            const float* v);

// What a state must hold after n tokens: the faded sums over every folded token.
struct FoldedState {
  std::vector<double> s;  // [kv_heads, feature_dim, head_dim]
  std::vector<double> z;  // [kv_heads, feature_dim]
};
FoldedState Fold(const AttentionLayer& layer, int32_t n, const float* k, const float* v);

}  // namespace treeline::reference

#endif  // TREELINE_KERNELS_REFERENCE_ATTENTION_H_
