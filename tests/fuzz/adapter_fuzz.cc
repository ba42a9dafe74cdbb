// A line of JSON as adapter_config.json and any bytes behind it as adapter_model.safetensors, of a
// small base: applied or refused; every value of what they make of the base is readable.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/json.h"
#include "engine/model/adapter.h"
#include "engine/model/safetensors.h"

namespace treeline {
namespace {

class Base : public Checkpoint {
 public:
  Base() : Checkpoint("base", Config(), Tensors()) {}
  StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer() const override { return NotFound("none"); }
  StatusOr<ChatTemplate> LoadChatTemplate() const override { return NotFound("none"); }

 private:
  static ModelConfig Config() {
    ModelConfig config;
    config.num_layers = 2;
    config.attention.assign(2, AttentionSpec::Softmax());
    return config;
  }
  static std::map<std::string, TensorView> Tensors() {
    static const std::vector<float> values(4 * 20, 0.5f);
    const std::string layer = "model.layers.0.";
    const auto bytes = std::as_bytes(std::span(values));
    return {{layer + "self_attn.q_proj.weight", {TensorType::kF32, {4, 20}, bytes}},
            {layer + "mlp.up_proj.weight", {TensorType::kF32, {20, 4}, bytes}},
            {layer + "input_layernorm.weight", {TensorType::kF32, {20}, bytes.first(20 * 4)}}};
  }
};

void Run(std::span<const uint8_t> input) {
  const auto newline = std::find(input.begin(), input.end(), '\n');
  const size_t end = newline - input.begin();
  const std::string_view text(reinterpret_cast<const char*>(input.data()), end);
  const auto json = ParseJson(text, "config");
  if (!json.ok()) return;
  const auto config = AdapterConfig::FromJson(*json);
  if (!config.ok()) return;
  const std::span<const uint8_t> file = input.subspan(std::min(end + 1, input.size()));
  auto tensors = ParseSafetensors(std::as_bytes(file), "adapter");
  if (!tensors.ok() || !JoinRowScales("adapter", &*tensors).ok()) return;
  static const Base base;
  const auto matched = MatchAdapter(*tensors, *config, base, "adapter");
  if (!matched.ok()) return;
  for (const auto& [name, update] : matched->updates) {
    TensorView view = *base.Find(name);
    view.update = &update;
    std::vector<float> values(view.num_elements());
    CopyToFloat(view, values);
  }
}

}  // namespace
}  // namespace treeline

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  treeline::Run(std::span(data, size));
  return 0;
}
