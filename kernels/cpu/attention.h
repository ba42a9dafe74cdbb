// Attention over a forest on the CPU: reads every tree's state and its own rows,
// writes one output row a token, and commits chains that are known to be accepted.
//
// A committed chain is cut at group boundaries and each piece is committed before the
// next is attended to, so a chain computes exactly what single tokens would: with the
// same bits. Rows are handled in blocks of queries; inside a block every query sums over
// its columns in the order of their positions, whatever the block: row-invariant.
#ifndef TREELINE_KERNELS_CPU_ATTENTION_H_
#define TREELINE_KERNELS_CPU_ATTENTION_H_

#include <vector>

#include "kernels/cpu/aligned_buffer.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/params.h"

namespace treeline::cpu {

using FloatBuffer = AlignedBuffer<float>;

struct AttentionWorkspace {
  explicit AttentionWorkspace(int32_t num_threads) : per_thread(num_threads) {}
  struct Thread {
    FloatBuffer queries, features, weights, linear_weights, outputs, rows, scratch;
  };
  std::vector<Thread> per_thread;
  struct Head {
    FloatBuffer keys;  // See PrepareKeys.
    FloatBuffer sums;  // See SumGroup.
  };
  std::vector<Head> per_head;  // One a (tree, KV head).
};

// REQUIRES: head_dim is a multiple of 8; workspace.per_thread.size() >= pool.num_threads().
void Attention(const AttentionParams& params, AttentionWorkspace& workspace, ThreadPool& pool);

void Commit(const CommitParams& params, AttentionWorkspace& workspace, ThreadPool& pool);

}  // namespace treeline::cpu

#endif  // TREELINE_KERNELS_CPU_ATTENTION_H_
