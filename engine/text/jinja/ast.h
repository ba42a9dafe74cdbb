// The tree of a parsed template. Names and literals view the Ast's own source and strings.
#ifndef TREELINE_ENGINE_TEXT_JINJA_AST_H_
#define TREELINE_ENGINE_TEXT_JINJA_AST_H_

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "engine/text/jinja/operators.h"
#include "engine/text/jinja/runtime.h"
#include "engine/text/jinja/value.h"

namespace treeline::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct CallArguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string_view, ExpressionPtr>> named;
};

struct Constant {
  Value value;
};
struct Name {
  std::string_view name;
};
struct SequenceLiteral {
  SequenceType type;  // kList or kTuple.
  std::vector<ExpressionPtr> items;
};
struct DictLiteral {
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> entries;
};
struct Negation {  // not
  ExpressionPtr operand;
};
struct Sign {  // Unary - and +.
  bool negative;
  ExpressionPtr operand;
};
struct Binary {
  BinaryOperator operation;
  ExpressionPtr left;
  ExpressionPtr right;
};
struct Concatenation {  // ~
  std::vector<ExpressionPtr> parts;
};
struct ComparisonChain {  // first op operand op operand ...
  ExpressionPtr first;
  std::vector<std::pair<Comparison, ExpressionPtr>> rest;
};
struct Logical {  // and, or
  bool is_and;
  ExpressionPtr left;
  ExpressionPtr right;
};
struct Conditional {
  ExpressionPtr test;
  ExpressionPtr then;
  ExpressionPtr otherwise;  // May be null.
};
struct Attribute {
  ExpressionPtr object;
  std::string_view name;
};
struct Subscript {
  ExpressionPtr object;
  ExpressionPtr key;
};
struct Slice {
  ExpressionPtr object;
  ExpressionPtr start;  // Each may be null.
  ExpressionPtr stop;
  ExpressionPtr step;
};
struct Call {
  ExpressionPtr callee;
  CallArguments arguments;
};
// subject|name(...) and subject is name(...).
struct BuiltinCall {
  const Builtin* builtin;
  ExpressionPtr subject;  // Null for the first filter of a {% filter %} or {% set %} block.
  CallArguments arguments;
};

struct Expression {
  int line;
  std::variant<Constant, Name, SequenceLiteral, DictLiteral, Negation, Sign, Binary, Concatenation,
               ComparisonChain, Logical, Conditional, Attribute, Subscript, Slice, Call,
               BuiltinCall>
      node;
};

// What an assignment names: `x`, `ns.x`, or `a, b` to unpack into.
struct Target {
  std::string_view name;       // Of the variable or of the namespace.
  std::string_view attribute;  // Of the namespace; empty for a variable.
  std::vector<Target> parts;   // Not empty: unpacks, and the rest is unused.
};

struct Statement;
using Body = std::vector<Statement>;

struct TextOutput {
  std::string_view text;
};
struct Output {
  ExpressionPtr value;
};
struct If {
  std::vector<std::pair<ExpressionPtr, Body>> branches;
  Body otherwise;
};
struct For {
  Target target;
  ExpressionPtr iterable;
  ExpressionPtr filter;  // May be null.
  Body body;
  Body otherwise;
};
struct Set {
  Target target;
  ExpressionPtr value;
};
struct SetBlock {
  Target target;
  ExpressionPtr filter;  // May be null.
  Body body;
};
struct MacroDefinition {
  std::string_view name;
  std::vector<std::pair<std::string_view, ExpressionPtr>> parameters;  // With default, or null.
  Body body;
};
struct CallBlock {
  MacroDefinition caller;
  ExpressionPtr call;  // Its node is a Call.
};
struct FilterBlock {
  ExpressionPtr filter;
  Body body;
};
struct With {
  std::vector<std::pair<Target, ExpressionPtr>> assignments;
  Body body;
};
struct Break {};
struct Continue {};

struct Statement {
  int line;
  std::variant<TextOutput, Output, If, For, Set, SetBlock, MacroDefinition, CallBlock, FilterBlock,
               With, Break, Continue>
      node;
};

struct Ast {
  std::string source;
  std::deque<std::string> strings;
  Body body;
};

}  // namespace treeline::jinja

#endif  // TREELINE_ENGINE_TEXT_JINJA_AST_H_
