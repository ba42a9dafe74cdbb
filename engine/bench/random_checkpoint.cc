#include "engine/bench/random_checkpoint.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <new>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "engine/base/json.h"
#include "kernels/float_types.h"

namespace treeline {
namespace {

using Shapes = std::map<std::string, std::vector<int64_t>>;

void AddProduct(const std::string& name, int64_t n, int64_t k, bool bias, Shapes* shapes) {
  (*shapes)[name + ".weight"] = {n, k};
  if (bias) (*shapes)[name + ".bias"] = {n};
}

// What the attention's form has learned beside its products.
void AddFormShapes(const ModelConfig& config, const AttentionSpec& spec,
                   const std::string& attention, Shapes* shapes) {
  const AttentionForm& form = spec.form;
  const int64_t heads = config.num_heads, kv_heads = config.num_kv_heads, dim = config.head_dim;
  if (form.denominator == Denominator::kJoint) {
    (*shapes)[attention + "linear_factor"] = {heads};
  } else if (form.has_linear() && !spec.alpha.has_value()) {
    (*shapes)[attention + "global_factor"] = {1};
  }
  if (form.decay) (*shapes)[attention + "decay"] = {kv_heads};
  if (form.feature_map == FeatureMap::kHedgehog) {
    const int64_t half = form.feature_dim(config.head_dim) / 2;
    (*shapes)[attention + "feature_map_q.weight"] = {heads, dim, half};
    (*shapes)[attention + "feature_map_k.weight"] = {kv_heads, dim, half};
  }
  if (form.conv_kernel > 0) {
    (*shapes)[attention + "dwconv.weight"] = {heads, 1, form.conv_kernel, 1};
  }
}

// The tensors of a LLaMA, Mistral or Qwen2 of this configuration, by Hugging Face's names.
Shapes ImpliedShapes(const ModelConfig& config) {
  const int64_t hidden = config.hidden_size, intermediate = config.intermediate_size;
  const int64_t q_size = int64_t{config.num_heads} * config.head_dim;
  const int64_t kv_size = int64_t{config.num_kv_heads} * config.head_dim;
  Shapes shapes;
  shapes["model.embed_tokens.weight"] = {config.vocab_size, hidden};
  shapes["model.norm.weight"] = {hidden};
  if (!config.tie_word_embeddings) shapes["lm_head.weight"] = {config.vocab_size, hidden};
  for (int32_t i = 0; i < config.num_layers; ++i) {
    const std::string layer = fmt::format("model.layers.{}.", i);
    const std::string attention = layer + "self_attn.", mlp = layer + "mlp.";
    shapes[layer + "input_layernorm.weight"] = {hidden};
    shapes[layer + "post_attention_layernorm.weight"] = {hidden};
    AddProduct(attention + "q_proj", q_size, hidden, config.qkv_bias, &shapes);
    AddProduct(attention + "k_proj", kv_size, hidden, config.qkv_bias, &shapes);
    AddProduct(attention + "v_proj", kv_size, hidden, config.qkv_bias, &shapes);
    AddProduct(attention + "o_proj", hidden, q_size, config.o_bias, &shapes);
    AddProduct(mlp + "gate_proj", intermediate, hidden, config.mlp_bias, &shapes);
    AddProduct(mlp + "up_proj", intermediate, hidden, config.mlp_bias, &shapes);
    AddProduct(mlp + "down_proj", hidden, intermediate, config.mlp_bias, &shapes);
    AddFormShapes(config, config.attention[i], attention, &shapes);
  }
  return shapes;
}

bool IsNorm(const std::string& name) { return name.ends_with("norm.weight"); }

int64_t NumElements(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

// `count` bf16 values, uniform with this mean and standard deviation.
std::vector<uint16_t> RandomValues(int64_t count, float mean, float deviation, uint32_t seed) {
  std::mt19937 bits(seed);
  const float reach = deviation * std::sqrt(3.0f);
  std::uniform_real_distribution<float> uniform(mean - reach, mean + reach);
  std::vector<uint16_t> values(count);
  for (uint16_t& value : values) value = FloatToBf16(uniform(bits));
  return values;
}

class RandomCheckpoint : public Checkpoint {
 public:
  // Tensors are the first values of one array or the other: what is loaded of them is copied.
  static std::unique_ptr<Checkpoint> Make(const std::string& path, ModelConfig config) {
    const Shapes shapes = ImpliedShapes(config);
    int64_t largest = 0;
    for (const auto& [name, shape] : shapes) largest = std::max(largest, NumElements(shape));
    // Activations keep their size from layer to layer, roughly.
    const float deviation = 1 / std::sqrt(static_cast<float>(config.hidden_size));
    std::vector<uint16_t> weights = RandomValues(largest, 0, deviation, /*seed=*/1);
    std::vector<uint16_t> norms = RandomValues(config.hidden_size, 1, 0.1f, /*seed=*/2);

    std::map<std::string, TensorView> tensors;
    for (const auto& [name, shape] : shapes) {
      const std::vector<uint16_t>& values = IsNorm(name) ? norms : weights;
      TensorView& view = tensors[name];
      view.type = TensorType::kBF16;
      view.shape = shape;
      view.bytes = std::as_bytes(std::span(values).first(NumElements(shape)));
    }
    return std::unique_ptr<Checkpoint>(new RandomCheckpoint(
        path, std::move(config), std::move(tensors), std::move(weights), std::move(norms)));
  }

  StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer() const override {
    return NotFound("{}: random weights come without a tokenizer", path());
  }
  StatusOr<ChatTemplate> LoadChatTemplate() const override {
    return NotFound("{}: random weights come without a chat template", path());
  }

 private:
  RandomCheckpoint(std::string path, ModelConfig config, std::map<std::string, TensorView> tensors,
                   std::vector<uint16_t> weights, std::vector<uint16_t> norms)
      : Checkpoint(std::move(path), std::move(config), std::move(tensors)),
        weights_(std::move(weights)),
        norms_(std::move(norms)) {}

  const std::vector<uint16_t> weights_, norms_;  // Own what the tensors show.
};

}  // namespace

StatusOr<std::unique_ptr<Checkpoint>> MakeRandomCheckpoint(const std::string& config_path) {
  TREELINE_ASSIGN_OR_RETURN(const Json json, ParseJsonFile(config_path));
  StatusOr<ModelConfig> config = ModelConfig::FromJson(json, Json());
  if (!config.ok()) return Annotate(config.status(), config_path);
  try {
    return RandomCheckpoint::Make(config_path, *std::move(config));
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("{}: no memory for random weights", config_path);
  }
}

}  // namespace treeline
