// The tests after `is`, and those that select() and its kin take by name.
#include <algorithm>

#include "engine/text/jinja/arguments.h"
#include "engine/text/jinja/builtins.h"
#include "engine/text/jinja/format.h"
#include "engine/text/jinja/operators.h"
#include "engine/text/jinja/unicode.h"

namespace treeline::jinja {
namespace {

using Predicate = bool (*)(const Value& value);

template <Predicate predicate>
StatusOr<Value> Check(Runtime&, const Value& self, const Arguments& arguments) {
  TREELINE_RETURN_IF_ERROR(BoundArguments::Bind("the test", arguments, {}).status());
  return Value(predicate(self));
}

template <Comparison comparison>
StatusOr<Value> CompareWith(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_ASSIGN_OR_RETURN(const auto bound,
                            BoundArguments::Bind("the test", arguments, {"other"}, 1));
  TREELINE_ASSIGN_OR_RETURN(const bool holds, Compare(runtime, comparison, self, bound.Get(0)));
  return Value(holds);
}

bool IsDefined(const Value& value) { return !value.is_undefined(); }
bool IsUndefined(const Value& value) { return value.is_undefined(); }
bool IsNone(const Value& value) { return value.is_none(); }
bool IsBoolean(const Value& value) { return value.is_bool(); }
bool IsTheTrue(const Value& value) { return value.is_bool() && value.bool_value(); }
bool IsTheFalse(const Value& value) { return value.is_bool() && !value.bool_value(); }
bool IsInteger(const Value& value) { return value.is_integral() && !value.is_bool(); }
bool IsFloat(const Value& value) { return value.is_float(); }
bool IsNumber(const Value& value) { return value.is_number(); }
bool IsString(const Value& value) { return value.is_text(); }
bool IsMapping(const Value& value) { return value.dict() != nullptr; }
// What is undefined has a __call__, which raises.
bool IsCallableValue(const Value& value) { return value.is_callable() || value.is_undefined(); }
bool IsEscaped(const Value& value) { return value.is_markup(); }

// What has a length and takes subscripts.
bool IsSequence(const Value& value) {
  if (value.is_undefined() || value.is_text() || value.dict() != nullptr) return true;
  const Sequence* sequence = value.sequence();
  return sequence != nullptr &&
         (sequence->type == SequenceType::kList || sequence->type == SequenceType::kTuple ||
          sequence->type == SequenceType::kRange);
}

StatusOr<Value> IsSameAs(Runtime&, const Value& self, const Arguments& arguments) {
  TREELINE_ASSIGN_OR_RETURN(const auto bound,
                            BoundArguments::Bind("sameas", arguments, {"other"}, 1));
  return Value(self.IsSameAs(bound.Get(0)));
}

StatusOr<Value> RemainderIs(Runtime& runtime, const Value& value, int64_t divisor,
                            int64_t remainder) {
  TREELINE_ASSIGN_OR_RETURN(const Value actual,
                            Apply(runtime, BinaryOperator::kModulo, value, Value(divisor)));
  TREELINE_ASSIGN_OR_RETURN(const bool equal, IsEqual(runtime, actual, Value(remainder)));
  return Value(equal);
}

StatusOr<Value> IsOdd(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_RETURN_IF_ERROR(BoundArguments::Bind("odd", arguments, {}).status());
  return RemainderIs(runtime, self, 2, 1);
}

StatusOr<Value> IsEven(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_RETURN_IF_ERROR(BoundArguments::Bind("even", arguments, {}).status());
  return RemainderIs(runtime, self, 2, 0);
}

StatusOr<Value> IsDivisibleBy(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_ASSIGN_OR_RETURN(const auto bound,
                            BoundArguments::Bind("divisibleby", arguments, {"num"}, 1));
  TREELINE_ASSIGN_OR_RETURN(const int64_t divisor, bound.GetInteger(0, 1));
  return RemainderIs(runtime, self, divisor, 0);
}

// Whether there are cased characters, and all are already as `convert` makes them.
StatusOr<Value> IsAllCase(Runtime& runtime, const Value& value,
                          std::string (*convert)(std::string_view)) {
  TREELINE_ASSIGN_OR_RETURN(const std::string_view text, ToText(runtime, value));
  TREELINE_RETURN_IF_ERROR(runtime.Spend(text.size()));
  bool cased = false;
  for (std::string_view rest = text; !rest.empty() && !cased;) {
    const Character character = FirstCharacter(rest);
    cased = IsCased(character.code);
    rest.remove_prefix(character.size);
  }
  return Value(cased && convert(text) == text);
}

StatusOr<Value> IsLower(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_RETURN_IF_ERROR(BoundArguments::Bind("lower", arguments, {}).status());
  return IsAllCase(runtime, self, ToLower);
}

StatusOr<Value> IsUpper(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_RETURN_IF_ERROR(BoundArguments::Bind("upper", arguments, {}).status());
  return IsAllCase(runtime, self, ToUpper);
}

constexpr Builtin kTests[] = {
    {"!=", CompareWith<Comparison::kNotEqual>},
    {"<", CompareWith<Comparison::kLess>},
    {"<=", CompareWith<Comparison::kLessEqual>},
    {"==", CompareWith<Comparison::kEqual>},
    {">", CompareWith<Comparison::kGreater>},
    {">=", CompareWith<Comparison::kGreaterEqual>},
    {"boolean", Check<IsBoolean>},
    {"callable", Check<IsCallableValue>},
    {"defined", Check<IsDefined>},
    {"divisibleby", IsDivisibleBy},
    {"eq", CompareWith<Comparison::kEqual>},
    {"equalto", CompareWith<Comparison::kEqual>},
    {"escaped", Check<IsEscaped>},
    {"even", IsEven},
    {"false", Check<IsTheFalse>},
    {"float", Check<IsFloat>},
    {"ge", CompareWith<Comparison::kGreaterEqual>},
    {"greaterthan", CompareWith<Comparison::kGreater>},
    {"gt", CompareWith<Comparison::kGreater>},
    {"in", CompareWith<Comparison::kIn>},
    {"integer", Check<IsInteger>},
    {"iterable", Check<IsIterable>},
    {"le", CompareWith<Comparison::kLessEqual>},
    {"lessthan", CompareWith<Comparison::kLess>},
    {"lower", IsLower},
    {"lt", CompareWith<Comparison::kLess>},
    {"mapping", Check<IsMapping>},
    {"ne", CompareWith<Comparison::kNotEqual>},
    {"none", Check<IsNone>},
    {"number", Check<IsNumber>},
    {"odd", IsOdd},
    {"sameas", IsSameAs},
    {"sequence", Check<IsSequence>},
    {"string", Check<IsString>},
    {"true", Check<IsTheTrue>},
    {"undefined", Check<IsUndefined>},
    {"upper", IsUpper},
};

}  // namespace

const Builtin* FindTest(std::string_view name) {
  const auto* found = std::find_if(std::begin(kTests), std::end(kTests),
                                   [&](const Builtin& test) { return test.name == name; });
  return found == std::end(kTests) ? nullptr : found;
}

}  // namespace treeline::jinja
