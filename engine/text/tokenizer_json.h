// Typed reading of the parts of a tokenizer's JSON files. `where` is the place of a
// value, "tokenizer.json: added_tokens[3]", and begins every error.
#ifndef TREELINE_ENGINE_TEXT_TOKENIZER_JSON_H_
#define TREELINE_ENGINE_TEXT_TOKENIZER_JSON_H_

#include <cstdint>
#include <string>

#include "engine/base/json.h"
#include "engine/base/status.h"

namespace treeline {

// Ids index tables, so a hostile file could ask for any amount of memory. The largest
// vocabularies in use have 260 thousand tokens.
inline constexpr int32_t kMaxTokenId = (4 << 20) - 1;

Status CheckObject(const Json& value, const std::string& where);
Status CheckArray(const Json& value, const std::string& where);
StatusOr<int32_t> AsTokenId(const Json& value, const std::string& where);

// The member of an object; null where it is missing. REQUIRES: object.is_object().
const Json& Member(const Json& object, const std::string& name);

// As Member, of the type asked for. The fallback is for a missing or null member; without one,
// that is an error.
StatusOr<bool> BoolMember(const Json& object, const std::string& name, bool fallback,
                          const std::string& where);
StatusOr<std::string> StringMember(const Json& object, const std::string& name,
                                   const std::string& where);

inline constexpr size_t kMaxReplacementBytes = 64;

// The fields of a Replace step, of the normalizer or of the decoder.
struct Replacement {
  std::string from;  // Not empty.
  std::string to;
};
// INVALID_ARGUMENT for patterns that are regular expressions.
StatusOr<Replacement> ReadReplacement(const Json& step, const std::string& where);

}  // namespace treeline

#endif  // TREELINE_ENGINE_TEXT_TOKENIZER_JSON_H_
