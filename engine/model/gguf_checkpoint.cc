#include "engine/model/gguf_checkpoint.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/base/file.h"

namespace treeline {
namespace {

// Divides the rotary frequencies, by dimension: how files carry LLaMA 3's scaling.
constexpr char kRopeDivisors[] = "rope_freqs.weight";
constexpr char kEmbedding[] = "token_embd.weight";
constexpr char kOutput[] = "output.weight";
constexpr char kChatTemplate[] = "tokenizer.chat_template";

struct NamePair {
  const char* gguf;
  const char* hugging_face;
};
constexpr NamePair kNames[] = {
    {"token_embd", "model.embed_tokens"}, {"output_norm", "model.norm"}, {"output", "lm_head"}};
// Behind "blk.3." and "model.layers.3.".
constexpr NamePair kLayerNames[] = {
    {"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"}, {"ffn_norm", "post_attention_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"}};

// `name` of one side translated to the other; nothing where it has no counterpart.
std::optional<std::string> Translate(std::string_view name, std::string_view layer_prefix,
                                     const char* NamePair::*from,
                                     std::string_view other_layer_prefix,
                                     const char* NamePair::*to) {
  // "weight" or "bias".
  const size_t last_dot = name.rfind('.');
  if (last_dot == std::string_view::npos) return std::nullopt;
  std::string_view stem = name.substr(0, last_dot);
  const std::string_view kind = name.substr(last_dot + 1);
  if (kind != "weight" && kind != "bias") return std::nullopt;

  std::string prefix;
  std::span<const NamePair> pairs = kNames;
  if (stem.starts_with(layer_prefix)) {
    stem.remove_prefix(layer_prefix.size());
    const size_t dot = stem.find('.');
    const std::string_view layer = stem.substr(0, dot);
    if (dot == std::string_view::npos || layer.empty() ||
        layer.find_first_not_of("0123456789") != std::string_view::npos) {
      return std::nullopt;
    }
    stem.remove_prefix(dot + 1);
    prefix = fmt::format("{}{}.", other_layer_prefix, layer);
    pairs = kLayerNames;
  }
  for (const NamePair& pair : pairs) {
    if (stem == pair.*from) return fmt::format("{}{}.{}", prefix, pair.*to, kind);
  }
  return std::nullopt;
}

std::optional<std::string> ToHuggingFace(const std::string& name) {
  return Translate(name, "blk.", &NamePair::gguf, "model.layers.", &NamePair::hugging_face);
}

class GgufCheckpoint : public Checkpoint {
 public:
  GgufCheckpoint(const std::string& path, MappedFile file, Gguf gguf, ModelConfig config,
                 std::map<std::string, TensorView> tensors)
      : Checkpoint(path, std::move(config), std::move(tensors)),
        file_(std::move(file)),
        gguf_(std::move(gguf)) {}

  std::string NameInFile(const std::string& name) const override {
    return Translate(name, "model.layers.", &NamePair::hugging_face, "blk.", &NamePair::gguf)
        .value_or(name);
  }
  StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer() const override {
    TREELINE_ASSIGN_OR_RETURN(const TokenizerSpec spec, GgufTokenizerSpec(gguf_));
    auto tokenizer = CreateTokenizer(spec);
    if (!tokenizer.ok()) return Annotate(tokenizer.status(), path());
    return tokenizer;
  }
  StatusOr<ChatTemplate> LoadChatTemplate() const override {
    if (!gguf_.Has(kChatTemplate)) return NotFound("{}: no key {}", path(), kChatTemplate);
    TREELINE_ASSIGN_OR_RETURN(const std::string source, gguf_.String(kChatTemplate));
    auto parsed = ChatTemplate::Parse(source);
    if (!parsed.ok()) {
      return Annotate(parsed.status(), fmt::format("{}: {}", path(), kChatTemplate));
    }
    return parsed;
  }

 private:
  const MappedFile file_;  // What gguf_ and the tensors are views into.
  const Gguf gguf_;
};

// Reads the keys of one architecture, "llama.block_count" and so on, into a config.json.
class ConfigBuilder {
 public:
  ConfigBuilder(const Gguf& gguf, std::string architecture)
      : gguf_(gguf), architecture_(std::move(architecture)) {
    json_ = {{"model_type", architecture_}};
  }

  std::string Key(const char* name) const { return fmt::format("{}.{}", architecture_, name); }
  bool Has(const char* name) const { return gguf_.Has(Key(name)); }

  Status Integer(const char* name, const char* config_key) {
    TREELINE_ASSIGN_OR_RETURN(json_[config_key], gguf_.Integer(Key(name)));
    return OkStatus();
  }
  Status Number(const char* name, const char* config_key) {
    TREELINE_ASSIGN_OR_RETURN(json_[config_key], gguf_.Number(Key(name)));
    return OkStatus();
  }
  Status OptionalInteger(const char* name, const char* config_key) {
    return Has(name) ? Integer(name, config_key) : OkStatus();
  }
  Status OptionalNumber(const char* name, const char* config_key) {
    return Has(name) ? Number(name, config_key) : OkStatus();
  }

  Json& json() { return json_; }

 private:
  const Gguf& gguf_;
  const std::string architecture_;
  Json json_;
};

// Keys that only other models than ours have, or that say something else than theirs.
Status CheckSupported(const Gguf& gguf, const ConfigBuilder& config) {
  if (gguf.Has("split.count")) {
    TREELINE_ASSIGN_OR_RETURN(const int64_t count, gguf.Integer("split.count"));
    if (count > 1) {
      return Unimplemented(
          "{}: one of {} parts of a split model; join them first: llama-gguf-split --merge "
          "FIRST-PART OUT.gguf",
          gguf.file(), count);
    }
  }
  if (config.Has("expert_count")) {
    const std::string key = config.Key("expert_count");
    TREELINE_ASSIGN_OR_RETURN(const int64_t experts, gguf.Integer(key));
    if (experts > 0) {
      return Unimplemented("{}: key {}: mixtures of experts are not supported", gguf.file(), key);
    }
  }
  return OkStatus();
}

// The sizes of a head, which files state up to three times.
Status ReadHeadDim(const Gguf& gguf, ConfigBuilder& config) {
  std::optional<int64_t> head_dim;
  for (const char* name :
       {"attention.key_length", "attention.value_length", "rope.dimension_count"}) {
    if (!config.Has(name)) continue;
    TREELINE_ASSIGN_OR_RETURN(const int64_t size, gguf.Integer(config.Key(name)));
    if (head_dim.has_value() && size != *head_dim) {
      return Unimplemented("{}: key {} is {}, but heads have {}; only equal sizes are supported",
                           gguf.file(), config.Key(name), size, *head_dim);
    }
    head_dim = size;
  }
  if (head_dim.has_value()) config.json()["head_dim"] = *head_dim;
  return OkStatus();
}

Status ReadYarn(ConfigBuilder& config, Json& scaling, const Gguf& gguf) {
  constexpr std::pair<const char*, const char*> kKeys[] = {
      {"rope.scaling.original_context_length", "original_max_position_embeddings"},
      {"rope.scaling.yarn_attn_factor", "attention_factor"},
      {"rope.scaling.yarn_beta_fast", "beta_fast"},
      {"rope.scaling.yarn_beta_slow", "beta_slow"}};
  for (const auto& [name, config_key] : kKeys) {
    if (!config.Has(name)) continue;
    if (std::string_view(name).ends_with("length")) {
      TREELINE_ASSIGN_OR_RETURN(scaling[config_key], gguf.Integer(config.Key(name)));
    } else {
      TREELINE_ASSIGN_OR_RETURN(scaling[config_key], gguf.Number(config.Key(name)));
    }
  }
  // What a plain YaRN does not change: llama.cpp's other knobs must be as without them.
  constexpr std::pair<const char*, double> kNeutral[] = {{"rope.scaling.yarn_ext_factor", 1},
                                                         {"rope.scaling.yarn_log_multiplier", 0},
                                                         {"rope.scaling.attn_factor", 1}};
  for (const auto& [name, neutral] : kNeutral) {
    if (!config.Has(name)) continue;
    TREELINE_ASSIGN_OR_RETURN(const double value, gguf.Number(config.Key(name)));
    if (value != neutral) {
      return Unimplemented("{}: key {} {} is not supported; {} is", gguf.file(), config.Key(name),
                           value, neutral);
    }
  }
  return OkStatus();
}

Status ReadRopeScaling(const Gguf& gguf, ConfigBuilder& config) {
  const char* factor = "rope.scaling.factor";
  std::string type = "none";
  if (config.Has("rope.scaling.type")) {
    TREELINE_ASSIGN_OR_RETURN(type, gguf.String(config.Key("rope.scaling.type")));
  } else if (config.Has(factor)) {
    type = "linear";
  } else if (config.Has("rope.scale_linear")) {  // What old files call it.
    type = "linear";
    factor = "rope.scale_linear";
  }
  if (type == "none") return OkStatus();
  if (type != "linear" && type != "yarn") {
    return Unimplemented("{}: key {}: scaling of another kind than none, linear or yarn",
                         gguf.file(), config.Key("rope.scaling.type"));
  }
  Json& scaling = config.json()["rope_scaling"];
  scaling["rope_type"] = type;
  TREELINE_ASSIGN_OR_RETURN(scaling["factor"], gguf.Number(config.Key(factor)));
  return type == "yarn" ? ReadYarn(config, scaling, gguf) : OkStatus();
}

// Every mark that ends an answer.
Status ReadEndTokens(const Gguf& gguf, ConfigBuilder& config) {
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                          "tokenizer.ggml.eom_token_id"}) {
    if (!gguf.Has(key)) continue;
    TREELINE_ASSIGN_OR_RETURN(const int64_t id, gguf.Integer(key));
    config.json()["eos_token_id"].push_back(static_cast<uint64_t>(id));  // JSON's ids have no sign.
  }
  return OkStatus();
}

StatusOr<Json> ToConfigJson(const Gguf& gguf, ConfigBuilder& config) {
  TREELINE_RETURN_IF_ERROR(CheckSupported(gguf, config));
  TREELINE_RETURN_IF_ERROR(config.Integer("embedding_length", "hidden_size"));
  TREELINE_RETURN_IF_ERROR(config.Integer("feed_forward_length", "intermediate_size"));
  TREELINE_RETURN_IF_ERROR(config.Integer("block_count", "num_hidden_layers"));
  TREELINE_RETURN_IF_ERROR(config.Integer("context_length", "max_position_embeddings"));
  TREELINE_RETURN_IF_ERROR(config.Integer("attention.head_count", "num_attention_heads"));
  TREELINE_RETURN_IF_ERROR(
      config.OptionalInteger("attention.head_count_kv", "num_key_value_heads"));
  TREELINE_RETURN_IF_ERROR(config.Number("attention.layer_norm_rms_epsilon", "rms_norm_eps"));
  TREELINE_RETURN_IF_ERROR(config.OptionalNumber("rope.freq_base", "rope_theta"));
  TREELINE_RETURN_IF_ERROR(ReadHeadDim(gguf, config));
  TREELINE_RETURN_IF_ERROR(ReadRopeScaling(gguf, config));
  TREELINE_RETURN_IF_ERROR(ReadEndTokens(gguf, config));

  const auto embedding = gguf.tensors().find(kEmbedding);
  if (embedding == gguf.tensors().end()) {
    return InvalidArgument("{}: tensor {} is missing", gguf.file(), kEmbedding);
  }
  config.json()["vocab_size"] = embedding->second.shape[0];
  config.json()["tie_word_embeddings"] = !gguf.tensors().contains(kOutput);
  return config.json();
}

StatusOr<std::vector<float>> ReadRopeDivisors(const Gguf& gguf, int32_t head_dim) {
  const auto found = gguf.tensors().find(kRopeDivisors);
  if (found == gguf.tensors().end()) return std::vector<float>();
  const TensorView& view = found->second;
  if (view.shape != std::vector<int64_t>{head_dim / 2}) {
    return InvalidArgument("{}: tensor {}: shape [{}], but heads of {} need [{}]", gguf.file(),
                           kRopeDivisors, fmt::join(view.shape, ", "), head_dim, head_dim / 2);
  }
  std::vector<float> divisors(view.num_elements());
  CopyToFloat(view, divisors);
  const bool sound =
      std::all_of(divisors.begin(), divisors.end(), [](float x) { return x > 1e-6f && x < 1e6f; });
  if (!sound) {
    return InvalidArgument("{}: tensor {}: a value is not in (1e-6, 1e6)", gguf.file(),
                           kRopeDivisors);
  }
  return divisors;
}

StatusOr<std::string> Architecture(const Gguf& gguf) {
  TREELINE_ASSIGN_OR_RETURN(std::string architecture, gguf.String("general.architecture"));
  if (architecture != "llama" && architecture != "qwen2") {
    return Unimplemented("{}: general.architecture \"{}\" is not supported; llama and qwen2 are",
                         gguf.file(), architecture.substr(0, 80));
  }
  return architecture;
}

// A key that may be absent, by one of Gguf's readers.
template <typename T>
Status ReadOptional(const Gguf& gguf, const char* key,
                    StatusOr<T> (Gguf::*read)(const std::string&) const, T& value) {
  if (!gguf.Has(key)) return OkStatus();
  TREELINE_ASSIGN_OR_RETURN(value, (gguf.*read)(key));
  return OkStatus();
}

// -1 and its like stand for "none" in some files; the range is checked by the tokenizer.
Status ReadTokenId(const Gguf& gguf, const char* key, std::optional<int32_t>& id) {
  if (!gguf.Has(key)) return OkStatus();
  TREELINE_ASSIGN_OR_RETURN(const int64_t value, gguf.Integer(key));
  if (value != static_cast<int32_t>(value)) return OkStatus();
  id = static_cast<int32_t>(value);
  return OkStatus();
}

Status ReadFlag(const Gguf& gguf, const char* key, std::optional<bool>& flag) {
  if (!gguf.Has(key)) return OkStatus();
  TREELINE_ASSIGN_OR_RETURN(flag, gguf.Bool(key));
  return OkStatus();
}

}  // namespace

StatusOr<std::map<std::string, TensorView>> GgufTensors(const Gguf& gguf,
                                                        const ModelConfig& config) {
  TREELINE_ASSIGN_OR_RETURN(const std::string architecture, Architecture(gguf));
  std::map<std::string, TensorView> tensors;
  for (const auto& [name, view] : gguf.tensors()) {
    if (name == kRopeDivisors) continue;  // Part of the configuration.
    const std::optional<std::string> translated = ToHuggingFace(name);
    if (!translated.has_value()) {
      return Unimplemented("{}: tensor {} has no place in a model of architecture {}", gguf.file(),
                           name, architecture);
    }
    TensorView& placed = tensors[*translated] = view;
    // llama.cpp reorders these rows for "llama" and leaves those of "qwen2".
    if (architecture != "llama") continue;
    const bool is_query = translated->find("self_attn.q_proj.") != std::string::npos;
    const bool is_key = translated->find("self_attn.k_proj.") != std::string::npos;
    if (!is_query && !is_key) continue;
    placed.interleaved_heads = is_query ? config.num_heads : config.num_kv_heads;
    if (view.shape[0] != int64_t{placed.interleaved_heads} * config.head_dim) {
      return InvalidArgument("{}: tensor {} has {} rows, but {} heads of {} need {}", gguf.file(),
                             name, view.shape[0], placed.interleaved_heads, config.head_dim,
                             placed.interleaved_heads * config.head_dim);
    }
  }
  return tensors;
}

StatusOr<ModelConfig> GgufModelConfig(const Gguf& gguf) {
  TREELINE_ASSIGN_OR_RETURN(const std::string architecture, Architecture(gguf));
  ConfigBuilder builder(gguf, architecture);
  TREELINE_ASSIGN_OR_RETURN(const Json json, ToConfigJson(gguf, builder));
  StatusOr<ModelConfig> config = ModelConfig::FromJson(json, Json());
  if (!config.ok()) {
    return MakeStatus(config.status().code(), "{}: its metadata as a {}", gguf.file(),
                      Message(config.status()));
  }
  TREELINE_ASSIGN_OR_RETURN(config->rope.frequency_divisors,
                            ReadRopeDivisors(gguf, config->head_dim));
  // The metadata does not speak of biases: the tensors tell.
  const auto has = [&](const char* name) { return gguf.tensors().contains(name); };
  config->qkv_bias |= has("blk.0.attn_q.bias");
  config->o_bias = has("blk.0.attn_output.bias");
  config->mlp_bias = has("blk.0.ffn_down.bias");
  return config;
}

StatusOr<TokenizerSpec> GgufTokenizerSpec(const Gguf& gguf) {
  TokenizerSpec spec;
  TREELINE_ASSIGN_OR_RETURN(spec.model, gguf.String("tokenizer.ggml.model"));
  TREELINE_ASSIGN_OR_RETURN(spec.tokens, gguf.Strings("tokenizer.ggml.tokens"));
  TREELINE_RETURN_IF_ERROR(
      ReadOptional(gguf, "tokenizer.ggml.pre", &Gguf::String, spec.pre_tokenizer));
  std::vector<int32_t> types;
  TREELINE_RETURN_IF_ERROR(ReadOptional(gguf, "tokenizer.ggml.token_type", &Gguf::Integers, types));
  for (const int32_t type : types) {
    spec.types.push_back(static_cast<TokenizerSpec::TokenType>(type));
  }
  TREELINE_RETURN_IF_ERROR(
      ReadOptional(gguf, "tokenizer.ggml.scores", &Gguf::Numbers, spec.scores));
  TREELINE_RETURN_IF_ERROR(
      ReadOptional(gguf, "tokenizer.ggml.merges", &Gguf::Strings, spec.merges));
  TREELINE_RETURN_IF_ERROR(ReadTokenId(gguf, "tokenizer.ggml.bos_token_id", spec.bos_id));
  TREELINE_RETURN_IF_ERROR(ReadTokenId(gguf, "tokenizer.ggml.eos_token_id", spec.eos_id));
  TREELINE_RETURN_IF_ERROR(ReadTokenId(gguf, "tokenizer.ggml.unknown_token_id", spec.unknown_id));
  TREELINE_RETURN_IF_ERROR(ReadFlag(gguf, "tokenizer.ggml.add_bos_token", spec.add_bos));
  TREELINE_RETURN_IF_ERROR(
      ReadFlag(gguf, "tokenizer.ggml.add_space_prefix", spec.add_space_prefix));
  return spec;
}

StatusOr<std::unique_ptr<Checkpoint>> OpenGgufCheckpoint(const std::string& path) {
  TREELINE_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
  TREELINE_ASSIGN_OR_RETURN(Gguf gguf, Gguf::Parse(file.bytes(), path));
  TREELINE_ASSIGN_OR_RETURN(ModelConfig config, GgufModelConfig(gguf));
  TREELINE_ASSIGN_OR_RETURN(auto tensors, GgufTensors(gguf, config));
  return std::make_unique<GgufCheckpoint>(path, std::move(file), std::move(gguf), std::move(config),
                                          std::move(tensors));
}

}  // namespace treeline
