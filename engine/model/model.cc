#include "engine/model/model.h"

#include "engine/model/attention_weights.h"
#include "engine/model/llama.h"

namespace treeline {

StatusOr<std::unique_ptr<Model>> LoadModel(const Checkpoint& checkpoint,
                                           const ModelOptions& options, Backend& backend) {
  if (checkpoint.config().head_dim % 8 != 0) {
    return Unimplemented("{}: head_dim {}; the kernels take multiples of 8", checkpoint.path(),
                         checkpoint.config().head_dim);
  }
  // ModelConfig accepts no other family; the next one is chosen by its model_type here.
  StatusOr<std::unique_ptr<Model>> model = LoadLlama(checkpoint, options, backend);
  if (!model.ok()) return Annotate(model.status(), checkpoint.path());
  return model;
}

StateLayout LayoutFor(const ModelConfig& config, StateType state_type, int32_t max_context) {
  std::vector<AttentionLayer> layers;
  for (int32_t i = 0; i < config.num_layers; ++i) {
    layers.push_back(AttentionShape(config, i, state_type, max_context));
  }
  return StateLayout(layers);
}

}  // namespace treeline
