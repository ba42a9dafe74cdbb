// Any bytes as a GGUF file: read or refused, its values, configuration, tokenizer and template
// with it.
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/model/gguf.h"
#include "engine/model/gguf_checkpoint.h"
#include "engine/model/rope_frequencies.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer_spec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace treeline;
  const auto gguf = Gguf::Parse(std::as_bytes(std::span(data, size)), "fuzz");
  if (!gguf.ok()) return 0;
  for (const auto& [name, view] : gguf->tensors()) {
    std::vector<float> values(view.num_elements());
    CopyToFloat(view, values);
  }
  const auto spec = GgufTokenizerSpec(*gguf);
  if (spec.ok()) CreateTokenizer(*spec).IgnoreError();
  const auto source = gguf->String("tokenizer.chat_template");
  if (source.ok()) ChatTemplate::Parse(*source).IgnoreError();

  const auto config = GgufModelConfig(*gguf);
  if (!config.ok()) return 0;
  if (config->head_dim > 2) {
    ComputeRopeFrequencies(config->rope, config->head_dim, config->max_position_embeddings);
  }
  const auto tensors = GgufTensors(*gguf, *config);
  if (!tensors.ok()) return 0;
  for (const auto& [name, view] : *tensors) {
    std::vector<float> values(view.num_elements());
    CopyToFloat(view, values);
  }
  return 0;
}
