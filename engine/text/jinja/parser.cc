#include "engine/text/jinja/parser.h"

#include <algorithm>
#include <span>
#include <utility>

#include "engine/text/jinja/expression_parser.h"
#include "engine/text/jinja/lexer.h"
#include "engine/text/jinja/token_stream.h"
#include "engine/text/jinja/unicode.h"

namespace treeline::jinja {
namespace {

using Names = std::span<const std::string_view>;

bool Contains(Names names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

constexpr std::string_view kUnsupportedTags[] = {"autoescape", "block", "debug",  "do",
                                                 "extends",    "from",  "import", "include",
                                                 "pluralize",  "trans"};

class Parser {
 public:
  Parser(TokenStream stream, std::deque<std::string>& strings)
      : stream_(std::move(stream)), expressions_(stream_, depth_, strings) {}

  StatusOr<Body> ParseTemplate() {
    TREELINE_ASSIGN_OR_RETURN(Body body, ParseBody({}));
    if (!stream_.Is(TokenType::kEnd)) {
      return SyntaxError(stream_.line(), "unexpected tag '{}'", stream_.current().text);
    }
    return body;
  }

 private:
  // Statements up to a tag of one of the names, whose name is then the current token, or, for
  // a template's own body, to the end.
  StatusOr<Body> ParseBody(Names ends) {
    const NestingGuard guard(depth_);
    TREELINE_RETURN_IF_ERROR(guard.Check(stream_.line()));
    Body body;
    while (!stream_.Is(TokenType::kEnd)) {
      const Token token = stream_.Take();
      if (token.type == TokenType::kData) {
        body.push_back({token.line, TextOutput{token.text}});
      } else if (token.type == TokenType::kVariableBegin) {
        TREELINE_ASSIGN_OR_RETURN(ExpressionPtr value, expressions_.ParseTuple(true));
        TREELINE_RETURN_IF_ERROR(stream_.Expect(TokenType::kVariableEnd, "'}}'"));
        body.push_back({token.line, Output{std::move(value)}});
      } else {
        if (stream_.Is(TokenType::kName) && Contains(ends, stream_.current().text)) return body;
        TREELINE_RETURN_IF_ERROR(ParseStatement(&body));
      }
    }
    return body;
  }

  // The body of a tag that `ends` closes or divides, from the end of the tag itself.
  StatusOr<Body> ParseInnerBody(const Token& tag, Names ends) {
    stream_.TakeOperator(":");
    TREELINE_RETURN_IF_ERROR(ExpectBlockEnd());
    TREELINE_ASSIGN_OR_RETURN(Body body, ParseBody(ends));
    if (stream_.Is(TokenType::kEnd)) {
      return SyntaxError(tag.line, "'{}' is not closed by '{}'", tag.text, ends.back());
    }
    return body;
  }

  // The same for a tag with one end, and that end.
  StatusOr<Body> ParseClosedBody(const Token& tag, std::string_view end) {
    TREELINE_ASSIGN_OR_RETURN(Body body, ParseInnerBody(tag, {&end, 1}));
    stream_.Take();
    TREELINE_RETURN_IF_ERROR(ExpectBlockEnd());
    return body;
  }

  Status ExpectBlockEnd() { return stream_.Expect(TokenType::kBlockEnd, "'%}'"); }

  // A tag from its name on.
  Status ParseStatement(Body* body) {
    if (!stream_.Is(TokenType::kName)) return stream_.Unexpected("a tag's name");
    const Token tag = stream_.Take();
    StatusOr<Statement> statement = ParseTag(tag);
    TREELINE_RETURN_IF_ERROR(statement.status());
    body->push_back(*std::move(statement));
    return OkStatus();
  }

  StatusOr<Statement> ParseTag(const Token& tag) {
    if (tag.text == "if") return ParseIf(tag);
    if (tag.text == "for") return ParseFor(tag);
    if (tag.text == "set") return ParseSet(tag);
    if (tag.text == "macro") return ParseMacro(tag);
    if (tag.text == "call") return ParseCallBlock(tag);
    if (tag.text == "filter") return ParseFilterBlock(tag);
    if (tag.text == "with") return ParseWith(tag);
    if (tag.text == "generation") return ParseGeneration(tag);
    if (tag.text == "print") return ParsePrint(tag);
    if (tag.text == "break") return ParseLoopControl(tag, Break{});
    if (tag.text == "continue") return ParseLoopControl(tag, Continue{});
    if (Contains(kUnsupportedTags, tag.text)) {
      return SyntaxError(tag.line, "the tag '{}' is not supported", tag.text);
    }
    return SyntaxError(tag.line, "unknown or misplaced tag '{}'", tag.text);
  }

  template <typename Node>
  static Statement Make(const Token& tag, Node node) {
    return Statement{tag.line, std::move(node)};
  }

  StatusOr<Statement> ParseIf(const Token& tag) {
    static constexpr std::string_view kEnds[] = {"elif", "else", "endif"};
    If node;
    while (true) {
      TREELINE_ASSIGN_OR_RETURN(ExpressionPtr test, expressions_.ParseTuple(false));
      TREELINE_ASSIGN_OR_RETURN(Body body, ParseInnerBody(tag, kEnds));
      node.branches.emplace_back(std::move(test), std::move(body));
      const Token end = stream_.Take();
      if (end.text == "elif") continue;
      if (end.text == "else") {
        TREELINE_ASSIGN_OR_RETURN(node.otherwise, ParseClosedBody(tag, "endif"));
      } else {
        TREELINE_RETURN_IF_ERROR(ExpectBlockEnd());
      }
      return Make(tag, std::move(node));
    }
  }

  StatusOr<Statement> ParseFor(const Token& tag) {
    static constexpr std::string_view kEnds[] = {"else", "endfor"};
    For node;
    TREELINE_ASSIGN_OR_RETURN(node.target, ParseTarget(/*with_attributes=*/false));
    if (!stream_.TakeName("in")) return stream_.Unexpected("'in'");
    TREELINE_ASSIGN_OR_RETURN(node.iterable, expressions_.ParseTuple(false));
    if (stream_.TakeName("if")) {
      TREELINE_ASSIGN_OR_RETURN(node.filter, expressions_.Parse());
    }
    if (stream_.IsName("recursive")) {
      return SyntaxError(tag.line, "a 'recursive' loop is not supported");
    }
    ++loop_depth_;
    TREELINE_ASSIGN_OR_RETURN(node.body, ParseInnerBody(tag, kEnds));
    --loop_depth_;
    if (stream_.Take().text == "else") {
      TREELINE_ASSIGN_OR_RETURN(node.otherwise, ParseClosedBody(tag, "endfor"));
    } else {
      TREELINE_RETURN_IF_ERROR(ExpectBlockEnd());
    }
    return Make(tag, std::move(node));
  }

  StatusOr<Statement> ParseSet(const Token& tag) {
    TREELINE_ASSIGN_OR_RETURN(Target target, ParseTarget(/*with_attributes=*/true));
    if (stream_.TakeOperator("=")) {
      TREELINE_ASSIGN_OR_RETURN(ExpressionPtr value, expressions_.ParseTuple(true));
      TREELINE_RETURN_IF_ERROR(ExpectBlockEnd());
      return Make(tag, Set{std::move(target), std::move(value)});
    }
    TREELINE_ASSIGN_OR_RETURN(ExpressionPtr filter, expressions_.ParseFilters(nullptr));
    TREELINE_ASSIGN_OR_RETURN(Body body, ParseFrameBody(tag, "endset"));
    return Make(tag, SetBlock{std::move(target), std::move(filter), std::move(body)});
  }

  StatusOr<Statement> ParseMacro(const Token& tag) {
    MacroDefinition macro;
    TREELINE_ASSIGN_OR_RETURN(macro.name, ParseVariableName());
    TREELINE_RETURN_IF_ERROR(ParseParameters(&macro));
    TREELINE_ASSIGN_OR_RETURN(macro.body, ParseMacroBody(tag, "endmacro"));
    return Make(tag, std::move(macro));
  }

  StatusOr<Statement> ParseCallBlock(const Token& tag) {
    CallBlock node;
    node.caller.name = "caller";
    if (stream_.IsOperator("(")) TREELINE_RETURN_IF_ERROR(ParseParameters(&node.caller));
    TREELINE_ASSIGN_OR_RETURN(node.call, expressions_.Parse());
    if (!std::holds_alternative<Call>(node.call->node)) {
      return SyntaxError(tag.line, "'call' needs a call of a macro");
    }
    TREELINE_ASSIGN_OR_RETURN(node.caller.body, ParseMacroBody(tag, "endcall"));
    return Make(tag, std::move(node));
  }

  StatusOr<Statement> ParseFilterBlock(const Token& tag) {
    FilterBlock node;
    TREELINE_ASSIGN_OR_RETURN(node.filter, expressions_.ParseFilter(nullptr));
    TREELINE_ASSIGN_OR_RETURN(node.filter, expressions_.ParseFilters(std::move(node.filter)));
    TREELINE_ASSIGN_OR_RETURN(node.body, ParseFrameBody(tag, "endfilter"));
    return Make(tag, std::move(node));
  }

  StatusOr<Statement> ParseWith(const Token& tag) {
    With node;
    while (!stream_.Is(TokenType::kBlockEnd)) {
      if (!node.assignments.empty()) TREELINE_RETURN_IF_ERROR(stream_.ExpectOperator(","));
      TREELINE_ASSIGN_OR_RETURN(Target target, ParseTarget(/*with_attributes=*/false));
      TREELINE_RETURN_IF_ERROR(stream_.ExpectOperator("="));
      TREELINE_ASSIGN_OR_RETURN(ExpressionPtr value, expressions_.Parse());
      node.assignments.emplace_back(std::move(target), std::move(value));
    }
    TREELINE_ASSIGN_OR_RETURN(node.body, ParseClosedBody(tag, "endwith"));
    return Make(tag, std::move(node));
  }

  // Hugging Face's mark around what the assistant says, for training; it prints its body.
  StatusOr<Statement> ParseGeneration(const Token& tag) {
    With node;
    TREELINE_ASSIGN_OR_RETURN(node.body, ParseClosedBody(tag, "endgeneration"));
    return Make(tag, std::move(node));
  }

  StatusOr<Statement> ParsePrint(const Token& tag) {
    Concatenation parts;
    do {
      TREELINE_ASSIGN_OR_RETURN(parts.parts.emplace_back(), expressions_.Parse());
    } while (stream_.TakeOperator(","));
    TREELINE_RETURN_IF_ERROR(ExpectBlockEnd());
    return Make(tag, Output{std::make_unique<Expression>(Expression{tag.line, std::move(parts)})});
  }

  template <typename Node>
  StatusOr<Statement> ParseLoopControl(const Token& tag, Node node) {
    if (loop_depth_ == 0) return SyntaxError(tag.line, "'{}' outside loop", tag.text);
    TREELINE_RETURN_IF_ERROR(ExpectBlockEnd());
    return Make(tag, node);
  }

  // A body whose output is captured: no break can leave it.
  StatusOr<Body> ParseFrameBody(const Token& tag, std::string_view end) {
    const int outer_loops = std::exchange(loop_depth_, 0);
    TREELINE_ASSIGN_OR_RETURN(Body body, ParseClosedBody(tag, end));
    loop_depth_ = outer_loops;
    return body;
  }

  StatusOr<Body> ParseMacroBody(const Token& tag, std::string_view end) {
    const bool outer_macro = expressions_.in_macro();
    expressions_.set_in_macro(true);
    TREELINE_ASSIGN_OR_RETURN(Body body, ParseFrameBody(tag, end));
    expressions_.set_in_macro(outer_macro);
    return body;
  }

  Status ParseParameters(MacroDefinition* macro) {
    TREELINE_RETURN_IF_ERROR(stream_.ExpectOperator("("));
    if (stream_.TakeOperator(")")) return OkStatus();
    do {
      const int line = stream_.line();
      TREELINE_ASSIGN_OR_RETURN(const std::string_view name, ParseVariableName());
      ExpressionPtr default_value;
      if (stream_.TakeOperator("=")) {
        TREELINE_ASSIGN_OR_RETURN(default_value, expressions_.Parse());
      } else if (!macro->parameters.empty() && macro->parameters.back().second != nullptr) {
        return SyntaxError(line, "non-default argument follows default argument");
      }
      macro->parameters.emplace_back(name, std::move(default_value));
    } while (stream_.TakeOperator(","));
    return stream_.ExpectOperator(")");
  }

  StatusOr<std::string_view> ParseVariableName() {
    static constexpr std::string_view kConstants[] = {"true",  "True", "false",
                                                      "False", "none", "None"};
    const int line = stream_.line();
    TREELINE_ASSIGN_OR_RETURN(const std::string_view name, stream_.ExpectName("a name"));
    if (Contains(kConstants, name)) return SyntaxError(line, "can't assign to '{}'", name);
    return name;
  }

  StatusOr<Target> ParseTarget(bool with_attributes) {
    Target tuple;
    do {
      if (stream_.IsName("in") || stream_.IsOperator("=") || stream_.IsOperator(")")) break;
      TREELINE_ASSIGN_OR_RETURN(tuple.parts.emplace_back(), ParseTargetPart(with_attributes));
      if (tuple.parts.size() == 1 && !stream_.IsOperator(",")) return std::move(tuple.parts[0]);
    } while (stream_.TakeOperator(","));
    if (tuple.parts.empty()) return stream_.Unexpected("a name");
    return tuple;
  }

  StatusOr<Target> ParseTargetPart(bool with_attributes) {
    const NestingGuard guard(depth_);
    TREELINE_RETURN_IF_ERROR(guard.Check(stream_.line()));
    Target target;
    if (stream_.TakeOperator("(")) {
      TREELINE_ASSIGN_OR_RETURN(target, ParseTarget(with_attributes));
      TREELINE_RETURN_IF_ERROR(stream_.ExpectOperator(")"));
      return target;
    }
    TREELINE_ASSIGN_OR_RETURN(target.name, ParseVariableName());
    if (with_attributes && stream_.TakeOperator(".")) {
      TREELINE_ASSIGN_OR_RETURN(target.attribute, stream_.ExpectName("an attribute's name"));
    }
    return target;
  }

  TokenStream stream_;
  int depth_ = 0;
  int loop_depth_ = 0;
  ExpressionParser expressions_;
};

}  // namespace

StatusOr<std::unique_ptr<const Ast>> Parse(std::string_view source) {
  if (source.size() > kMaxSourceBytes) {
    return InvalidArgument("the template has {} bytes, more than the {} allowed", source.size(),
                           kMaxSourceBytes);
  }
  if (!IsUtf8(source)) return InvalidArgument("the template is not UTF-8");
  auto ast = std::make_unique<Ast>();
  ast->source = NormalizeSource(source);
  TREELINE_ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(ast->source, &ast->strings));
  Parser parser(TokenStream(std::move(tokens)), ast->strings);
  TREELINE_ASSIGN_OR_RETURN(ast->body, parser.ParseTemplate());
  return std::unique_ptr<const Ast>(std::move(ast));
}

}  // namespace treeline::jinja
