// Statements; expressions are in evaluator.cc.
#include "engine/text/jinja/interpreter.h"

#include <algorithm>

#include "engine/text/jinja/format.h"
#include "engine/text/jinja/frame.h"
#include "engine/text/jinja/operators.h"

namespace treeline::jinja {

StatusOr<std::string> Interpreter::Run(
    const std::vector<std::pair<std::string_view, Value>>& variables) {
  TREELINE_ASSIGN_OR_RETURN(scope_, NewScope(nullptr));
  for (const auto& [name, value] : variables) scope_->variables[name] = value;
  std::string output;
  output_ = &output;
  const Status status = Execute(ast_.body).status();
  if (!status.ok()) return InvalidArgument("line {}: {}", line_, Message(status));
  return output;
}

StatusOr<Interpreter::Flow> Interpreter::Execute(const Body& body) {
  for (const Statement& statement : body) {
    TREELINE_ASSIGN_OR_RETURN(const Flow flow, Execute(statement));
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

StatusOr<Interpreter::Flow> Interpreter::Execute(const Statement& statement) {
  Frame frame(*this, statement.line);
  TREELINE_RETURN_IF_ERROR(frame.Check());
  return frame.Leave(std::visit([&](const auto& node) { return Do(node); }, statement.node));
}

StatusOr<Interpreter::Flow> Interpreter::Do(const TextOutput& node) {
  TREELINE_RETURN_IF_ERROR(Print(node.text));
  return Flow::kNext;
}

StatusOr<Interpreter::Flow> Interpreter::Do(const Output& node) {
  TREELINE_ASSIGN_OR_RETURN(const Value value, Evaluate(*node.value));
  TREELINE_ASSIGN_OR_RETURN(const std::string_view text, ToText(runtime_, value));
  TREELINE_RETURN_IF_ERROR(Print(text));
  return Flow::kNext;
}

StatusOr<Interpreter::Flow> Interpreter::Do(const If& node) {
  for (const auto& [test, body] : node.branches) {
    TREELINE_ASSIGN_OR_RETURN(const Value value, Evaluate(*test));
    if (IsTrue(value)) return Execute(body);
  }
  return Execute(node.otherwise);
}

StatusOr<Interpreter::Flow> Interpreter::Do(const For& node) {
  Scope* const outer = scope_;
  TREELINE_ASSIGN_OR_RETURN(const std::vector<Value>* items, LoopItems(node));
  TREELINE_ASSIGN_OR_RETURN(scope_, NewScope(outer));
  StatusOr<Flow> flow = items->empty() ? Execute(node.otherwise) : RunLoop(node, *items);
  scope_ = outer;
  return flow;
}

StatusOr<const std::vector<Value>*> Interpreter::LoopItems(const For& node) {
  TREELINE_ASSIGN_OR_RETURN(const Value iterable, Evaluate(*node.iterable));
  TREELINE_ASSIGN_OR_RETURN(const std::vector<Value>* items, Iterate(runtime_, iterable));
  if (node.filter == nullptr) return items;
  Scope* const outer = scope_;
  TREELINE_ASSIGN_OR_RETURN(scope_, NewScope(outer));
  std::vector<Value> selected;
  for (const Value& item : *items) {
    TREELINE_RETURN_IF_ERROR(Assign(node.target, item));
    TREELINE_ASSIGN_OR_RETURN(const Value wanted, Evaluate(*node.filter));
    if (IsTrue(wanted)) selected.push_back(item);
  }
  scope_ = outer;
  TREELINE_ASSIGN_OR_RETURN(const Value list,
                            runtime_.NewSequence(SequenceType::kList, std::move(selected)));
  return &list.sequence()->items;
}

StatusOr<Interpreter::Flow> Interpreter::RunLoop(const For& node, const std::vector<Value>& items) {
  TREELINE_RETURN_IF_ERROR(runtime_.Spend(sizeof(Loop)));
  Loop& loop = loops_.emplace_back(Loop{&items, 0});
  for (; loop.index < items.size(); ++loop.index) {
    TREELINE_RETURN_IF_ERROR(runtime_.Step());
    // What an iteration sets is gone in the next.
    scope_->variables.clear();
    scope_->variables["loop"] = Value(static_cast<const Loop*>(&loop));
    TREELINE_RETURN_IF_ERROR(Assign(node.target, items[loop.index]));
    TREELINE_ASSIGN_OR_RETURN(const Flow flow, Execute(node.body));
    if (flow == Flow::kBreak) break;
  }
  return Flow::kNext;
}

StatusOr<Interpreter::Flow> Interpreter::Do(const Set& node) {
  TREELINE_ASSIGN_OR_RETURN(const Value value, Evaluate(*node.value));
  TREELINE_RETURN_IF_ERROR(Assign(node.target, value));
  return Flow::kNext;
}

StatusOr<Interpreter::Flow> Interpreter::Do(const SetBlock& node) {
  TREELINE_ASSIGN_OR_RETURN(Value text, Capture(node.body));
  if (node.filter != nullptr) {
    TREELINE_ASSIGN_OR_RETURN(text, ApplyBlockFilter(*node.filter, text));
  }
  TREELINE_RETURN_IF_ERROR(Assign(node.target, text));
  return Flow::kNext;
}

StatusOr<Interpreter::Flow> Interpreter::Do(const MacroDefinition& node) {
  TREELINE_RETURN_IF_ERROR(runtime_.Spend(sizeof(Macro)));
  const Macro& macro = macros_.emplace_back(Macro{&node, scope_});
  scope_->variables[node.name] = Value(&macro);
  return Flow::kNext;
}

StatusOr<Interpreter::Flow> Interpreter::Do(const CallBlock& node) {
  const Call& call = std::get<Call>(node.call->node);
  TREELINE_ASSIGN_OR_RETURN(const Value callee, Evaluate(*call.callee));
  TREELINE_ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(call.arguments));
  TREELINE_RETURN_IF_ERROR(runtime_.Spend(sizeof(Macro)));
  const Macro& caller = macros_.emplace_back(Macro{&node.caller, scope_});
  TREELINE_ASSIGN_OR_RETURN(const Value result, Invoke(callee, arguments, &caller));
  TREELINE_ASSIGN_OR_RETURN(const std::string_view text, ToText(runtime_, result));
  TREELINE_RETURN_IF_ERROR(Print(text));
  return Flow::kNext;
}

StatusOr<Interpreter::Flow> Interpreter::Do(const FilterBlock& node) {
  TREELINE_ASSIGN_OR_RETURN(const Value captured, Capture(node.body));
  TREELINE_ASSIGN_OR_RETURN(const Value filtered, ApplyBlockFilter(*node.filter, captured));
  TREELINE_ASSIGN_OR_RETURN(const std::string_view text, ToText(runtime_, filtered));
  TREELINE_RETURN_IF_ERROR(Print(text));
  return Flow::kNext;
}

StatusOr<Interpreter::Flow> Interpreter::Do(const With& node) {
  std::vector<Value> values;  // All are evaluated before any is assigned.
  for (const auto& [target, expression] : node.assignments) {
    TREELINE_ASSIGN_OR_RETURN(values.emplace_back(), Evaluate(*expression));
  }
  Scope* const outer = scope_;
  TREELINE_ASSIGN_OR_RETURN(scope_, NewScope(outer));
  for (size_t i = 0; i < values.size(); ++i) {
    TREELINE_RETURN_IF_ERROR(Assign(node.assignments[i].first, values[i]));
  }
  StatusOr<Flow> flow = Execute(node.body);
  scope_ = outer;
  return flow;
}

Status Interpreter::Assign(const Target& target, const Value& value) {
  if (target.parts.empty()) {
    if (!target.attribute.empty()) return AssignAttribute(target, value);
    scope_->variables[target.name] = value;
    return OkStatus();
  }
  if (!IsIterable(value)) {
    return InvalidArgument("cannot unpack non-iterable {} object", TypeName(value));
  }
  TREELINE_ASSIGN_OR_RETURN(const std::vector<Value>* items, Iterate(runtime_, value));
  const size_t expected = target.parts.size();
  if (items->size() < expected) {
    return InvalidArgument("not enough values to unpack (expected {}, got {})", expected,
                           items->size());
  }
  if (items->size() > expected) {
    return InvalidArgument("too many values to unpack (expected {})", expected);
  }
  for (size_t i = 0; i < expected; ++i) {
    TREELINE_RETURN_IF_ERROR(Assign(target.parts[i], (*items)[i]));
  }
  return OkStatus();
}

Status Interpreter::AssignAttribute(const Target& target, const Value& value) {
  const Value* variable = FindVariable(target.name);
  if (variable == nullptr || variable->attributes() == nullptr) {
    return InvalidArgument("cannot assign attribute on non-namespace object");
  }
  TREELINE_RETURN_IF_ERROR(runtime_.Spend(2 * sizeof(Dict::Entry)));
  variable->attributes()->attributes.Set(Value(target.attribute), value);
  return OkStatus();
}

Status Interpreter::Print(std::string_view text) {
  TREELINE_RETURN_IF_ERROR(runtime_.Spend(text.size()));
  if (text.size() > kMaxOutputBytes - output_->size()) {
    return InvalidArgument("prints more than {} MiB", kMaxOutputBytes >> 20);
  }
  *output_ += text;
  return OkStatus();
}

StatusOr<Value> Interpreter::Capture(const Body& body) {
  Scope* const outer = scope_;
  TREELINE_ASSIGN_OR_RETURN(scope_, NewScope(outer));
  std::string captured;
  std::string* const outer_output = std::exchange(output_, &captured);
  const Status status = Execute(body).status();
  output_ = outer_output;
  scope_ = outer;
  TREELINE_RETURN_IF_ERROR(status);
  return runtime_.NewText(std::move(captured));
}

StatusOr<Value> Interpreter::ApplyBlockFilter(const Expression& filter, const Value& text) {
  const Value outer = std::exchange(block_text_, text);
  StatusOr<Value> filtered = Evaluate(filter);
  block_text_ = outer;
  return filtered;
}

StatusOr<Scope*> Interpreter::NewScope(Scope* parent) {
  TREELINE_RETURN_IF_ERROR(runtime_.Spend(sizeof(Scope)));
  return &scopes_.emplace_back(Scope{parent, {}});
}

const Value* Interpreter::FindVariable(std::string_view name) const {
  for (const Scope* scope = scope_; scope != nullptr; scope = scope->parent) {
    const auto found = scope->variables.find(name);
    if (found != scope->variables.end()) return &found->second;
  }
  return nullptr;
}

}  // namespace treeline::jinja
