#include <algorithm>
#include <limits>
#include <string>

#include "engine/text/jinja/builtins.h"
#include "engine/text/jinja/format.h"
#include "engine/text/jinja/operators.h"
#include "engine/text/jinja/unicode.h"

namespace treeline::jinja {
namespace {

StatusOr<Value> MissingMember(Runtime& runtime, const Value& owner, const Value& name) {
  return runtime.NewUndefined({Missing::Reason::kMember, owner, name});
}

StatusOr<Value> LoopAttribute(Runtime& runtime, const Value& value, std::string_view name) {
  const Loop& loop = *value.loop();
  const auto index = static_cast<int64_t>(loop.index);
  const auto length = static_cast<int64_t>(loop.items->size());
  if (name == "index") return Value(index + 1);
  if (name == "index0") return Value(index);
  if (name == "revindex") return Value(length - index);
  if (name == "revindex0") return Value(length - index - 1);
  if (name == "first") return Value(index == 0);
  if (name == "last") return Value(index + 1 == length);
  if (name == "length") return Value(length);
  if (name == "depth") return Value(int64_t{1});  // Only recursive loops go deeper.
  if (name == "depth0") return Value(int64_t{0});
  if (name == "previtem") {
    if (index > 0) return (*loop.items)[loop.index - 1];
    return runtime.NewUndefinedHint("there is no previous item");
  }
  if (name == "nextitem") {
    if (index + 1 < length) return (*loop.items)[loop.index + 1];
    return runtime.NewUndefinedHint("there is no next item");
  }
  if (name == "changed") return InvalidArgument("loop.changed is not supported");
  if (const Builtin* method = FindMethod(value, name)) return runtime.NewCallable(method, value);
  return MissingMember(runtime, value, Value(name));
}

// Python's index of a sequence, counted from the end where negative; nullopt when outside.
std::optional<size_t> ResolveIndex(int64_t index, size_t length) {
  const auto signed_length = static_cast<int64_t>(length);
  if (index < -signed_length || index >= signed_length) return std::nullopt;
  return static_cast<size_t>(index < 0 ? index + signed_length : index);
}

std::string_view SkipCharacters(std::string_view text, size_t count) {
  for (; count > 0 && !text.empty(); --count) text.remove_prefix(FirstCharacter(text).size);
  return text;
}

StatusOr<Value> CharacterAt(Runtime& runtime, const Value& text, const Value& key) {
  int64_t index = key.integer();
  if (index < 0) {
    TREELINE_RETURN_IF_ERROR(runtime.Spend(text.text().size()));
    index += static_cast<int64_t>(CountCharacters(text.text()));
    if (index < 0) return MissingMember(runtime, text, key);
  }
  TREELINE_RETURN_IF_ERROR(runtime.Spend(std::min(text.text().size(), static_cast<size_t>(index))));
  const std::string_view rest = SkipCharacters(text.text(), static_cast<size_t>(index));
  if (rest.empty()) return MissingMember(runtime, text, key);
  return Value(rest.substr(0, FirstCharacter(rest).size), text.is_markup());
}

bool IsSubscriptable(const Sequence& sequence) {
  return sequence.type == SequenceType::kList || sequence.type == SequenceType::kTuple ||
         sequence.type == SequenceType::kRange;
}

// The bounds of a slice of `length` items, as PySlice_AdjustIndices has them.
struct Range {
  int64_t start;
  int64_t step;
  size_t count;
};

StatusOr<Range> ResolveSlice(const SliceBounds& bounds, size_t item_count) {
  for (const Value* bound : {&bounds.start, &bounds.stop, &bounds.step}) {
    if (!bound->is_none() && !bound->is_integral()) {
      return InvalidArgument("slice indices must be integers or None");
    }
  }
  const auto length = static_cast<int64_t>(item_count);
  const int64_t asked = bounds.step.is_none() ? 1 : bounds.step.integer();
  if (asked == 0) return InvalidArgument("slice step cannot be zero");
  // A larger step selects the same single item and cannot overflow.
  const int64_t step = std::clamp<int64_t>(asked, -length - 1, length + 1);
  const int64_t lowest = step < 0 ? -1 : 0;
  const int64_t highest = step < 0 ? length - 1 : length;
  const auto clamp = [&](const Value& bound, int64_t fallback) {
    if (bound.is_none()) return fallback;
    const int64_t index = bound.integer();
    return std::clamp(index < 0 ? index + length : index, lowest, highest);
  };
  const int64_t start = clamp(bounds.start, step < 0 ? highest : lowest);
  const int64_t stop = clamp(bounds.stop, step < 0 ? lowest : highest);
  const int64_t distance = step < 0 ? start - stop : stop - start;
  const int64_t stride = step < 0 ? -step : step;
  return Range{start, step, distance <= 0 ? 0 : static_cast<size_t>((distance - 1) / stride + 1)};
}

StatusOr<Value> SliceText(Runtime& runtime, const Value& text, const SliceBounds& bounds) {
  TREELINE_RETURN_IF_ERROR(runtime.Spend(text.text().size()));
  const size_t length = CountCharacters(text.text());
  TREELINE_ASSIGN_OR_RETURN(const Range range, ResolveSlice(bounds, length));
  if (range.count == 0) return Value(std::string_view(), text.is_markup());
  if (range.step == 1) {
    const std::string_view from_start = SkipCharacters(text.text(), range.start);
    const std::string_view after_stop = SkipCharacters(from_start, range.count);
    const size_t size = from_start.size() - after_stop.size();
    return Value(from_start.substr(0, size), text.is_markup());
  }
  TREELINE_RETURN_IF_ERROR(runtime.Spend(length * sizeof(std::string_view)));
  const std::vector<std::string_view> characters = SplitCharacters(text.text());
  std::string picked;
  for (size_t i = 0; i < range.count; ++i) {
    picked += characters[range.start + static_cast<int64_t>(i) * range.step];
  }
  return runtime.NewText(std::move(picked), text.is_markup());
}

}  // namespace

StatusOr<Value> GetAttribute(Runtime& runtime, const Value& object, std::string_view name) {
  if (object.is_undefined()) return UndefinedError(runtime, *object.missing());
  if (object.loop() != nullptr) return LoopAttribute(runtime, object, name);
  if (const Namespace* attributes = object.attributes()) {
    const Value* value = attributes->attributes.Find(Value(name));
    return value != nullptr ? StatusOr<Value>(*value) : MissingMember(runtime, object, Value(name));
  }
  if (const Builtin* method = FindMethod(object, name)) return runtime.NewCallable(method, object);
  TREELINE_RETURN_IF_ERROR(CheckMethodSupported(object, name));
  if (const Dict* dict = object.dict()) {
    if (const Value* value = dict->Find(Value(name))) return *value;
  }
  return MissingMember(runtime, object, Value(name));
}

StatusOr<Value> GetItem(Runtime& runtime, const Value& object, const Value& key) {
  if (object.is_undefined()) return UndefinedError(runtime, *object.missing());
  if (const Dict* dict = object.dict()) {
    if (const Value* value = dict->Find(key)) return *value;
  } else if (key.is_integral()) {
    if (object.is_text()) return CharacterAt(runtime, object, key);
    const Sequence* sequence = object.sequence();
    if (sequence != nullptr && IsSubscriptable(*sequence)) {
      const auto index = ResolveIndex(key.integer(), sequence->items.size());
      if (index.has_value()) return sequence->items[*index];
    }
  }
  if (key.is_text()) return GetAttribute(runtime, object, key.text());
  return MissingMember(runtime, object, key);
}

StatusOr<Value> GetSlice(Runtime& runtime, const Value& object, const SliceBounds& bounds) {
  if (object.is_undefined()) return UndefinedError(runtime, *object.missing());
  if (object.is_text()) return SliceText(runtime, object, bounds);
  const Sequence* sequence = object.sequence();
  if (sequence == nullptr || !IsSubscriptable(*sequence)) {
    return InvalidArgument("'{}' object is not subscriptable by a slice", TypeName(object));
  }
  TREELINE_ASSIGN_OR_RETURN(const Range range, ResolveSlice(bounds, sequence->items.size()));
  TREELINE_RETURN_IF_ERROR(runtime.Spend(range.count * sizeof(Value)));
  std::vector<Value> items;
  items.reserve(range.count);
  for (size_t i = 0; i < range.count; ++i) {
    items.push_back(sequence->items[range.start + static_cast<int64_t>(i) * range.step]);
  }
  return runtime.NewSequence(sequence->type, std::move(items));
}

bool IsIterable(const Value& value) {
  return value.is_undefined() || value.is_text() || value.sequence() != nullptr ||
         value.dict() != nullptr;
}

StatusOr<const std::vector<Value>*> Iterate(Runtime& runtime, const Value& value) {
  std::vector<Value> items;
  if (Sequence* sequence = value.sequence()) {
    if (sequence->consumed == 0) {
      if (sequence->type == SequenceType::kGenerator) sequence->consumed = sequence->items.size();
      return &sequence->items;
    }
    items.assign(sequence->items.begin() + sequence->consumed, sequence->items.end());
    sequence->consumed = sequence->items.size();
  } else if (value.is_text()) {
    TREELINE_RETURN_IF_ERROR(runtime.Spend(value.text().size() * sizeof(Value)));
    for (const std::string_view character : SplitCharacters(value.text())) {
      items.emplace_back(character);
    }
  } else if (const Dict* dict = value.dict()) {
    for (const auto& [key, member] : dict->entries()) items.push_back(key);
  } else if (!value.is_undefined()) {
    return InvalidArgument("'{}' object is not iterable", TypeName(value));
  }
  TREELINE_ASSIGN_OR_RETURN(const Value made,
                            runtime.NewSequence(SequenceType::kList, std::move(items)));
  return &made.sequence()->items;
}

StatusOr<int64_t> Length(Runtime& runtime, const Value& value) {
  if (value.is_undefined()) return 0;
  if (value.is_text()) {
    TREELINE_RETURN_IF_ERROR(runtime.Spend(value.text().size()));
    return static_cast<int64_t>(CountCharacters(value.text()));
  }
  if (const Dict* dict = value.dict()) return static_cast<int64_t>(dict->entries().size());
  if (const Loop* loop = value.loop()) return static_cast<int64_t>(loop->items->size());
  const Sequence* sequence = value.sequence();
  if (sequence == nullptr || sequence->type == SequenceType::kGenerator) {
    return InvalidArgument("object of type '{}' has no len()", TypeName(value));
  }
  return static_cast<int64_t>(sequence->items.size());
}

}  // namespace treeline::jinja
