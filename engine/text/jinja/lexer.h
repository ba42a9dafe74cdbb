// Splits a template into tokens, with white space handled as trim_blocks and lstrip_blocks
// ask: a block or comment takes the white space before it on its line and the newline after.
#ifndef TREELINE_ENGINE_TEXT_JINJA_LEXER_H_
#define TREELINE_ENGINE_TEXT_JINJA_LEXER_H_

#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/status.h"

namespace treeline::jinja {

enum class TokenType {
  kData,           // Text outside tags.
  kVariableBegin,  // {{
  kVariableEnd,    // }}
  kBlockBegin,     // {%
  kBlockEnd,       // %}
  kName,
  kString,  // `text` is the value, without quotes and escapes.
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenType type;
  int line;  // From 1.
  std::string_view text;
};

// One tag may hold this many tokens, which bounds the height of expressions.
inline constexpr int kMaxTagTokens = 2'000;

// Line ends as "\n", and without the last one: what the lexer takes.
std::string NormalizeSource(std::string_view source);

// Tokens view `source` and `strings`, to which strings with escapes are added. The last token
// is kEnd. INVALID_ARGUMENT, with the line, for what is not a token.
StatusOr<std::vector<Token>> Tokenize(std::string_view source, std::deque<std::string>* strings);

// The error of a template at a line.
template <typename... Args>
Status SyntaxError(int line, fmt::format_string<Args...> format, Args&&... args) {
  return InvalidArgument("line {}: {}", line, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace treeline::jinja

#endif  // TREELINE_ENGINE_TEXT_JINJA_LEXER_H_
