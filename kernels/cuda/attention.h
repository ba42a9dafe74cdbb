// Attention over a forest on the GPU, and the commit of tokens to states;
// kernels/reference/attention.h defines both. Params are as for the CPU: structs and indices in
// host memory, activations, states and learned parameters in device memory.
//
// What an attention step has to do is the same in every layer of a form: it is planned for the
// first of them only, and sent to the GPU together with what other forms of layers have to do.
#ifndef TREELINE_KERNELS_CUDA_ATTENTION_H_
#define TREELINE_KERNELS_CUDA_ATTENTION_H_

#include <cstdint>
#include <list>
#include <span>
#include <unordered_map>
#include <vector>

#include "kernels/cuda/attention_stages.h"
#include "kernels/cuda/stream.h"
#include "kernels/params.h"

namespace treeline::cuda {

class Packer;

class ForestAttention {
 public:
  // `stream` must outlive this.
  explicit ForestAttention(Stream& stream);

  // REQUIRES: head_dim <= 256; the parts of the trees' states lie alike, as those of one
  // StateLayout do.
  void Attend(const AttentionParams& params);
  void Commit(std::span<const CommitParams> layers);

 private:
  // A plan as the stages take it, for layers of a kind.
  struct Planned {
    explicit Planned(const AttentionLayer& layer) : kind(layer) {}
    AttentionLayer kind;  // Without learned parameters.
    // All but what differs from layer to layer.
    AttentionStep step;
    bool tensor_cores = false;
    int32_t block_size = 0;  // Where not on tensor cores.
    int32_t num_feature_rows = 0, num_tiles = 0, num_partials = 0;
  };
  // The plan of the last step that attended.
  struct Attended {
    Attended(const AttentionLayer& layer, Stream& stream) : planned(layer), memory(stream) {}
    Planned planned;
    std::vector<int64_t> request;  // What was planned.
    // Where its arrays lie, and those of kinds that were planned with it.
    Scratch memory;
  };

  // The state that a layer's plans start from, whichever states they are about: what is launched
  // for them is then the same (launch_queue.h). It may be gone; only its address counts.
  const LayerState& OriginOf(const AttentionLayer& layer, const LayerState& state);
  const Planned& PlanFor(const AttentionParams& params, const LayerState& origin);
  // The stages' view of a plan, whose arrays are for the packer to place.
  void Describe(const Plan& plan, Planned& planned, Packer& packer);
  // The step of one layer, with memory for what its stages leave to one another.
  AttentionStep StepOf(const Planned& planned, const AttentionLayer& layer,
                       const LayerState& state);
  // What is folded on the way, and phi of the keys.
  void Fold(const AttentionStep& step);

  Stream& stream_;
  std::list<Attended> attended_;
  std::unordered_map<const AttentionLayer*, LayerState> origins_;
  Scratch query_features_, key_features_, sums_, high_sums_, partials_, parts_done_, kv_bf16_;
};

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_ATTENTION_H_
