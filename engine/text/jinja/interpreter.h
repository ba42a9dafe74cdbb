// Runs a parsed template once. Not thread-safe; the tree is only read.
#ifndef TREELINE_ENGINE_TEXT_JINJA_INTERPRETER_H_
#define TREELINE_ENGINE_TEXT_JINJA_INTERPRETER_H_

#include <cstddef>
#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/base/status.h"
#include "engine/text/jinja/ast.h"
#include "engine/text/jinja/runtime.h"

namespace treeline::jinja {

// Statements, expressions and macro calls inside each other, while they run.
inline constexpr int kMaxCallDepth = 500;
inline constexpr size_t kMaxOutputBytes = size_t{16} << 20;

// The variables of a template, loop, macro or block. Those of the parents are seen, but
// {% set %} writes to the innermost.
struct Scope {
  Scope* parent = nullptr;
  std::unordered_map<std::string_view, Value> variables;
};

// A macro with the scope it was defined in.
struct Macro {
  const MacroDefinition* definition;
  Scope* scope;
};

class Interpreter {
 public:
  // Both must outlive the interpreter.
  Interpreter(const Ast& ast, Runtime& runtime) : ast_(ast), runtime_(runtime) {}

  // The output. Errors name the line.
  StatusOr<std::string> Run(const std::vector<std::pair<std::string_view, Value>>& variables);

 private:
  enum class Flow { kNext, kBreak, kContinue };

  // Counts one level of depth and remembers the line for errors.
  class Frame;

  // Statements.
  StatusOr<Flow> Execute(const Body& body);
  StatusOr<Flow> Execute(const Statement& statement);
  StatusOr<Flow> Do(const TextOutput& node);
  StatusOr<Flow> Do(const Output& node);
  StatusOr<Flow> Do(const If& node);
  StatusOr<Flow> Do(const For& node);
  StatusOr<Flow> Do(const Set& node);
  StatusOr<Flow> Do(const SetBlock& node);
  StatusOr<Flow> Do(const MacroDefinition& node);
  StatusOr<Flow> Do(const CallBlock& node);
  StatusOr<Flow> Do(const FilterBlock& node);
  StatusOr<Flow> Do(const With& node);
  StatusOr<Flow> Do(const Break&) { return Flow::kBreak; }
  StatusOr<Flow> Do(const Continue&) { return Flow::kContinue; }

  // Expressions.
  StatusOr<Value> Evaluate(const Expression& expression);
  // None where there is no expression.
  StatusOr<Value> EvaluateOptional(const ExpressionPtr& expression);
  StatusOr<Value> Get(const Constant& node) { return node.value; }
  StatusOr<Value> Get(const Name& node);
  StatusOr<Value> Get(const SequenceLiteral& node);
  StatusOr<Value> Get(const DictLiteral& node);
  StatusOr<Value> Get(const Negation& node);
  StatusOr<Value> Get(const Sign& node);
  StatusOr<Value> Get(const Binary& node);
  StatusOr<Value> Get(const Concatenation& node);
  StatusOr<Value> Get(const ComparisonChain& node);
  StatusOr<Value> Get(const Logical& node);
  StatusOr<Value> Get(const Conditional& node);
  StatusOr<Value> Get(const Attribute& node);
  StatusOr<Value> Get(const Subscript& node);
  StatusOr<Value> Get(const Slice& node);
  StatusOr<Value> Get(const Call& node);
  StatusOr<Value> Get(const BuiltinCall& node);

  StatusOr<Arguments> EvaluateArguments(const CallArguments& arguments);
  // `caller` is what the macro sees under that name: null but in a {% call %} block.
  StatusOr<Value> Invoke(const Value& callee, const Arguments& arguments, const Macro* caller);
  StatusOr<Value> InvokeMacro(const Macro& macro, const Arguments& arguments, const Macro* caller);
  Status BindParameters(const MacroDefinition& macro, const Arguments& arguments);

  StatusOr<const std::vector<Value>*> LoopItems(const For& node);
  StatusOr<Flow> RunLoop(const For& node, const std::vector<Value>& items);
  Status Assign(const Target& target, const Value& value);
  Status AssignAttribute(const Target& target, const Value& value);

  Status Print(std::string_view text);
  // What the body prints in a scope of its own.
  StatusOr<Value> Capture(const Body& body);
  // A filter chain of a block, applied to the block's text.
  StatusOr<Value> ApplyBlockFilter(const Expression& filter, const Value& text);

  StatusOr<Scope*> NewScope(Scope* parent);
  const Value* FindVariable(std::string_view name) const;

  const Ast& ast_;
  Runtime& runtime_;
  std::deque<Scope> scopes_;
  std::deque<Macro> macros_;
  std::deque<Loop> loops_;
  Scope* scope_ = nullptr;
  std::string* output_ = nullptr;
  Value block_text_;  // The subject of the filter of a block.
  int line_ = 0;      // Of the innermost node that runs; when one fails, of that.
  int depth_ = 0;
};

}  // namespace treeline::jinja

#endif  // TREELINE_ENGINE_TEXT_JINJA_INTERPRETER_H_
