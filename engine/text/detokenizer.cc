#include "engine/text/detokenizer.h"

#include <utility>

#include "engine/text/utf8.h"

namespace treeline {

std::string Detokenizer::Push(int32_t id) {
  std::string text;
  if (skip_special_ && tokenizer_.IsSpecial(id)) return text;
  std::string_view bytes = tokenizer_.TokenBytes(id);
  if (!bytes.empty() && std::exchange(strips_space_, false) && bytes[0] == ' ') {
    bytes.remove_prefix(1);
  }
  pending_.append(bytes);
  DrainUtf8(&pending_, &text);
  return text;
}

std::string Detokenizer::Flush() {
  if (std::exchange(pending_, {}).empty()) return {};
  return std::string(kReplacementCharacter);
}

}  // namespace treeline
