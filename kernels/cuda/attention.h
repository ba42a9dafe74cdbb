// Attention over a forest on the GPU, and the commit of tokens to states;
// kernels/reference/attention.h defines both. Params are as for the CPU: structs and indices in
// host memory, activations, states and learned parameters in device memory.
//
// What an attention step has to do is the same in every layer of a form: it is planned, and sent
// to the GPU, for the first of them only.
#ifndef TREELINE_KERNELS_CUDA_ATTENTION_H_
#define TREELINE_KERNELS_CUDA_ATTENTION_H_

#include <cstdint>
#include <list>
#include <span>
#include <vector>

#include "kernels/cuda/attention_stages.h"
#include "kernels/cuda/stream.h"
#include "kernels/params.h"

namespace treeline::cuda {

class ForestAttention {
 public:
  // `stream` must outlive this.
  explicit ForestAttention(Stream& stream);

  // REQUIRES: head_dim <= 256; the parts of the trees' states lie alike, as those of one
  // StateLayout do.
  void Attend(const AttentionParams& params);
  void Commit(std::span<const CommitParams> layers);

 private:
  // The plan of the last step for layers of a kind.
  struct Planned {
    Planned(const AttentionLayer& layer, Stream& stream) : kind(layer), memory(stream) {}
    AttentionLayer kind;           // Without learned parameters.
    std::vector<int64_t> request;  // What was planned.
    // All but what differs from layer to layer; its arrays lie in `memory`.
    AttentionStep step;
    bool tensor_cores = false;
    int32_t block_size = 0;  // Where not on tensor cores.
    int32_t num_feature_rows = 0, num_tiles = 0, num_partials = 0;
    Scratch memory;
  };

  // The plan for `request`, which `make_plan` makes where the last one was for another.
  template <typename MakePlan>
  Planned& PlanFor(const AttentionLayer& layer, std::vector<int64_t> request,
                   const MakePlan& make_plan);
  void Upload(const Plan& plan, Planned& planned);
  // The step of one layer, with memory for what its stages leave to one another.
  AttentionStep StepOf(const Planned& planned, const AttentionLayer& layer,
                       const LayerState& state);
  // What is folded on the way, and phi of the keys.
  void Fold(const AttentionStep& step);

  Stream& stream_;
  std::list<Planned> planned_;
  Scratch query_features_, key_features_, sums_, high_sums_, partials_, parts_done_, kv_bf16_;
};

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_ATTENTION_H_
