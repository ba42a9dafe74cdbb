// The interpreter's expressions and calls.
#include <algorithm>
#include <string>

#include "engine/text/jinja/builtins.h"
#include "engine/text/jinja/format.h"
#include "engine/text/jinja/frame.h"
#include "engine/text/jinja/interpreter.h"
#include "engine/text/jinja/operators.h"

namespace treeline::jinja {

StatusOr<Value> Interpreter::Evaluate(const Expression& expression) {
  Frame frame(*this, expression.line);
  TREELINE_RETURN_IF_ERROR(frame.Check());
  return frame.Leave(std::visit([&](const auto& node) { return Get(node); }, expression.node));
}

StatusOr<Value> Interpreter::EvaluateOptional(const ExpressionPtr& expression) {
  return expression == nullptr ? StatusOr<Value>(Value()) : Evaluate(*expression);
}

StatusOr<Value> Interpreter::Get(const Name& node) {
  if (const Value* value = FindVariable(node.name)) return *value;
  if (const Builtin* function = FindFunction(node.name)) {
    return runtime_.NewCallable(function, Value());
  }
  return runtime_.NewUndefined({Missing::Reason::kName, Value(), Value(node.name)});
}

StatusOr<Value> Interpreter::Get(const SequenceLiteral& node) {
  std::vector<Value> items;
  items.reserve(node.items.size());
  for (const ExpressionPtr& item : node.items) {
    TREELINE_ASSIGN_OR_RETURN(items.emplace_back(), Evaluate(*item));
  }
  return runtime_.NewSequence(node.type, std::move(items));
}

StatusOr<Value> Interpreter::Get(const DictLiteral& node) {
  std::vector<Dict::Entry> entries;
  for (const auto& [key_expression, value_expression] : node.entries) {
    TREELINE_ASSIGN_OR_RETURN(const Value key, Evaluate(*key_expression));
    TREELINE_ASSIGN_OR_RETURN(const Value value, Evaluate(*value_expression));
    entries.emplace_back(key, value);
  }
  return runtime_.NewDict(std::move(entries));
}

StatusOr<Value> Interpreter::Get(const Negation& node) {
  TREELINE_ASSIGN_OR_RETURN(const Value operand, Evaluate(*node.operand));
  return Value(!IsTrue(operand));
}

StatusOr<Value> Interpreter::Get(const Sign& node) {
  TREELINE_ASSIGN_OR_RETURN(const Value operand, Evaluate(*node.operand));
  if (node.negative) return Negate(runtime_, operand);
  if (operand.is_undefined()) return UndefinedError(runtime_, *operand.missing());
  if (operand.is_float()) return operand;
  if (operand.is_integral()) return Value(operand.integer());
  return InvalidArgument("bad operand type for unary +: '{}'", TypeName(operand));
}

StatusOr<Value> Interpreter::Get(const Binary& node) {
  TREELINE_ASSIGN_OR_RETURN(const Value left, Evaluate(*node.left));
  TREELINE_ASSIGN_OR_RETURN(const Value right, Evaluate(*node.right));
  return Apply(runtime_, node.operation, left, right);
}

StatusOr<Value> Interpreter::Get(const Concatenation& node) {
  std::string text;
  for (const ExpressionPtr& part : node.parts) {
    TREELINE_ASSIGN_OR_RETURN(const Value value, Evaluate(*part));
    TREELINE_ASSIGN_OR_RETURN(const std::string_view part_text, ToText(runtime_, value));
    TREELINE_RETURN_IF_ERROR(runtime_.Spend(part_text.size()));
    text += part_text;
  }
  return runtime_.NewText(std::move(text));
}

StatusOr<Value> Interpreter::Get(const ComparisonChain& node) {
  TREELINE_ASSIGN_OR_RETURN(Value left, Evaluate(*node.first));
  for (const auto& [comparison, operand] : node.rest) {
    TREELINE_ASSIGN_OR_RETURN(const Value right, Evaluate(*operand));
    TREELINE_ASSIGN_OR_RETURN(const bool holds, Compare(runtime_, comparison, left, right));
    if (!holds) return Value(false);
    left = right;
  }
  return Value(true);
}

StatusOr<Value> Interpreter::Get(const Logical& node) {
  TREELINE_ASSIGN_OR_RETURN(const Value left, Evaluate(*node.left));
  return IsTrue(left) == node.is_and ? Evaluate(*node.right) : StatusOr<Value>(left);
}

StatusOr<Value> Interpreter::Get(const Conditional& node) {
  TREELINE_ASSIGN_OR_RETURN(const Value test, Evaluate(*node.test));
  if (IsTrue(test)) return Evaluate(*node.then);
  if (node.otherwise != nullptr) return Evaluate(*node.otherwise);
  return runtime_.NewUndefinedHint(
      fmt::format("the inline if-expression on line {} evaluated to false and no else section was "
                  "defined.",
                  line_));
}

StatusOr<Value> Interpreter::Get(const Attribute& node) {
  TREELINE_ASSIGN_OR_RETURN(const Value object, Evaluate(*node.object));
  return GetAttribute(runtime_, object, node.name);
}

StatusOr<Value> Interpreter::Get(const Subscript& node) {
  TREELINE_ASSIGN_OR_RETURN(const Value object, Evaluate(*node.object));
  TREELINE_ASSIGN_OR_RETURN(const Value key, Evaluate(*node.key));
  return GetItem(runtime_, object, key);
}

StatusOr<Value> Interpreter::Get(const Slice& node) {
  TREELINE_ASSIGN_OR_RETURN(const Value object, Evaluate(*node.object));
  SliceBounds bounds;
  TREELINE_ASSIGN_OR_RETURN(bounds.start, EvaluateOptional(node.start));
  TREELINE_ASSIGN_OR_RETURN(bounds.stop, EvaluateOptional(node.stop));
  TREELINE_ASSIGN_OR_RETURN(bounds.step, EvaluateOptional(node.step));
  return GetSlice(runtime_, object, bounds);
}

StatusOr<Value> Interpreter::Get(const Call& node) {
  TREELINE_ASSIGN_OR_RETURN(const Value callee, Evaluate(*node.callee));
  TREELINE_ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(node.arguments));
  return Invoke(callee, arguments, /*caller=*/nullptr);
}

StatusOr<Value> Interpreter::Get(const BuiltinCall& node) {
  Value subject = block_text_;
  if (node.subject != nullptr) {
    TREELINE_ASSIGN_OR_RETURN(subject, Evaluate(*node.subject));
  }
  TREELINE_ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(node.arguments));
  return node.builtin->run(runtime_, subject, arguments);
}

StatusOr<Arguments> Interpreter::EvaluateArguments(const CallArguments& arguments) {
  Arguments values;
  for (const ExpressionPtr& expression : arguments.positional) {
    TREELINE_ASSIGN_OR_RETURN(values.positional.emplace_back(), Evaluate(*expression));
  }
  for (const auto& [name, expression] : arguments.named) {
    TREELINE_ASSIGN_OR_RETURN(const Value value, Evaluate(*expression));
    values.named.emplace_back(name, value);
  }
  return values;
}

StatusOr<Value> Interpreter::Invoke(const Value& callee, const Arguments& arguments,
                                    const Macro* caller) {
  if (const Macro* macro = callee.macro()) return InvokeMacro(*macro, arguments, caller);
  if (callee.is_undefined()) return UndefinedError(runtime_, *callee.missing());
  const Callable* callable = callee.callable();
  if (callable == nullptr || caller != nullptr) {
    return InvalidArgument("'{}' object is not {}", TypeName(callee),
                           caller == nullptr ? "callable" : "a macro");
  }
  return callable->builtin->run(runtime_, callable->self, arguments);
}

StatusOr<Value> Interpreter::InvokeMacro(const Macro& macro, const Arguments& arguments,
                                         const Macro* caller) {
  Scope* const outer = scope_;
  TREELINE_ASSIGN_OR_RETURN(scope_, NewScope(macro.scope));
  if (caller != nullptr) scope_->variables["caller"] = Value(caller);
  TREELINE_RETURN_IF_ERROR(BindParameters(*macro.definition, arguments));
  TREELINE_ASSIGN_OR_RETURN(const Value text, Capture(macro.definition->body));
  scope_ = outer;
  return text;
}

Status Interpreter::BindParameters(const MacroDefinition& macro, const Arguments& arguments) {
  const auto& parameters = macro.parameters;
  if (arguments.positional.size() > parameters.size()) {
    return InvalidArgument("macro '{}' takes not more than {} argument(s)", macro.name,
                           parameters.size());
  }
  for (const auto& [name, value] : arguments.named) {
    const auto parameter =
        std::find_if(parameters.begin(), parameters.end(),
                     [&name = name](const auto& entry) { return entry.first == name; });
    if (parameter == parameters.end()) {
      return InvalidArgument("macro '{}' takes no keyword argument '{}'", macro.name, name);
    }
    if (parameter - parameters.begin() < std::ssize(arguments.positional)) {
      return InvalidArgument("macro '{}' got two values for the argument '{}'", macro.name, name);
    }
    scope_->variables[name] = value;
  }
  for (size_t i = 0; i < parameters.size(); ++i) {
    const auto& [name, default_value] = parameters[i];
    if (i < arguments.positional.size()) {
      scope_->variables[name] = arguments.positional[i];
    } else if (scope_->variables.contains(name)) {
      continue;
    } else if (default_value != nullptr) {
      // In the macro's scope: a default may use the parameters before it.
      TREELINE_ASSIGN_OR_RETURN(scope_->variables[name], Evaluate(*default_value));
    } else {
      TREELINE_ASSIGN_OR_RETURN(
          scope_->variables[name],
          runtime_.NewUndefinedHint(fmt::format("parameter '{}' was not provided", name)));
    }
  }
  return OkStatus();
}

}  // namespace treeline::jinja
