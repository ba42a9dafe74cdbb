// Values as text: Python's str(), repr() and json.dumps().
#ifndef TREELINE_ENGINE_TEXT_JINJA_FORMAT_H_
#define TREELINE_ENGINE_TEXT_JINJA_FORMAT_H_

#include <optional>
#include <string>
#include <string_view>

#include "engine/base/status.h"
#include "engine/text/jinja/runtime.h"

namespace treeline::jinja {

// str(value). Text is returned as it is, without a copy.
StatusOr<std::string_view> ToText(Runtime& runtime, const Value& value);

// repr(value), for messages and nested values.
StatusOr<std::string> ToRepr(Runtime& runtime, const Value& value);
std::string TextRepr(std::string_view text);

struct JsonStyle {
  std::optional<std::string> indent;       // Of one level; one line without it.
  std::string_view item_separator = ", ";  // Views of literals or of the template's values.
  std::string_view key_separator = ": ";
  bool ensure_ascii = false;
  bool sort_keys = false;
};
StatusOr<std::string> ToJson(Runtime& runtime, const Value& value, const JsonStyle& style);

// & < > ' " as HTML entities, as markupsafe.escape() writes them.
std::string EscapeHtml(std::string_view text);

// The error of using an undefined value: "'tools' is undefined".
Status UndefinedError(Runtime& runtime, const Missing& missing);

}  // namespace treeline::jinja

#endif  // TREELINE_ENGINE_TEXT_JINJA_FORMAT_H_
