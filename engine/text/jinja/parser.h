// Parses the text of a template into its tree.
#ifndef TREELINE_ENGINE_TEXT_JINJA_PARSER_H_
#define TREELINE_ENGINE_TEXT_JINJA_PARSER_H_

#include <memory>
#include <string_view>

#include "engine/base/status.h"
#include "engine/text/jinja/ast.h"

namespace treeline::jinja {

inline constexpr size_t kMaxSourceBytes = size_t{1} << 20;

// INVALID_ARGUMENT with the line for what is malformed or not supported, and for a source that
// is too long or not UTF-8.
StatusOr<std::unique_ptr<const Ast>> Parse(std::string_view source);

}  // namespace treeline::jinja

#endif  // TREELINE_ENGINE_TEXT_JINJA_PARSER_H_
