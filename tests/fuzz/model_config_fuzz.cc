// Any text as config.json and, after the first zero byte, as generation_config.json: read or
// refused.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "engine/base/json.h"
#include "engine/model/model_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t split = text.find('\0');
  const auto config = treeline::ParseJson(text.substr(0, split), "config.json");
  if (!config.ok()) return 0;
  treeline::Json generation;
  if (split != std::string_view::npos) {
    const auto parsed = treeline::ParseJson(text.substr(split + 1), "generation_config.json");
    if (!parsed.ok()) return 0;
    generation = *parsed;
  }
  const auto read = treeline::ModelConfig::FromJson(*config, generation);
  if (read.ok()) ToString(read->attention);
  return 0;
}
