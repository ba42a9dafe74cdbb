// Fuzzes the tokenizer.json reader and the tokenizer it makes. The input is a file of
// JSON, then optionally a zero byte and a text to encode.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "engine/base/json.h"
#include "engine/text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t zero = input.find('\0');
  const std::string_view json_text = input.substr(0, zero);
  const std::string_view text = zero == input.npos ? json_text : input.substr(zero + 1);

  const auto json = treeline::ParseJson(json_text, "tokenizer.json");
  if (!json.ok()) return 0;
  // The same object serves as tokenizer_config.json: their fields do not overlap.
  const auto tokenizer = treeline::Tokenizer::FromJson(*json, *json);
  if (!tokenizer.ok()) return 0;
  for (const bool parse_special : {false, true}) {
    const auto ids = (*tokenizer)->Encode(text, true, parse_special);
    if (!ids.ok()) continue;
    for (const int32_t id : *ids) {
      if (id < 0 || id >= (*tokenizer)->vocab_size()) std::abort();
    }
    (*tokenizer)->Decode(*ids, true);
  }
  return 0;
}
