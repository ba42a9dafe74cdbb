#include "engine/model/adapter.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/base/file.h"
#include "engine/model/config_reader.h"
#include "engine/model/safetensors.h"

namespace treeline {
namespace {

constexpr char kConfigFile[] = "adapter_config.json";
constexpr char kWeightsFile[] = "adapter_model.safetensors";
constexpr std::string_view kPeftPrefix = "base_model.model.";
constexpr std::string_view kA = ".lora_A.weight", kB = ".lora_B.weight";
constexpr std::string_view kLayers = "model.layers.", kAttention = ".self_attn.";
constexpr const char* kAttentionTensors[] = {
    "feature_map_q.weight", "feature_map_k.weight", "linear_factor", "decay",
    "global_factor",        "dwconv.weight",        "conv_mask"};
constexpr int32_t kMaxRank = 1 << 16;

// -- adapter_config.json.

// Keys that change the computation where they are set.
constexpr const char* kUnsupported[] = {
    "use_dora",     "fan_in_fan_out",    "modules_to_save",         "rank_pattern",
    "lora_bias",    "alpha_pattern",     "trainable_token_indices", "use_qalora",
    "corda_config", "layer_replication", "alora_invocation_tokens"};

bool IsUnset(const Json& value) {
  return value == false || ((value.is_null() || value.is_structured()) && value.empty());
}

Status CheckSupported(const ConfigReader& reader) {
  TREELINE_ASSIGN_OR_RETURN(const std::string type, reader.String("peft_type", "LORA"));
  if (type != "LORA") {
    return Unimplemented("{}: peft_type {} is not supported; LORA is", kConfigFile,
                         reader.Show("peft_type"));
  }
  for (const char* key : kUnsupported) {
    const Json* value = reader.Find(key);
    if (value == nullptr || IsUnset(*value)) continue;
    return Unimplemented("{}: {} is not supported; merge the adapter into its base instead",
                         kConfigFile, key);
  }
  TREELINE_ASSIGN_OR_RETURN(const std::string bias, reader.String("bias", "none"));
  if (bias != "none") {
    return Unimplemented("{}: bias {} is not supported; none is", kConfigFile, reader.Show("bias"));
  }
  // Other names stand for ways that begin by changing the base's weights.
  const Json* start = reader.Find("init_lora_weights");
  if (start != nullptr && !start->is_boolean() && *start != "gaussian" && *start != "eva") {
    return Unimplemented("{}: init_lora_weights {} is not supported; it changes the base",
                         kConfigFile, reader.Show("init_lora_weights"));
  }
  return OkStatus();
}

StatusOr<AdapterConfig> LoadConfig(const std::string& folder) {
  TREELINE_ASSIGN_OR_RETURN(const Json json, ParseJsonFile(folder + "/" + kConfigFile));
  auto config = AdapterConfig::FromJson(json);
  if (!config.ok()) return Annotate(config.status(), folder);
  return config;
}

// -- Tensors.

// "model.layers.3.self_attn.decay" of a model with more than three layers.
bool IsAttentionTensor(std::string_view name, int32_t num_layers) {
  if (!name.starts_with(kLayers)) return false;
  name.remove_prefix(kLayers.size());
  int32_t layer = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), layer);
  if (error != std::errc() || layer < 0 || layer >= num_layers) return false;
  name.remove_prefix(end - name.data());
  if (!name.starts_with(kAttention)) return false;
  name.remove_prefix(kAttention.size());
  return std::find(std::begin(kAttentionTensors), std::end(kAttentionTensors), name) !=
         std::end(kAttentionTensors);
}

// A or B of an update of `target`, whose shape is `rows` by `columns`.
StatusOr<TensorView> FindFactor(const std::map<std::string, TensorView>& tensors,
                                const std::string& name, int64_t rows, int64_t columns) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) return InvalidArgument("tensor {} is missing", name);
  const TensorView& view = found->second;
  if (!HoldsWeights(view.type)) {
    return InvalidArgument(
        "tensor {}: its type is not one of F64, F32, F16, BF16, or I8 with {}.scale beside it",
        name, name);
  }
  if (view.shape != std::vector<int64_t>{rows, columns}) {
    return InvalidArgument("tensor {}: shape [{}], but the base and r imply [{}, {}]", name,
                           fmt::join(view.shape, ", "), rows, columns);
  }
  return view;
}

// The update that tensor "base_model.model.NAME.lora_A.weight", or its partner, is a part of.
Status MatchUpdate(const std::map<std::string, TensorView>& tensors, const std::string& name,
                   const AdapterConfig& config, const Checkpoint& base, AdapterTensors* matched) {
  if (!name.ends_with(kA) && !name.ends_with(kB)) {
    return Unimplemented("tensor {}: an adapter changes matrices by lora_A and lora_B only", name);
  }
  const std::string module = name.substr(0, name.size() - kA.size());
  const std::string target = module.substr(kPeftPrefix.size()) + ".weight";
  const TensorView* view = base.Find(target);
  if (view == nullptr || view->shape.size() != 2) {
    return InvalidArgument("tensor {}: the base model {} has no matrix {}", name, base.path(),
                           base.NameInFile(target));
  }
  LowRankUpdate& update = matched->updates[target];
  TREELINE_ASSIGN_OR_RETURN(
      update.a, FindFactor(tensors, module + std::string(kA), config.rank, view->shape[1]));
  TREELINE_ASSIGN_OR_RETURN(
      update.b, FindFactor(tensors, module + std::string(kB), view->shape[0], config.rank));
  update.scale = config.scale;
  update.next = view->update;
  return OkStatus();
}

Status MatchTensor(const std::map<std::string, TensorView>& tensors, const std::string& name,
                   const AdapterConfig& config, const Checkpoint& base, AdapterTensors* matched) {
  if (name.starts_with(kPeftPrefix)) return MatchUpdate(tensors, name, config, base, matched);
  if (!IsAttentionTensor(name, base.config().num_layers)) {
    return InvalidArgument("tensor {} has no place in an adapter to {}", name, base.path());
  }
  if (config.linear_attention.is_null()) {
    return InvalidArgument("tensor {}: {} has no linear_attention that would use it", name,
                           kConfigFile);
  }
  matched->added[name] = tensors.at(name);
  return OkStatus();
}

// -- The adapted model.

class AdaptedCheckpoint : public Checkpoint {
 public:
  static std::unique_ptr<Checkpoint> Make(const std::string& path, ModelConfig config,
                                          std::unique_ptr<Checkpoint> base, SafetensorsFile file,
                                          AdapterTensors changes) {
    std::map<std::string, TensorView> tensors = base->tensors();
    for (const auto& [name, update] : changes.updates) tensors.at(name).update = &update;
    tensors.merge(changes.added);
    return std::unique_ptr<Checkpoint>(
        new AdaptedCheckpoint(path, std::move(config), std::move(tensors), std::move(base),
                              std::move(file), std::move(changes.updates)));
  }

  std::vector<std::string> folders() const override {
    std::vector<std::string> folders = base_->folders();
    folders.insert(folders.begin(), path());
    return folders;
  }
  std::string NameInFile(const std::string& name) const override {
    return base_->Find(name) != nullptr ? base_->NameInFile(name) : name;
  }
  StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer() const override {
    return base_->LoadTokenizer();
  }
  StatusOr<ChatTemplate> LoadChatTemplate() const override { return base_->LoadChatTemplate(); }

 private:
  AdaptedCheckpoint(std::string path, ModelConfig config, std::map<std::string, TensorView> tensors,
                    std::unique_ptr<Checkpoint> base, SafetensorsFile file,
                    std::map<std::string, LowRankUpdate> updates)
      : Checkpoint(std::move(path), std::move(config), std::move(tensors)),
        base_(std::move(base)),
        file_(std::move(file)),
        updates_(std::move(updates)) {}

  // Own what the tensors show. Nodes of a map stay where they are when it moves.
  const std::unique_ptr<Checkpoint> base_;
  const SafetensorsFile file_;
  const std::map<std::string, LowRankUpdate> updates_;
};

// The base's configuration with the adapter's attention.
StatusOr<ModelConfig> AdaptedConfig(const AdapterConfig& adapter, const Checkpoint& base) {
  ModelConfig config = base.config();
  if (adapter.linear_attention.is_null()) return config;
  const bool softmax =
      std::all_of(config.attention.begin(), config.attention.end(),
                  [](const AttentionSpec& spec) { return spec == AttentionSpec::Softmax(); });
  if (!softmax) {
    return InvalidArgument(
        "{}: linear_attention: the base model {} is linearized already; give the softmax model",
        kConfigFile, base.path());
  }
  auto attention = AttentionSpec::ForLayers(adapter.linear_attention, config.num_layers);
  if (!attention.ok()) return Annotate(attention.status(), kConfigFile);
  config.attention = *std::move(attention);
  return config;
}

// Where models are kept that commands fetch.
std::filesystem::path ModelCache() {
  const char* cache = std::getenv("TREELINE_CACHE");
  if (cache != nullptr && *cache != '\0') return std::filesystem::path(cache) / "models";
  const char* home = std::getenv("HOME");
  return std::filesystem::path(home == nullptr ? "" : home) / ".cache/treeline/models";
}

}  // namespace

StatusOr<AdapterConfig> AdapterConfig::FromJson(const Json& json) {
  if (!json.is_object()) return InvalidArgument("{}: must be a JSON object", kConfigFile);
  const ConfigReader reader(json, kConfigFile);
  TREELINE_RETURN_IF_ERROR(CheckSupported(reader));
  AdapterConfig config;
  constexpr double kMaxAlpha = 1e6;
  TREELINE_ASSIGN_OR_RETURN(config.rank, reader.Integer("r", 0, kMaxRank));
  TREELINE_ASSIGN_OR_RETURN(const double alpha, reader.Number("lora_alpha", -kMaxAlpha, kMaxAlpha));
  TREELINE_ASSIGN_OR_RETURN(const bool rank_stabilised, reader.Bool("use_rslora", false));
  const double divisor = rank_stabilised ? std::sqrt(config.rank) : config.rank;
  if (config.rank > 0) config.scale = static_cast<float>(alpha / divisor);
  TREELINE_ASSIGN_OR_RETURN(config.base, reader.String("base_model_name_or_path", ""));
  if (const Json* attention = reader.Find("linear_attention")) config.linear_attention = *attention;
  return config;
}

bool IsAdapterFolder(const std::string& path) {
  return FileExists(path + "/" + kConfigFile) && !FileExists(path + "/config.json");
}

StatusOr<std::string> FindBaseModel(const std::string& folder) {
  TREELINE_ASSIGN_OR_RETURN(const AdapterConfig config, LoadConfig(folder));
  if (config.base.empty()) {
    return NotFound(
        "{}/{}: no base_model_name_or_path; give the base's folder with --model and "
        "this one with --adapter",
        folder, kConfigFile);
  }
  std::error_code error;
  if (std::filesystem::exists(config.base, error)) return config.base;
  std::filesystem::path name = std::filesystem::path(config.base).lexically_normal();
  if (!name.has_filename()) name = name.parent_path();  // "models/x/"
  const std::filesystem::path cached = ModelCache() / name.filename();
  if (std::filesystem::exists(cached, error)) return cached.string();
  return NotFound(
      "{}/{}: the base model {} is neither a path here nor at {}; put it there (make default-model "
      "does for SmolLM2-135M-Instruct), or give its folder with --model and this one with "
      "--adapter",
      folder, kConfigFile, config.base, cached.string());
}

StatusOr<AdapterTensors> MatchAdapter(const std::map<std::string, TensorView>& tensors,
                                      const AdapterConfig& config, const Checkpoint& base,
                                      const std::string& file) {
  AdapterTensors matched;
  for (const auto& [name, view] : tensors) {
    const Status status = MatchTensor(tensors, name, config, base, &matched);
    if (!status.ok()) return Annotate(status, file);
  }
  return matched;
}

StatusOr<std::unique_ptr<Checkpoint>> ApplyAdapter(std::unique_ptr<Checkpoint> base,
                                                   const std::string& folder) {
  TREELINE_ASSIGN_OR_RETURN(const AdapterConfig adapter, LoadConfig(folder));
  auto config = AdaptedConfig(adapter, *base);
  if (!config.ok()) return Annotate(config.status(), folder);
  TREELINE_RETURN_IF_ERROR(config->ReadGenerationConfig(folder));
  const std::string path = folder + "/" + kWeightsFile;
  TREELINE_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(path));
  TREELINE_ASSIGN_OR_RETURN(AdapterTensors changes,
                            MatchAdapter(file.tensors(), adapter, *base, path));
  return AdaptedCheckpoint::Make(folder, *std::move(config), std::move(base), std::move(file),
                                 std::move(changes));
}

}  // namespace treeline
