#include "engine/text/jinja/expression_parser.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "engine/text/jinja/builtins.h"

namespace treeline::jinja {
namespace {

template <typename Node>
ExpressionPtr Make(int line, Node node) {
  return std::make_unique<Expression>(Expression{line, std::move(node)});
}

std::optional<Comparison> ComparisonOf(const Token& token) {
  if (token.type != TokenType::kOperator) return std::nullopt;
  if (token.text == "==") return Comparison::kEqual;
  if (token.text == "!=") return Comparison::kNotEqual;
  if (token.text == "<") return Comparison::kLess;
  if (token.text == "<=") return Comparison::kLessEqual;
  if (token.text == ">") return Comparison::kGreater;
  if (token.text == ">=") return Comparison::kGreaterEqual;
  return std::nullopt;
}

// Takes `==`, `in`, `not in` and the like.
std::optional<Comparison> TakeComparison(TokenStream& stream) {
  if (const auto comparison = ComparisonOf(stream.current())) {
    stream.Take();
    return comparison;
  }
  if (stream.TakeName("in")) return Comparison::kIn;
  const Token& following = stream.following();
  if (stream.IsName("not") && following.type == TokenType::kName && following.text == "in") {
    stream.Take();
    stream.Take();
    return Comparison::kNotIn;
  }
  return std::nullopt;
}

std::optional<BinaryOperator> TakeProductOperator(TokenStream& stream) {
  if (stream.TakeOperator("*")) return BinaryOperator::kMultiply;
  if (stream.TakeOperator("/")) return BinaryOperator::kDivide;
  if (stream.TakeOperator("//")) return BinaryOperator::kFloorDivide;
  if (stream.TakeOperator("%")) return BinaryOperator::kModulo;
  return std::nullopt;
}

// Functions of Jinja2 that are missing here.
bool IsUnsupportedFunction(const Expression& callee) {
  const Name* name = std::get_if<Name>(&callee.node);
  return name != nullptr &&
         (name->name == "cycler" || name->name == "joiner" || name->name == "lipsum");
}

// Whether a token after `is name` starts the test's argument.
bool StartsTestArgument(const Token& token) {
  switch (token.type) {
    case TokenType::kString:
    case TokenType::kInteger:
    case TokenType::kFloat:
      return true;
    case TokenType::kName:
      return token.text != "else" && token.text != "or" && token.text != "and";
    case TokenType::kOperator:
      return token.text == "[" || token.text == "{";
    default:
      return false;
  }
}

}  // namespace

StatusOr<ExpressionPtr> ExpressionParser::Parse() { return ParseExpression(true); }

StatusOr<ExpressionPtr> ExpressionParser::ParseTuple(bool conditional) {
  return ParseTupleItems(conditional, /*in_parentheses=*/false);
}

StatusOr<ExpressionPtr> ExpressionParser::ParseTupleItems(bool conditional, bool in_parentheses) {
  const int line = stream_.line();
  SequenceLiteral tuple{SequenceType::kTuple, {}};
  bool has_comma = false;
  while (!stream_.Is(TokenType::kVariableEnd) && !stream_.Is(TokenType::kBlockEnd) &&
         !stream_.IsOperator(")")) {
    TREELINE_ASSIGN_OR_RETURN(tuple.items.emplace_back(), ParseExpression(conditional));
    if (!stream_.TakeOperator(",")) break;
    has_comma = true;
  }
  if (!has_comma && !tuple.items.empty()) return std::move(tuple.items[0]);
  if (tuple.items.empty() && !in_parentheses) return stream_.Unexpected("an expression");
  return Make(line, std::move(tuple));
}

StatusOr<ExpressionPtr> ExpressionParser::ParseExpression(bool conditional) {
  const NestingGuard guard(depth_);
  TREELINE_RETURN_IF_ERROR(guard.Check(stream_.line()));
  const int line = stream_.line();
  TREELINE_ASSIGN_OR_RETURN(ExpressionPtr expression, ParseOr());
  while (conditional && stream_.TakeName("if")) {
    Conditional node;
    node.then = std::move(expression);
    TREELINE_ASSIGN_OR_RETURN(node.test, ParseOr());
    if (stream_.TakeName("else")) {
      TREELINE_ASSIGN_OR_RETURN(node.otherwise, ParseExpression(true));
    }
    expression = Make(line, std::move(node));
  }
  return expression;
}

StatusOr<ExpressionPtr> ExpressionParser::ParseOr() {
  const int line = stream_.line();
  TREELINE_ASSIGN_OR_RETURN(ExpressionPtr left, ParseAnd());
  while (stream_.TakeName("or")) {
    TREELINE_ASSIGN_OR_RETURN(ExpressionPtr right, ParseAnd());
    left = Make(line, Logical{/*is_and=*/false, std::move(left), std::move(right)});
  }
  return left;
}

StatusOr<ExpressionPtr> ExpressionParser::ParseAnd() {
  const int line = stream_.line();
  TREELINE_ASSIGN_OR_RETURN(ExpressionPtr left, ParseNot());
  while (stream_.TakeName("and")) {
    TREELINE_ASSIGN_OR_RETURN(ExpressionPtr right, ParseNot());
    left = Make(line, Logical{/*is_and=*/true, std::move(left), std::move(right)});
  }
  return left;
}

StatusOr<ExpressionPtr> ExpressionParser::ParseNot() {
  const int line = stream_.line();
  if (!stream_.TakeName("not")) return ParseComparison();
  const NestingGuard guard(depth_);
  TREELINE_RETURN_IF_ERROR(guard.Check(line));
  TREELINE_ASSIGN_OR_RETURN(ExpressionPtr operand, ParseNot());
  return Make(line, Negation{std::move(operand)});
}

StatusOr<ExpressionPtr> ExpressionParser::ParseComparison() {
  const int line = stream_.line();
  TREELINE_ASSIGN_OR_RETURN(ExpressionPtr first, ParseSum());
  ComparisonChain chain;
  while (const auto comparison = TakeComparison(stream_)) {
    TREELINE_ASSIGN_OR_RETURN(ExpressionPtr operand, ParseSum());
    chain.rest.emplace_back(*comparison, std::move(operand));
  }
  if (chain.rest.empty()) return first;
  chain.first = std::move(first);
  return Make(line, std::move(chain));
}

StatusOr<ExpressionPtr> ExpressionParser::ParseSum() {
  const int line = stream_.line();
  TREELINE_ASSIGN_OR_RETURN(ExpressionPtr left, ParseConcatenation());
  while (stream_.IsOperator("+") || stream_.IsOperator("-")) {
    const bool adds = stream_.Take().text == "+";
    TREELINE_ASSIGN_OR_RETURN(ExpressionPtr right, ParseConcatenation());
    const auto operation = adds ? BinaryOperator::kAdd : BinaryOperator::kSubtract;
    left = Make(line, Binary{operation, std::move(left), std::move(right)});
  }
  return left;
}

StatusOr<ExpressionPtr> ExpressionParser::ParseConcatenation() {
  const int line = stream_.line();
  Concatenation node;
  do {
    TREELINE_ASSIGN_OR_RETURN(node.parts.emplace_back(), ParseProduct());
  } while (stream_.TakeOperator("~"));
  if (node.parts.size() == 1) return std::move(node.parts[0]);
  return Make(line, std::move(node));
}

StatusOr<ExpressionPtr> ExpressionParser::ParseProduct() {
  const int line = stream_.line();
  TREELINE_ASSIGN_OR_RETURN(ExpressionPtr left, ParsePower());
  while (const auto operation = TakeProductOperator(stream_)) {
    TREELINE_ASSIGN_OR_RETURN(ExpressionPtr right, ParsePower());
    left = Make(line, Binary{*operation, std::move(left), std::move(right)});
  }
  return left;
}

StatusOr<ExpressionPtr> ExpressionParser::ParsePower() {
  const int line = stream_.line();
  TREELINE_ASSIGN_OR_RETURN(ExpressionPtr left, ParseUnary(/*with_filters=*/true));
  while (stream_.TakeOperator("**")) {
    TREELINE_ASSIGN_OR_RETURN(ExpressionPtr right, ParseUnary(/*with_filters=*/true));
    left = Make(line, Binary{BinaryOperator::kPower, std::move(left), std::move(right)});
  }
  return left;
}

StatusOr<ExpressionPtr> ExpressionParser::ParseUnary(bool with_filters) {
  const NestingGuard guard(depth_);
  TREELINE_RETURN_IF_ERROR(guard.Check(stream_.line()));
  const int line = stream_.line();
  ExpressionPtr expression;
  if (stream_.IsOperator("-") || stream_.IsOperator("+")) {
    const bool negative = stream_.Take().text == "-";
    TREELINE_ASSIGN_OR_RETURN(ExpressionPtr operand, ParseUnary(/*with_filters=*/false));
    expression = Make(line, Sign{negative, std::move(operand)});
  } else {
    TREELINE_ASSIGN_OR_RETURN(expression, ParsePrimary());
  }
  TREELINE_ASSIGN_OR_RETURN(expression, ParsePostfix(std::move(expression)));
  if (!with_filters) return expression;
  return ParseFiltersAndTests(std::move(expression));
}

StatusOr<ExpressionPtr> ExpressionParser::ParsePrimary() {
  switch (stream_.current().type) {
    case TokenType::kName:
      return ParseName();
    case TokenType::kString:
      return ParseString();
    case TokenType::kInteger:
    case TokenType::kFloat:
      return ParseNumber();
    default:
      break;
  }
  if (stream_.TakeOperator("(")) {
    TREELINE_ASSIGN_OR_RETURN(ExpressionPtr inner,
                              ParseTupleItems(/*conditional=*/true, /*in_parentheses=*/true));
    TREELINE_RETURN_IF_ERROR(stream_.ExpectOperator(")"));
    return inner;
  }
  if (stream_.IsOperator("[")) return ParseList();
  if (stream_.IsOperator("{")) return ParseDict();
  return stream_.Unexpected("an expression");
}

StatusOr<ExpressionPtr> ExpressionParser::ParseName() {
  const Token token = stream_.Take();
  const std::string_view name = token.text;
  if (name == "true" || name == "True") return Make(token.line, Constant{Value(true)});
  if (name == "false" || name == "False") return Make(token.line, Constant{Value(false)});
  if (name == "none" || name == "None") return Make(token.line, Constant{Value()});
  if (in_macro_ && (name == "varargs" || name == "kwargs")) {
    return SyntaxError(token.line, "'{}' in a macro is not supported", name);
  }
  return Make(token.line, Name{name});
}

StatusOr<ExpressionPtr> ExpressionParser::ParseNumber() {
  const Token token = stream_.Take();
  std::string digits(token.text);
  std::erase(digits, '_');
  const char* end = digits.data() + digits.size();
  if (token.type == TokenType::kFloat) {
    double number = 0;
    if (std::from_chars(digits.data(), end, number).ec != std::errc()) {
      return SyntaxError(token.line, "the number {} is out of range", token.text);
    }
    return Make(token.line, Constant{Value(number)});
  }
  int64_t number = 0;
  if (std::from_chars(digits.data(), end, number).ec != std::errc()) {
    return SyntaxError(token.line, "the integer {} beyond 64 bits is not supported", token.text);
  }
  return Make(token.line, Constant{Value(number)});
}

StatusOr<ExpressionPtr> ExpressionParser::ParseString() {
  const Token token = stream_.Take();
  if (!stream_.Is(TokenType::kString)) return Make(token.line, Constant{Value(token.text)});
  std::string& joined = strings_.emplace_back(token.text);
  while (stream_.Is(TokenType::kString)) joined += stream_.Take().text;
  return Make(token.line, Constant{Value(std::string_view(joined))});
}

StatusOr<ExpressionPtr> ExpressionParser::ParseList() {
  const int line = stream_.Take().line;
  SequenceLiteral list{SequenceType::kList, {}};
  while (!stream_.IsOperator("]")) {
    TREELINE_ASSIGN_OR_RETURN(list.items.emplace_back(), Parse());
    if (!stream_.TakeOperator(",")) break;
  }
  TREELINE_RETURN_IF_ERROR(stream_.ExpectOperator("]"));
  return Make(line, std::move(list));
}

StatusOr<ExpressionPtr> ExpressionParser::ParseDict() {
  const int line = stream_.Take().line;
  DictLiteral dict;
  while (!stream_.IsOperator("}")) {
    TREELINE_ASSIGN_OR_RETURN(ExpressionPtr key, Parse());
    TREELINE_RETURN_IF_ERROR(stream_.ExpectOperator(":"));
    TREELINE_ASSIGN_OR_RETURN(ExpressionPtr value, Parse());
    dict.entries.emplace_back(std::move(key), std::move(value));
    if (!stream_.TakeOperator(",")) break;
  }
  TREELINE_RETURN_IF_ERROR(stream_.ExpectOperator("}"));
  return Make(line, std::move(dict));
}

StatusOr<ExpressionPtr> ExpressionParser::ParsePostfix(ExpressionPtr object) {
  while (true) {
    if (stream_.IsOperator(".")) {
      TREELINE_ASSIGN_OR_RETURN(object, ParseAttribute(std::move(object)));
    } else if (stream_.IsOperator("[")) {
      TREELINE_ASSIGN_OR_RETURN(object, ParseSubscript(std::move(object)));
    } else if (stream_.IsOperator("(")) {
      TREELINE_ASSIGN_OR_RETURN(object, ParseCall(std::move(object)));
    } else {
      return object;
    }
  }
}

StatusOr<ExpressionPtr> ExpressionParser::ParseAttribute(ExpressionPtr object) {
  const int line = stream_.Take().line;
  if (stream_.Is(TokenType::kInteger)) {
    TREELINE_ASSIGN_OR_RETURN(ExpressionPtr key, ParseNumber());
    return Make(line, Subscript{std::move(object), std::move(key)});
  }
  TREELINE_ASSIGN_OR_RETURN(const std::string_view name,
                            stream_.ExpectName("an attribute's name or number"));
  return Make(line, Attribute{std::move(object), name});
}

StatusOr<ExpressionPtr> ExpressionParser::ParseSubscript(ExpressionPtr object) {
  const int line = stream_.Take().line;
  ExpressionPtr bounds[3];
  size_t colons = 0;
  while (!stream_.IsOperator("]")) {
    if (colons < 2 && stream_.TakeOperator(":")) {
      ++colons;
      continue;
    }
    if (bounds[colons] != nullptr) break;
    TREELINE_ASSIGN_OR_RETURN(bounds[colons], Parse());
  }
  TREELINE_RETURN_IF_ERROR(stream_.ExpectOperator("]"));
  if (colons > 0) {
    return Make(line, Slice{std::move(object), std::move(bounds[0]), std::move(bounds[1]),
                            std::move(bounds[2])});
  }
  if (bounds[0] == nullptr) return SyntaxError(line, "a subscript is empty");
  return Make(line, Subscript{std::move(object), std::move(bounds[0])});
}

StatusOr<ExpressionPtr> ExpressionParser::ParseCall(ExpressionPtr callee) {
  const int line = stream_.line();
  if (IsUnsupportedFunction(*callee)) {
    return SyntaxError(line, "the function '{}' is not supported",
                       std::get<Name>(callee->node).name);
  }
  TREELINE_ASSIGN_OR_RETURN(CallArguments arguments, ParseArguments());
  return Make(line, Call{std::move(callee), std::move(arguments)});
}

StatusOr<CallArguments> ExpressionParser::ParseArguments() {
  CallArguments arguments;
  TREELINE_RETURN_IF_ERROR(stream_.ExpectOperator("("));
  while (!stream_.IsOperator(")")) {
    if (stream_.IsOperator("*") || stream_.IsOperator("**")) {
      return SyntaxError(stream_.line(), "unpacking arguments with {} is not supported",
                         stream_.current().text);
    }
    const Token& following = stream_.following();
    const bool is_named = stream_.Is(TokenType::kName) && following.type == TokenType::kOperator &&
                          following.text == "=";
    if (is_named) {
      const std::string_view name = stream_.Take().text;
      stream_.Take();
      TREELINE_ASSIGN_OR_RETURN(ExpressionPtr value, Parse());
      arguments.named.emplace_back(name, std::move(value));
    } else if (!arguments.named.empty()) {
      return SyntaxError(stream_.line(), "a positional argument follows a named one");
    } else {
      TREELINE_ASSIGN_OR_RETURN(arguments.positional.emplace_back(), Parse());
    }
    if (!stream_.TakeOperator(",")) break;
  }
  TREELINE_RETURN_IF_ERROR(stream_.ExpectOperator(")"));
  return arguments;
}

StatusOr<ExpressionPtr> ExpressionParser::ParseFiltersAndTests(ExpressionPtr subject) {
  while (true) {
    if (stream_.IsOperator("|")) {
      TREELINE_ASSIGN_OR_RETURN(subject, ParseFilters(std::move(subject)));
    } else if (stream_.IsName("is")) {
      TREELINE_ASSIGN_OR_RETURN(subject, ParseTest(std::move(subject)));
    } else if (stream_.IsOperator("(")) {
      TREELINE_ASSIGN_OR_RETURN(subject, ParseCall(std::move(subject)));
    } else {
      return subject;
    }
  }
}

StatusOr<ExpressionPtr> ExpressionParser::ParseFilters(ExpressionPtr subject) {
  while (stream_.TakeOperator("|")) {
    TREELINE_ASSIGN_OR_RETURN(subject, ParseFilter(std::move(subject)));
  }
  return subject;
}

StatusOr<ExpressionPtr> ExpressionParser::ParseFilter(ExpressionPtr subject) {
  const int line = stream_.line();
  TREELINE_ASSIGN_OR_RETURN(const std::string_view name, stream_.ExpectName("a filter's name"));
  const Builtin* filter = FindFilter(name);
  if (filter == nullptr) return SyntaxError(line, "the filter '{}' is not supported", name);
  CallArguments arguments;
  if (stream_.IsOperator("(")) {
    TREELINE_ASSIGN_OR_RETURN(arguments, ParseArguments());
  }
  return Make(line, BuiltinCall{filter, std::move(subject), std::move(arguments)});
}

StatusOr<ExpressionPtr> ExpressionParser::ParseTest(ExpressionPtr subject) {
  const int line = stream_.Take().line;
  const bool negated = stream_.TakeName("not");
  TREELINE_ASSIGN_OR_RETURN(const std::string_view name, stream_.ExpectName("a test's name"));
  const Builtin* test = FindTest(name);
  if (test == nullptr) return SyntaxError(line, "the test '{}' is not supported", name);
  CallArguments arguments;
  if (stream_.IsOperator("(")) {
    TREELINE_ASSIGN_OR_RETURN(arguments, ParseArguments());
  } else if (StartsTestArgument(stream_.current())) {
    if (stream_.IsName("is")) return SyntaxError(line, "tests cannot be chained with 'is'");
    TREELINE_ASSIGN_OR_RETURN(ExpressionPtr argument, ParsePrimary());
    TREELINE_ASSIGN_OR_RETURN(arguments.positional.emplace_back(),
                              ParsePostfix(std::move(argument)));
  }
  ExpressionPtr result = Make(line, BuiltinCall{test, std::move(subject), std::move(arguments)});
  return negated ? Make(line, Negation{std::move(result)}) : std::move(result);
}

}  // namespace treeline::jinja
