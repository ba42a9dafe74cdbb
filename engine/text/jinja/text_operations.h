// Operations on text that filters and methods share.
#ifndef TREELINE_ENGINE_TEXT_JINJA_TEXT_OPERATIONS_H_
#define TREELINE_ENGINE_TEXT_JINJA_TEXT_OPERATIONS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/status.h"
#include "engine/text/jinja/runtime.h"

namespace treeline::jinja {

enum class Side { kLeft, kRight, kBoth };

// Without the characters at its ends that are in the text `characters`; white space for None.
StatusOr<std::string_view> Strip(Runtime& runtime, std::string_view text, Side side,
                                 const Value& characters);

// The first `count` places replaced, all for a negative count. An empty `old` is found before
// every character and at the end.
StatusOr<std::string> Replace(Runtime& runtime, std::string_view text, std::string_view old,
                              std::string_view replacement, int64_t count);

// As str.splitlines(): at every kind of line end, none after the last.
std::vector<std::string_view> SplitLines(std::string_view text, bool keep_ends);

// The separator between the texts of the items. Charges for the result.
StatusOr<std::string> Join(Runtime& runtime, std::string_view separator,
                           const std::vector<std::string_view>& parts);

}  // namespace treeline::jinja

#endif  // TREELINE_ENGINE_TEXT_JINJA_TEXT_OPERATIONS_H_
