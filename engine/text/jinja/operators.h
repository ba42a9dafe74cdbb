// Python's operators on values. Errors carry the text of Python's exception.
#ifndef TREELINE_ENGINE_TEXT_JINJA_OPERATORS_H_
#define TREELINE_ENGINE_TEXT_JINJA_OPERATORS_H_

#include <optional>
#include <string_view>
#include <vector>

#include "engine/base/status.h"
#include "engine/text/jinja/runtime.h"

namespace treeline::jinja {

enum class BinaryOperator { kAdd, kSubtract, kMultiply, kDivide, kFloorDivide, kModulo, kPower };
enum class Comparison {
  kEqual,
  kNotEqual,
  kLess,
  kLessEqual,
  kGreater,
  kGreaterEqual,
  kIn,
  kNotIn
};

// Integers are of 64 bits; what does not fit is an error.
StatusOr<Value> Apply(Runtime& runtime, BinaryOperator operation, const Value& left,
                      const Value& right);
StatusOr<Value> Negate(Runtime& runtime, const Value& value);

StatusOr<bool> Compare(Runtime& runtime, Comparison comparison, const Value& left,
                       const Value& right);
StatusOr<bool> IsEqual(Runtime& runtime, const Value& left, const Value& right, int depth = 0);

// value.name and value[key] as Jinja2 looks them up: undefined where there is no such member,
// an error on what is itself undefined.
StatusOr<Value> GetAttribute(Runtime& runtime, const Value& object, std::string_view name);
StatusOr<Value> GetItem(Runtime& runtime, const Value& object, const Value& key);

// object[start:stop:step]; each bound is an integer or None.
struct SliceBounds {
  Value start;
  Value stop;
  Value step;
};
StatusOr<Value> GetSlice(Runtime& runtime, const Value& object, const SliceBounds& bounds);

// The items of anything iterable: characters of text, keys of a dict. Takes what is left in a
// generator. The items live as long as the Runtime.
bool IsIterable(const Value& value);
StatusOr<const std::vector<Value>*> Iterate(Runtime& runtime, const Value& value);

// len(value).
StatusOr<int64_t> Length(Runtime& runtime, const Value& value);

}  // namespace treeline::jinja

#endif  // TREELINE_ENGINE_TEXT_JINJA_OPERATORS_H_
