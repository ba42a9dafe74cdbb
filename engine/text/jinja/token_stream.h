// A cursor over the tokens of a template.
#ifndef TREELINE_ENGINE_TEXT_JINJA_TOKEN_STREAM_H_
#define TREELINE_ENGINE_TEXT_JINJA_TOKEN_STREAM_H_

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/base/status.h"
#include "engine/text/jinja/lexer.h"

namespace treeline::jinja {

class TokenStream {
 public:
  // The last token must be kEnd.
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& current() const { return tokens_[at_]; }
  // The token after the current one, if there is one.
  const Token& following() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  int line() const { return current().line; }

  bool Is(TokenType type) const { return current().type == type; }
  bool IsName(std::string_view name) const {
    return Is(TokenType::kName) && current().text == name;
  }
  bool IsOperator(std::string_view symbol) const {
    return Is(TokenType::kOperator) && current().text == symbol;
  }

  // The current token; moves past it.
  Token Take() {
    const Token token = current();
    if (at_ + 1 < tokens_.size()) ++at_;
    return token;
  }
  bool TakeName(std::string_view name) {
    if (!IsName(name)) return false;
    Take();
    return true;
  }
  bool TakeOperator(std::string_view symbol) {
    if (!IsOperator(symbol)) return false;
    Take();
    return true;
  }

  Status ExpectOperator(std::string_view symbol) {
    return TakeOperator(symbol) ? OkStatus() : Unexpected(fmt::format("'{}'", symbol));
  }
  Status Expect(TokenType type, std::string_view what) {
    if (!Is(type)) return Unexpected(what);
    Take();
    return OkStatus();
  }
  StatusOr<std::string_view> ExpectName(std::string_view what) {
    if (!Is(TokenType::kName)) return Unexpected(what);
    return Take().text;
  }

  // The error of finding the current token where something else should be.
  Status Unexpected(std::string_view expected) const {
    return SyntaxError(line(), "expected {}, found {}", expected, Describe(current()));
  }

 private:
  static std::string Describe(const Token& token) {
    switch (token.type) {
      case TokenType::kEnd:
        return "the end of the template";
      case TokenType::kData:
        return "text";
      case TokenType::kString:
        return "a string";
      default:
        return fmt::format("'{}'", token.text);
    }
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
};

}  // namespace treeline::jinja

#endif  // TREELINE_ENGINE_TEXT_JINJA_TOKEN_STREAM_H_
