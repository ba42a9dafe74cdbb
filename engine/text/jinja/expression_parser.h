// Parses the expressions of a template by recursive descent.
#ifndef TREELINE_ENGINE_TEXT_JINJA_EXPRESSION_PARSER_H_
#define TREELINE_ENGINE_TEXT_JINJA_EXPRESSION_PARSER_H_

#include <memory>
#include <string_view>
#include <utility>

#include "engine/base/status.h"
#include "engine/text/jinja/ast.h"
#include "engine/text/jinja/token_stream.h"

namespace treeline::jinja {

// Blocks or brackets inside each other: bounds the parser's recursion.
inline constexpr int kMaxNesting = 100;

// Counts one level of nesting while it lives.
class NestingGuard {
 public:
  explicit NestingGuard(int& depth) : depth_(++depth) {}
  ~NestingGuard() { --depth_; }
  NestingGuard(const NestingGuard&) = delete;
  NestingGuard& operator=(const NestingGuard&) = delete;

  Status Check(int line) const {
    if (depth_ <= kMaxNesting) return OkStatus();
    return SyntaxError(line, "nested deeper than {} levels", kMaxNesting);
  }

 private:
  int& depth_;
};

class ExpressionParser {
 public:
  // Works on the caller's stream and counts into the caller's depth; joined string literals
  // go to `strings`.
  ExpressionParser(TokenStream& stream, int& depth, std::deque<std::string>& strings)
      : stream_(stream), depth_(depth), strings_(strings) {}

  StatusOr<ExpressionPtr> Parse();
  // An expression, or a tuple without parentheses. Without `conditional` an `if` ends it: it
  // belongs to the {% for %}.
  StatusOr<ExpressionPtr> ParseTuple(bool conditional);
  // The filters from the current '|', applied to `subject` (null: to a block's text).
  StatusOr<ExpressionPtr> ParseFilters(ExpressionPtr subject);
  // name(...) of a filter, without a '|' before it.
  StatusOr<ExpressionPtr> ParseFilter(ExpressionPtr subject);

  // While set, `varargs` and `kwargs` are refused: they would be the macro's.
  void set_in_macro(bool in_macro) { in_macro_ = in_macro; }
  bool in_macro() const { return in_macro_; }

 private:
  StatusOr<ExpressionPtr> ParseExpression(bool conditional);
  StatusOr<ExpressionPtr> ParseOr();
  StatusOr<ExpressionPtr> ParseAnd();
  StatusOr<ExpressionPtr> ParseNot();
  StatusOr<ExpressionPtr> ParseComparison();
  StatusOr<ExpressionPtr> ParseSum();
  StatusOr<ExpressionPtr> ParseConcatenation();
  StatusOr<ExpressionPtr> ParseProduct();
  StatusOr<ExpressionPtr> ParsePower();
  StatusOr<ExpressionPtr> ParseUnary(bool with_filters);
  StatusOr<ExpressionPtr> ParsePrimary();
  StatusOr<ExpressionPtr> ParseName();
  StatusOr<ExpressionPtr> ParseNumber();
  StatusOr<ExpressionPtr> ParseString();
  StatusOr<ExpressionPtr> ParseTupleItems(bool conditional, bool in_parentheses);
  StatusOr<ExpressionPtr> ParseList();
  StatusOr<ExpressionPtr> ParseDict();
  StatusOr<ExpressionPtr> ParsePostfix(ExpressionPtr object);
  StatusOr<ExpressionPtr> ParseAttribute(ExpressionPtr object);
  StatusOr<ExpressionPtr> ParseSubscript(ExpressionPtr object);
  StatusOr<ExpressionPtr> ParseCall(ExpressionPtr callee);
  StatusOr<ExpressionPtr> ParseFiltersAndTests(ExpressionPtr subject);
  StatusOr<ExpressionPtr> ParseTest(ExpressionPtr subject);
  StatusOr<CallArguments> ParseArguments();

  TokenStream& stream_;
  int& depth_;
  std::deque<std::string>& strings_;
  bool in_macro_ = false;
};

}  // namespace treeline::jinja

#endif  // TREELINE_ENGINE_TEXT_JINJA_EXPRESSION_PARSER_H_
