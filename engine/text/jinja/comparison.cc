#include <algorithm>

#include "engine/text/jinja/format.h"
#include "engine/text/jinja/operators.h"

namespace treeline::jinja {
namespace {

// Reading a character or comparing a byte is charged less than a step: by the byte.
Status ChargeComparison(Runtime& runtime, int depth) {
  TREELINE_RETURN_IF_ERROR(runtime.Step());
  if (depth <= kMaxValueDepth) return OkStatus();
  return InvalidArgument("compares values nested deeper than {} levels", kMaxValueDepth);
}

StatusOr<bool> AreItemsEqual(Runtime& runtime, const Sequence& left, const Sequence& right,
                             int depth) {
  if (left.items.size() != right.items.size()) return false;
  for (size_t i = 0; i < left.items.size(); ++i) {
    TREELINE_ASSIGN_OR_RETURN(const bool equal,
                              IsEqual(runtime, left.items[i], right.items[i], depth + 1));
    if (!equal) return false;
  }
  return true;
}

StatusOr<bool> AreDictsEqual(Runtime& runtime, const Dict& left, const Dict& right, int depth) {
  if (left.entries().size() != right.entries().size()) return false;
  for (const auto& [key, value] : left.entries()) {
    const Value* other = right.Find(key);
    if (other == nullptr) return false;
    TREELINE_ASSIGN_OR_RETURN(const bool equal, IsEqual(runtime, value, *other, depth + 1));
    if (!equal) return false;
  }
  return true;
}

bool IsComparableSequence(const Value& value) {
  const Sequence* sequence = value.sequence();
  return sequence != nullptr && sequence->type != SequenceType::kGenerator &&
         sequence->type != SequenceType::kDictValues;
}

template <typename T>
bool Satisfies(Comparison comparison, const T& left, const T& right) {
  switch (comparison) {
    case Comparison::kLess:
      return left < right;
    case Comparison::kLessEqual:
      return left <= right;
    case Comparison::kGreater:
      return left > right;
    default:
      return left >= right;
  }
}

std::string_view Symbol(Comparison comparison) {
  switch (comparison) {
    case Comparison::kLess:
      return "<";
    case Comparison::kLessEqual:
      return "<=";
    case Comparison::kGreater:
      return ">";
    default:
      return ">=";
  }
}

StatusOr<bool> IsOrdered(Runtime& runtime, Comparison comparison, const Value& left,
                         const Value& right, int depth);

// Lists and tuples: by the first pair that differs, else by length.
StatusOr<bool> AreItemsOrdered(Runtime& runtime, Comparison comparison, const Sequence& left,
                               const Sequence& right, int depth) {
  const size_t common = std::min(left.items.size(), right.items.size());
  for (size_t i = 0; i < common; ++i) {
    TREELINE_ASSIGN_OR_RETURN(const bool equal,
                              IsEqual(runtime, left.items[i], right.items[i], depth + 1));
    if (!equal) return IsOrdered(runtime, comparison, left.items[i], right.items[i], depth + 1);
  }
  return Satisfies(comparison, left.items.size(), right.items.size());
}

StatusOr<bool> IsOrdered(Runtime& runtime, Comparison comparison, const Value& left,
                         const Value& right, int depth) {
  TREELINE_RETURN_IF_ERROR(ChargeComparison(runtime, depth));
  if (left.is_undefined()) return UndefinedError(runtime, *left.missing());
  if (right.is_undefined()) return UndefinedError(runtime, *right.missing());
  if (left.is_integral() && right.is_integral()) {
    return Satisfies(comparison, left.integer(), right.integer());
  }
  if (left.is_number() && right.is_number()) {
    return Satisfies(comparison, left.number(), right.number());
  }
  if (left.is_text() && right.is_text()) {
    // Bytes of UTF-8 are in the order of the code points.
    TREELINE_RETURN_IF_ERROR(runtime.Spend(std::min(left.text().size(), right.text().size())));
    return Satisfies(comparison, left.text(), right.text());
  }
  const Sequence* first = left.sequence();
  const Sequence* second = right.sequence();
  if (first != nullptr && second != nullptr && first->type == second->type &&
      (first->type == SequenceType::kList || first->type == SequenceType::kTuple)) {
    return AreItemsOrdered(runtime, comparison, *first, *second, depth);
  }
  return InvalidArgument("'{}' not supported between instances of '{}' and '{}'",
                         Symbol(comparison), TypeName(left), TypeName(right));
}

StatusOr<bool> Contains(Runtime& runtime, const Value& container, const Value& item) {
  if (container.is_text()) {
    if (!item.is_text()) {
      return InvalidArgument("'in <string>' requires string as left operand, not {}",
                             TypeName(item));
    }
    TREELINE_RETURN_IF_ERROR(runtime.Spend(container.text().size()));
    return container.text().find(item.text()) != std::string_view::npos;
  }
  if (const Dict* dict = container.dict()) {
    const Sequence* sequence = item.sequence();
    const bool is_tuple = sequence != nullptr && sequence->type == SequenceType::kTuple;
    if (item.is_undefined() || is_tuple || Dict::IsKey(item)) return dict->Find(item) != nullptr;
    return InvalidArgument("unhashable type: '{}'", TypeName(item));
  }
  if (!IsIterable(container)) {
    return InvalidArgument("argument of type '{}' is not iterable", TypeName(container));
  }
  TREELINE_ASSIGN_OR_RETURN(const std::vector<Value>* items, Iterate(runtime, container));
  for (const Value& candidate : *items) {
    TREELINE_ASSIGN_OR_RETURN(const bool equal, IsEqual(runtime, candidate, item));
    if (equal) return true;
  }
  return false;
}

}  // namespace

StatusOr<bool> IsEqual(Runtime& runtime, const Value& left, const Value& right, int depth) {
  TREELINE_RETURN_IF_ERROR(ChargeComparison(runtime, depth));
  if (left.is_integral() && right.is_integral()) return left.integer() == right.integer();
  if (left.is_number() && right.is_number()) return left.number() == right.number();
  if (left.is_text() && right.is_text()) {
    if (left.text().size() != right.text().size()) return false;
    TREELINE_RETURN_IF_ERROR(runtime.Spend(left.text().size()));
    return left.text() == right.text();
  }
  if (left.is_undefined() || right.is_undefined()) {
    return left.is_undefined() && right.is_undefined();
  }
  if (left.dict() != nullptr && right.dict() != nullptr) {
    return AreDictsEqual(runtime, *left.dict(), *right.dict(), depth);
  }
  if (IsComparableSequence(left) && IsComparableSequence(right)) {
    if (left.sequence()->type != right.sequence()->type) return false;
    return AreItemsEqual(runtime, *left.sequence(), *right.sequence(), depth);
  }
  return left.IsSameAs(right);
}

StatusOr<bool> Compare(Runtime& runtime, Comparison comparison, const Value& left,
                       const Value& right) {
  switch (comparison) {
    case Comparison::kEqual:
      return IsEqual(runtime, left, right);
    case Comparison::kNotEqual: {
      TREELINE_ASSIGN_OR_RETURN(const bool equal, IsEqual(runtime, left, right));
      return !equal;
    }
    case Comparison::kIn:
      return Contains(runtime, right, left);
    case Comparison::kNotIn: {
      TREELINE_ASSIGN_OR_RETURN(const bool contained, Contains(runtime, right, left));
      return !contained;
    }
    default:
      return IsOrdered(runtime, comparison, left, right, 0);
  }
}

}  // namespace treeline::jinja
