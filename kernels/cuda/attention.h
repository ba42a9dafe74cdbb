// Attention over a forest on the GPU, and the commit of tokens to states;
// kernels/reference/attention.h defines both. Params are as for the CPU: structs and indices in
// host memory, activations, states and learned parameters in device memory.
#ifndef TREELINE_KERNELS_CUDA_ATTENTION_H_
#define TREELINE_KERNELS_CUDA_ATTENTION_H_

#include "kernels/cuda/attention_stages.h"
#include "kernels/cuda/stream.h"
#include "kernels/params.h"

namespace treeline::cuda {

class ForestAttention {
 public:
  // `stream` must outlive this.
  explicit ForestAttention(Stream& stream);

  // REQUIRES: head_dim <= 256.
  void Attend(const AttentionParams& params);
  void Commit(const CommitParams& params);

 private:
  // The plan on the device, and memory for what its stages leave to one another.
  AttentionStep Prepare(const AttentionLayer& layer, const Plan& plan,
                        const std::vector<QueryBlock>& blocks, int32_t num_rows);
  // What is folded on the way, and phi of the keys.
  void Fold(const AttentionStep& step, const Plan& plan);
  void Store(const AttentionStep& step, const Plan& plan);

  Stream& stream_;
  Scratch query_features_, key_features_, sums_;
};

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_ATTENTION_H_
