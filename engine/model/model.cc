#include "engine/model/model.h"

#include "engine/model/attention_weights.h"
#include "engine/model/llama.h"
#include "engine/model/safetensors.h"

namespace treeline {

StatusOr<std::unique_ptr<Model>> LoadModel(const std::string& model_dir, const ModelConfig& config,
                                           const ModelOptions& options, Backend& backend) {
  if (config.head_dim % 8 != 0) {
    return Unimplemented("{}/config.json: head_dim {}; the kernels take multiples of 8", model_dir,
                         config.head_dim);
  }
  TREELINE_ASSIGN_OR_RETURN(const SafetensorsFolder tensors, SafetensorsFolder::Open(model_dir));
  // ModelConfig accepts no other family; the next one is chosen by config.model_type here.
  StatusOr<std::unique_ptr<Model>> model = LoadLlama(tensors, config, options, backend);
  if (!model.ok()) return Annotate(model.status(), model_dir);
  return model;
}

StateLayout LayoutFor(const ModelConfig& config, StateType state_type, int32_t max_context) {
  return StateLayout(std::vector<AttentionLayer>(config.num_layers,
                                                 AttentionShape(config, state_type, max_context)));
}

}  // namespace treeline
