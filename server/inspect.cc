#include "server/inspect.h"

#include <memory>
#include <string>

#include "engine/base/json.h"
#include "engine/model/checkpoint.h"
#include "engine/model/model.h"
#include "server/open_model.h"

namespace treeline {

namespace {

// "yes", or why not.
std::string Availability(const Status& status) { return status.ok() ? "yes" : Message(status); }

Json Describe(const Checkpoint& checkpoint, const ModelEngine::Options& options) {
  const ModelConfig& model = checkpoint.config();
  const int32_t context =
      options.max_context > 0 ? options.max_context : model.max_position_embeddings;
  return {{"model_type", model.model_type},
          {"layers", model.num_layers},
          {"hidden_size", model.hidden_size},
          {"intermediate_size", model.intermediate_size},
          {"heads", model.num_heads},
          {"kv_heads", model.num_kv_heads},
          {"head_dim", model.head_dim},
          {"vocab_size", model.vocab_size},
          {"max_position_embeddings", model.max_position_embeddings},
          {"attention", ToString(model.attention)},
          {"folders", checkpoint.folders()},
          {"weight_file_bytes", checkpoint.weight_bytes()},
          {"context", context},
          {"state_bytes_per_sequence", LayoutFor(model, options.state_type, context).bytes()},
          {"tokenizer", Availability(checkpoint.LoadTokenizer().status())},
          {"chat_template", Availability(checkpoint.LoadChatTemplate().status())}};
}

}  // namespace

Status Inspect(const InspectConfig& config, std::ostream& out) {
  TREELINE_ASSIGN_OR_RETURN(const ModelEngine::Options options, EngineOptions(config.engine()));
  TREELINE_ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint,
                            OpenCheckpoint(config.engine()));
  const Json description = Describe(*checkpoint, options);
  if (config.json()) {
    out << description.dump() << "\n";
    return OkStatus();
  }
  for (const auto& [name, value] : description.items()) {
    out << fmt::format("{:<26}{}\n", name,
                       value.is_string() ? value.get<std::string>() : value.dump());
  }
  return OkStatus();
}

}  // namespace treeline
