#include <cmath>
#include <limits>
#include <string>

#include "engine/text/jinja/format.h"
#include "engine/text/jinja/operators.h"

namespace treeline::jinja {
namespace {

std::string_view Symbol(BinaryOperator operation) {
  switch (operation) {
    case BinaryOperator::kAdd:
      return "+";
    case BinaryOperator::kSubtract:
      return "-";
    case BinaryOperator::kMultiply:
      return "*";
    case BinaryOperator::kDivide:
      return "/";
    case BinaryOperator::kFloorDivide:
      return "//";
    case BinaryOperator::kModulo:
      return "%";
    case BinaryOperator::kPower:
      return "** or pow()";
  }
  return "?";
}

Status Overflow() { return InvalidArgument("an integer beyond 64 bits is not supported"); }

Status UnsupportedOperands(BinaryOperator operation, const Value& left, const Value& right) {
  return InvalidArgument("unsupported operand type(s) for {}: '{}' and '{}'", Symbol(operation),
                         TypeName(left), TypeName(right));
}

double FloorModulo(double left, double right) {
  const double remainder = std::fmod(left, right);
  return remainder != 0 && (remainder < 0) != (right < 0) ? remainder + right : remainder;
}

StatusOr<Value> IntegerPower(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) return InvalidArgument("0.0 cannot be raised to a negative power");
    return Value(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  int64_t power = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(power, base, &power)) return Overflow();
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) return Overflow();
  }
  return Value(power);
}

StatusOr<Value> IntegerDivide(BinaryOperator operation, int64_t left, int64_t right) {
  if (right == 0) {
    return InvalidArgument("{}", operation == BinaryOperator::kDivide ? "division by zero"
                                 : operation == BinaryOperator::kModulo
                                     ? "integer modulo by zero"
                                     : "integer division or modulo by zero");
  }
  if (operation == BinaryOperator::kDivide) {
    return Value(static_cast<double>(left) / static_cast<double>(right));
  }
  if (right == -1) {  // The quotient may overflow and the remainder trap.
    if (operation == BinaryOperator::kModulo) return Value(int64_t{0});
    if (left == std::numeric_limits<int64_t>::min()) return Overflow();
  }
  const bool rounds_up = left % right != 0 && (left < 0) != (right < 0);
  if (operation == BinaryOperator::kFloorDivide) return Value(left / right - (rounds_up ? 1 : 0));
  return Value(left % right + (rounds_up ? right : 0));
}

StatusOr<Value> ApplyToIntegers(BinaryOperator operation, int64_t left, int64_t right) {
  int64_t result = 0;
  bool overflows = false;
  switch (operation) {
    case BinaryOperator::kAdd:
      overflows = __builtin_add_overflow(left, right, &result);
      break;
    case BinaryOperator::kSubtract:
      overflows = __builtin_sub_overflow(left, right, &result);
      break;
    case BinaryOperator::kMultiply:
      overflows = __builtin_mul_overflow(left, right, &result);
      break;
    case BinaryOperator::kPower:
      return IntegerPower(left, right);
    default:
      return IntegerDivide(operation, left, right);
  }
  if (overflows) return Overflow();
  return Value(result);
}

StatusOr<Value> ApplyToFloats(BinaryOperator operation, double left, double right) {
  switch (operation) {
    case BinaryOperator::kAdd:
      return Value(left + right);
    case BinaryOperator::kSubtract:
      return Value(left - right);
    case BinaryOperator::kMultiply:
      return Value(left * right);
    case BinaryOperator::kDivide:
      if (right == 0) return InvalidArgument("float division by zero");
      return Value(left / right);
    case BinaryOperator::kFloorDivide:
      if (right == 0) return InvalidArgument("float floor division by zero");
      return Value(std::round((left - FloorModulo(left, right)) / right));
    case BinaryOperator::kModulo:
      if (right == 0) return InvalidArgument("float modulo");
      return Value(FloorModulo(left, right));
    case BinaryOperator::kPower:
      if (left == 0 && right < 0) {
        return InvalidArgument("0.0 cannot be raised to a negative power");
      }
      const double power = std::pow(left, right);
      if (std::isnan(power) && !std::isnan(left) && !std::isnan(right)) {
        return InvalidArgument("complex numbers are not supported");
      }
      if (std::isinf(power) && std::isfinite(left) && std::isfinite(right)) {
        return InvalidArgument("Numerical result out of range");
      }
      return Value(power);
  }
  return UnsupportedOperands(operation, Value(left), Value(right));
}

StatusOr<Value> ConcatenateTexts(Runtime& runtime, const Value& left, const Value& right) {
  const bool markup = left.is_markup() || right.is_markup();
  const auto part = [&](const Value& value) {
    return markup && !value.is_markup() ? EscapeHtml(value.text()) : std::string(value.text());
  };
  TREELINE_RETURN_IF_ERROR(runtime.Spend(left.text().size() + right.text().size()));
  return runtime.NewText(part(left) + part(right), markup);
}

StatusOr<Value> Add(Runtime& runtime, const Value& left, const Value& right) {
  if (left.is_text()) {
    if (right.is_text()) return ConcatenateTexts(runtime, left, right);
    return InvalidArgument("can only concatenate str (not \"{}\") to str", TypeName(right));
  }
  const Sequence* first = left.sequence();
  const Sequence* second = right.sequence();
  const bool is_list_or_tuple = first != nullptr && (first->type == SequenceType::kList ||
                                                     first->type == SequenceType::kTuple);
  if (!is_list_or_tuple) return UnsupportedOperands(BinaryOperator::kAdd, left, right);
  if (second == nullptr || second->type != first->type) {
    return InvalidArgument("can only concatenate {0} (not \"{1}\") to {0}", TypeName(left),
                           TypeName(right));
  }
  TREELINE_RETURN_IF_ERROR(
      runtime.Spend((first->items.size() + second->items.size()) * sizeof(Value)));
  std::vector<Value> items = first->items;
  items.insert(items.end(), second->items.begin(), second->items.end());
  return runtime.NewSequence(first->type, std::move(items));
}

// Text or a list times a number. The size is charged before anything is made.
StatusOr<Value> Repeat(Runtime& runtime, const Value& value, int64_t count) {
  const size_t times = count > 0 ? static_cast<size_t>(count) : 0;
  const size_t size =
      value.is_text() ? value.text().size() : value.sequence()->items.size() * sizeof(Value);
  if (size > 0 && times > kMaxBytes / size) return runtime.Spend(kMaxBytes + 1);
  TREELINE_RETURN_IF_ERROR(runtime.Spend(size * times));
  if (value.is_text()) {
    std::string text;
    text.reserve(size * times);
    for (size_t i = 0; size > 0 && i < times; ++i) text += value.text();
    return runtime.NewText(std::move(text), value.is_markup());
  }
  const std::vector<Value>& items = value.sequence()->items;
  std::vector<Value> repeated;
  for (size_t i = 0; size > 0 && i < times; ++i) {
    repeated.insert(repeated.end(), items.begin(), items.end());
  }
  return runtime.NewSequence(value.sequence()->type, std::move(repeated));
}

bool IsRepeatable(const Value& value) {
  const Sequence* sequence = value.sequence();
  return value.is_text() || (sequence != nullptr && (sequence->type == SequenceType::kList ||
                                                     sequence->type == SequenceType::kTuple));
}

StatusOr<Value> Multiply(Runtime& runtime, const Value& left, const Value& right) {
  const bool left_repeats = IsRepeatable(left);
  if (!left_repeats && !IsRepeatable(right)) {
    return UnsupportedOperands(BinaryOperator::kMultiply, left, right);
  }
  const Value& count = left_repeats ? right : left;
  if (!count.is_integral()) {
    return InvalidArgument("can't multiply sequence by non-int of type '{}'", TypeName(count));
  }
  return Repeat(runtime, left_repeats ? left : right, count.integer());
}

}  // namespace

StatusOr<Value> Apply(Runtime& runtime, BinaryOperator operation, const Value& left,
                      const Value& right) {
  if (left.is_undefined()) return UndefinedError(runtime, *left.missing());
  if (right.is_undefined()) return UndefinedError(runtime, *right.missing());
  if (left.is_integral() && right.is_integral()) {
    return ApplyToIntegers(operation, left.integer(), right.integer());
  }
  if (left.is_number() && right.is_number()) {
    return ApplyToFloats(operation, left.number(), right.number());
  }
  if (operation == BinaryOperator::kAdd) return Add(runtime, left, right);
  if (operation == BinaryOperator::kMultiply) return Multiply(runtime, left, right);
  if (operation == BinaryOperator::kModulo && left.is_text()) {
    return InvalidArgument("formatting text with % is not supported; use ~");
  }
  return UnsupportedOperands(operation, left, right);
}

StatusOr<Value> Negate(Runtime& runtime, const Value& value) {
  if (value.is_undefined()) return UndefinedError(runtime, *value.missing());
  if (value.is_float()) return Value(-value.number());
  if (!value.is_integral()) {
    return InvalidArgument("bad operand type for unary -: '{}'", TypeName(value));
  }
  return ApplyToIntegers(BinaryOperator::kSubtract, 0, value.integer());
}

}  // namespace treeline::jinja
