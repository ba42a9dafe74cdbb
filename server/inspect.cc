#include "server/inspect.h"

#include <filesystem>
#include <string>
#include <system_error>

#include "engine/base/json.h"
#include "engine/model/model.h"
#include "engine/model/model_config.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "server/open_model.h"

namespace treeline {

namespace {

// Bytes of the folder's safetensors files.
int64_t WeightBytes(const std::string& dir) {
  int64_t bytes = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(dir, error)) {
    if (entry.path().extension() == ".safetensors") {
      bytes += static_cast<int64_t>(entry.file_size(error));
    }
  }
  return bytes;
}

// "yes", or why not.
std::string Availability(const Status& status) { return status.ok() ? "yes" : Message(status); }

Json Describe(const ModelConfig& model, const ModelEngine::Options& options) {
  const int32_t context =
      options.max_context > 0 ? options.max_context : model.max_position_embeddings;
  const auto tokenizer = Tokenizer::Load(options.model_dir);
  return {{"model_type", model.model_type},
          {"layers", model.num_layers},
          {"hidden_size", model.hidden_size},
          {"intermediate_size", model.intermediate_size},
          {"heads", model.num_heads},
          {"kv_heads", model.num_kv_heads},
          {"head_dim", model.head_dim},
          {"vocab_size", model.vocab_size},
          {"max_position_embeddings", model.max_position_embeddings},
          {"attention", model.attention.ToString()},
          {"weight_file_bytes", WeightBytes(options.model_dir)},
          {"context", context},
          {"state_bytes_per_sequence", LayoutFor(model, options.state_type, context).bytes()},
          {"tokenizer", Availability(tokenizer.status())},
          {"chat_template", Availability(ChatTemplate::Load(options.model_dir).status())}};
}

}  // namespace

Status Inspect(const InspectConfig& config, std::ostream& out) {
  TREELINE_ASSIGN_OR_RETURN(const ModelEngine::Options options, EngineOptions(config.engine()));
  TREELINE_ASSIGN_OR_RETURN(const ModelConfig model, ModelConfig::Load(options.model_dir));
  const Json description = Describe(model, options);
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
