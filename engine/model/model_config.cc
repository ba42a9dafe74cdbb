#include "engine/model/model_config.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "engine/base/file.h"
#include "engine/model/config_reader.h"
#include "engine/sampling/params.h"

namespace treeline {
namespace {

constexpr char kConfigFile[] = "config.json";
constexpr char kGenerationFile[] = "generation_config.json";
constexpr const char* kModelTypes[] = {"llama", "mistral", "qwen2"};

// Bounds far beyond any model: products of a few dimensions stay within int64.
constexpr int32_t kMaxVocabSize = 1 << 22;
constexpr int32_t kMaxHiddenSize = 1 << 16;
constexpr int32_t kMaxIntermediateSize = 1 << 20;
constexpr int32_t kMaxLayers = 1024;
constexpr int32_t kMaxHeads = 1024;
constexpr int32_t kMaxHeadDim = 1024;
constexpr int32_t kMaxPositions = 1 << 24;

Status CheckNotQuantized(const ConfigReader& reader) {
  const Json* quantization = reader.Find("quantization_config");
  if (quantization == nullptr) return OkStatus();
  if (!quantization->is_object()) return reader.Wrong("quantization_config", "an object or null");
  const ConfigReader quantization_reader(*quantization, "quantization_config");
  return Unimplemented(
      "{}: quantization_config: quant_method {} is not supported; give the unquantized checkpoint",
      kConfigFile,
      quantization_reader.Has("quant_method") ? quantization_reader.Show("quant_method") : "null");
}

// Refuses what would change the computation and is not built.
Status CheckSupported(const ConfigReader& reader) {
  TREELINE_ASSIGN_OR_RETURN(const std::string model_type, reader.String("model_type"));
  if (std::find(std::begin(kModelTypes), std::end(kModelTypes), model_type) ==
      std::end(kModelTypes)) {
    return Unimplemented("{}: model_type {} is not supported; {} are", kConfigFile,
                         reader.Show("model_type"), fmt::join(kModelTypes, ", "));
  }
  TREELINE_RETURN_IF_ERROR(CheckNotQuantized(reader));
  TREELINE_ASSIGN_OR_RETURN(const std::string activation, reader.String("hidden_act", "silu"));
  if (activation != "silu") {
    return Unimplemented("{}: hidden_act {} is not supported; silu is", kConfigFile,
                         reader.Show("hidden_act"));
  }
  return OkStatus();
}

// Which keys speak of biases and of a sliding window depends on the model type, as does what
// transformers makes of them.
Status ReadVariant(const ConfigReader& reader, ModelConfig& config) {
  const std::string& type = config.model_type;
  bool windowed = type == "mistral";
  if (type == "llama") {
    TREELINE_ASSIGN_OR_RETURN(config.qkv_bias, reader.Bool("attention_bias", false));
    config.o_bias = config.qkv_bias;
    TREELINE_ASSIGN_OR_RETURN(config.mlp_bias, reader.Bool("mlp_bias", false));
  } else if (type == "qwen2") {
    config.qkv_bias = true;
    TREELINE_ASSIGN_OR_RETURN(windowed, reader.Bool("use_sliding_window", false));
  }
  if (windowed && reader.Has("sliding_window")) {
    TREELINE_ASSIGN_OR_RETURN(config.sliding_window,
                              reader.Integer("sliding_window", 1, kMaxPositions));
  }
  return OkStatus();
}

Status ReadShape(const ConfigReader& reader, ModelConfig& config) {
  TREELINE_ASSIGN_OR_RETURN(config.vocab_size, reader.Integer("vocab_size", 1, kMaxVocabSize));
  TREELINE_ASSIGN_OR_RETURN(config.hidden_size, reader.Integer("hidden_size", 1, kMaxHiddenSize));
  TREELINE_ASSIGN_OR_RETURN(config.intermediate_size,
                            reader.Integer("intermediate_size", 1, kMaxIntermediateSize));
  TREELINE_ASSIGN_OR_RETURN(config.num_layers, reader.Integer("num_hidden_layers", 1, kMaxLayers));
  TREELINE_ASSIGN_OR_RETURN(config.max_position_embeddings,
                            reader.Integer("max_position_embeddings", 1, kMaxPositions));
  return OkStatus();
}

Status ReadHeads(const ConfigReader& reader, ModelConfig& config) {
  TREELINE_ASSIGN_OR_RETURN(config.num_heads, reader.Integer("num_attention_heads", 1, kMaxHeads));
  TREELINE_ASSIGN_OR_RETURN(config.num_kv_heads,
                            reader.Integer("num_key_value_heads", 1, kMaxHeads, config.num_heads));
  if (config.num_heads % config.num_kv_heads != 0) {
    return InvalidArgument(
        "{}: num_attention_heads {} must be a multiple of num_key_value_heads {}", kConfigFile,
        config.num_heads, config.num_kv_heads);
  }
  if (!reader.Has("head_dim") && config.hidden_size % config.num_heads != 0) {
    return InvalidArgument(
        "{}: without head_dim, hidden_size {} must be a multiple of num_attention_heads {}",
        kConfigFile, config.hidden_size, config.num_heads);
  }
  TREELINE_ASSIGN_OR_RETURN(config.head_dim, reader.Integer("head_dim", 1, kMaxHeadDim,
                                                            config.hidden_size / config.num_heads));
  if (config.head_dim % 2 != 0 || config.head_dim > kMaxHeadDim) {
    return InvalidArgument(
        "{}: head_dim (by default hidden_size / num_attention_heads) must be even and at most {}, "
        "not {}",
        kConfigFile, kMaxHeadDim, config.head_dim);
  }
  return OkStatus();
}

// eos_token_id is an id, a list of ids, or absent.
StatusOr<std::vector<int32_t>> ReadEosTokenIds(const ConfigReader& reader, int32_t vocab_size) {
  const Json* value = reader.Find("eos_token_id");
  if (value == nullptr) return std::vector<int32_t>();
  const Json list = value->is_array() ? *value : Json::array({*value});
  std::vector<int32_t> ids;
  for (const Json& id : list) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= static_cast<uint64_t>(vocab_size)) {
      return reader.Wrong(
          "eos_token_id",
          fmt::format("a token id below vocab_size {}, or a list of them", vocab_size));
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

StatusOr<std::optional<float>> OptionalNumber(const ConfigReader& reader, const char* key) {
  constexpr double kMax = std::numeric_limits<float>::max();
  if (!reader.Has(key)) return std::optional<float>();
  TREELINE_ASSIGN_OR_RETURN(const float value, reader.Number(key, -kMax, kMax));
  return std::optional<float>(value);
}

// The ranges are those of the API, so they are checked by its own rules.
StatusOr<ModelConfig::SamplingDefaults> ReadSamplingDefaults(const ConfigReader& reader,
                                                             int32_t vocab_size) {
  ModelConfig::SamplingDefaults defaults;
  TREELINE_ASSIGN_OR_RETURN(defaults.temperature, OptionalNumber(reader, "temperature"));
  TREELINE_ASSIGN_OR_RETURN(defaults.top_p, OptionalNumber(reader, "top_p"));
  TREELINE_ASSIGN_OR_RETURN(defaults.min_p, OptionalNumber(reader, "min_p"));
  TREELINE_ASSIGN_OR_RETURN(defaults.repetition_penalty,
                            OptionalNumber(reader, "repetition_penalty"));
  if (reader.Has("top_k")) {
    constexpr int32_t kMax = std::numeric_limits<int32_t>::max();
    TREELINE_ASSIGN_OR_RETURN(defaults.top_k, reader.Integer("top_k", 0, kMax));
  }
  SamplingParams params;
  params.temperature = defaults.temperature.value_or(params.temperature);
  params.top_p = defaults.top_p.value_or(params.top_p);
  params.min_p = defaults.min_p.value_or(params.min_p);
  params.repetition_penalty = defaults.repetition_penalty.value_or(params.repetition_penalty);
  const Status valid = params.Validate(vocab_size);
  if (!valid.ok()) return Annotate(valid, kGenerationFile);
  return defaults;
}

// What generation_config.json says.
Status TakeGeneration(const Json& json, ModelConfig& config) {
  if (!json.is_object()) return InvalidArgument("{}: must be a JSON object", kGenerationFile);
  const ConfigReader reader(json, kGenerationFile);
  if (reader.Has("eos_token_id")) {
    TREELINE_ASSIGN_OR_RETURN(config.eos_token_ids, ReadEosTokenIds(reader, config.vocab_size));
  }
  TREELINE_ASSIGN_OR_RETURN(config.sampling_defaults,
                            ReadSamplingDefaults(reader, config.vocab_size));
  return OkStatus();
}

}  // namespace

bool ModelConfig::is_linearized() const {
  return std::all_of(attention.begin(), attention.end(),
                     [](const AttentionSpec& spec) { return spec.form.has_groups(); });
}

StatusOr<ModelConfig> ModelConfig::Load(const std::string& model_dir) {
  TREELINE_ASSIGN_OR_RETURN(const Json config, ParseJsonFile(model_dir + "/" + kConfigFile));
  auto loaded = FromJson(config, Json());
  if (!loaded.ok()) return Annotate(loaded.status(), model_dir);
  TREELINE_RETURN_IF_ERROR(loaded->ReadGenerationConfig(model_dir));
  return loaded;
}

Status ModelConfig::ReadGenerationConfig(const std::string& folder) {
  const std::string path = folder + "/" + kGenerationFile;
  if (!FileExists(path)) return OkStatus();
  TREELINE_ASSIGN_OR_RETURN(const Json json, ParseJsonFile(path));
  const Status status = TakeGeneration(json, *this);
  return status.ok() ? status : Annotate(status, folder);
}

StatusOr<ModelConfig> ModelConfig::FromJson(const Json& config_json, const Json& generation_json) {
  if (!config_json.is_object()) return InvalidArgument("{}: must be a JSON object", kConfigFile);
  const ConfigReader reader(config_json, kConfigFile);
  TREELINE_RETURN_IF_ERROR(CheckSupported(reader));

  ModelConfig config;
  TREELINE_ASSIGN_OR_RETURN(config.model_type, reader.String("model_type"));
  TREELINE_RETURN_IF_ERROR(ReadShape(reader, config));
  TREELINE_RETURN_IF_ERROR(ReadHeads(reader, config));
  TREELINE_ASSIGN_OR_RETURN(config.rms_norm_eps, reader.Number("rms_norm_eps", 1e-12, 1));
  TREELINE_ASSIGN_OR_RETURN(config.rope,
                            RopeConfig::FromJson(config_json, config.max_position_embeddings));
  TREELINE_RETURN_IF_ERROR(ReadVariant(reader, config));
  TREELINE_ASSIGN_OR_RETURN(config.tie_word_embeddings, reader.Bool("tie_word_embeddings", false));
  config.attention.assign(config.num_layers, AttentionSpec::Softmax());
  if (const Json* attention = reader.Find("linear_attention")) {
    auto specs = AttentionSpec::ForLayers(*attention, config.num_layers);
    if (!specs.ok()) return Annotate(specs.status(), kConfigFile);
    config.attention = *std::move(specs);
  }
  TREELINE_ASSIGN_OR_RETURN(config.eos_token_ids, ReadEosTokenIds(reader, config.vocab_size));

  if (!generation_json.is_null()) {
    TREELINE_RETURN_IF_ERROR(TakeGeneration(generation_json, config));
  }
  return config;
}

}  // namespace treeline
