// The filters that take or make collections.
#include <charconv>
#include <string>

#include "engine/text/jinja/arguments.h"
#include "engine/text/jinja/builtins.h"
#include "engine/text/jinja/format.h"
#include "engine/text/jinja/operators.h"
#include "engine/text/jinja/text_operations.h"
#include "engine/text/jinja/unicode.h"

namespace treeline::jinja {
namespace {

StatusOr<Value> LengthFilter(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_RETURN_IF_ERROR(BoundArguments::Bind("length", arguments, {}).status());
  TREELINE_ASSIGN_OR_RETURN(const int64_t length, Length(runtime, self));
  return Value(length);
}

StatusOr<Value> Default(Runtime&, const Value& self, const Arguments& arguments) {
  TREELINE_ASSIGN_OR_RETURN(
      const auto bound, BoundArguments::Bind("default", arguments, {"default_value", "boolean"}));
  const bool replaces = self.is_undefined() || (bound.GetFlag(1) && !IsTrue(self));
  return replaces ? bound.Get(0, Value(std::string_view())) : self;
}

// One step on the way to an attribute: a member's name, or the index that a number names.
StatusOr<Value> GetPart(Runtime& runtime, const Value& item, std::string_view part) {
  int64_t index = 0;
  const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), index);
  const bool is_index = error == std::errc() && end == part.data() + part.size() && index >= 0;
  return GetItem(runtime, item, is_index ? Value(index) : Value(part));
}

// item.a.b for the path "a.b". `fallback`, unless None, stands in where a part is undefined.
StatusOr<Value> GetPath(Runtime& runtime, Value item, const Value& path, const Value& fallback) {
  if (path.is_integral()) {
    TREELINE_ASSIGN_OR_RETURN(item, GetItem(runtime, item, path));
    return item.is_undefined() && !fallback.is_none() ? fallback : item;
  }
  if (!path.is_text()) return InvalidArgument("an attribute must be text or a number");
  std::string_view rest = path.text();
  for (bool more = true; more;) {
    const size_t dot = rest.find('.');
    more = dot != std::string_view::npos;
    TREELINE_RETURN_IF_ERROR(runtime.Step());
    TREELINE_ASSIGN_OR_RETURN(item, GetPart(runtime, item, rest.substr(0, dot)));
    if (item.is_undefined() && !fallback.is_none()) item = fallback;
    if (more) rest.remove_prefix(dot + 1);
  }
  return item;
}

StatusOr<Value> JoinFilter(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_ASSIGN_OR_RETURN(const auto bound,
                            BoundArguments::Bind("join", arguments, {"d", "attribute"}));
  TREELINE_ASSIGN_OR_RETURN(const std::string_view separator,
                            ToText(runtime, bound.Get(0, Value(std::string_view()))));
  TREELINE_ASSIGN_OR_RETURN(const std::vector<Value>* items, Iterate(runtime, self));
  std::vector<std::string_view> parts;
  for (Value item : *items) {
    TREELINE_RETURN_IF_ERROR(runtime.Step());
    if (!bound.Get(1).is_none()) {
      TREELINE_ASSIGN_OR_RETURN(item, GetPath(runtime, item, bound.Get(1), Value()));
    }
    TREELINE_ASSIGN_OR_RETURN(parts.emplace_back(), ToText(runtime, item));
  }
  TREELINE_ASSIGN_OR_RETURN(std::string joined, Join(runtime, separator, parts));
  return runtime.NewText(std::move(joined));
}

StatusOr<Value> First(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_RETURN_IF_ERROR(BoundArguments::Bind("first", arguments, {}).status());
  Sequence* sequence = self.sequence();
  if (sequence != nullptr && sequence->type == SequenceType::kGenerator &&
      sequence->consumed < sequence->items.size()) {
    return sequence->items[sequence->consumed++];
  }
  if (self.is_text() && !self.text().empty()) return GetItem(runtime, self, Value(int64_t{0}));
  TREELINE_ASSIGN_OR_RETURN(const std::vector<Value>* items, Iterate(runtime, self));
  if (items->empty()) {
    return runtime.NewUndefinedHint("No first item, sequence was empty.");
  }
  return items->front();
}

StatusOr<Value> Last(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_RETURN_IF_ERROR(BoundArguments::Bind("last", arguments, {}).status());
  if (self.sequence() != nullptr && self.sequence()->type == SequenceType::kGenerator) {
    return InvalidArgument("'generator' object is not reversible");
  }
  if (self.is_text() && !self.text().empty()) return GetItem(runtime, self, Value(int64_t{-1}));
  TREELINE_ASSIGN_OR_RETURN(const std::vector<Value>* items, Iterate(runtime, self));
  if (items->empty()) return runtime.NewUndefinedHint("No last item, sequence was empty.");
  return items->back();
}

StatusOr<Value> List(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_RETURN_IF_ERROR(BoundArguments::Bind("list", arguments, {}).status());
  TREELINE_ASSIGN_OR_RETURN(const std::vector<Value>* items, Iterate(runtime, self));
  TREELINE_RETURN_IF_ERROR(runtime.Spend(items->size() * sizeof(Value)));
  return runtime.NewSequence(SequenceType::kList, *items);
}

StatusOr<Value> Items(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_RETURN_IF_ERROR(BoundArguments::Bind("items", arguments, {}).status());
  std::vector<Value> items;
  if (!self.is_undefined()) {
    if (self.dict() == nullptr) return InvalidArgument("Can only get item pairs from a mapping.");
    for (const auto& [key, value] : self.dict()->entries()) {
      TREELINE_ASSIGN_OR_RETURN(items.emplace_back(),
                                runtime.NewSequence(SequenceType::kTuple, {key, value}));
    }
  }
  return runtime.NewSequence(SequenceType::kGenerator, std::move(items));
}

StatusOr<Value> Reverse(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_RETURN_IF_ERROR(BoundArguments::Bind("reverse", arguments, {}).status());
  if (self.is_text()) {
    return GetSlice(runtime, self, {Value(), Value(), Value(int64_t{-1})});
  }
  TREELINE_ASSIGN_OR_RETURN(const std::vector<Value>* items, Iterate(runtime, self));
  TREELINE_RETURN_IF_ERROR(runtime.Spend(items->size() * sizeof(Value)));
  return runtime.NewSequence(SequenceType::kGenerator,
                             std::vector<Value>(items->rbegin(), items->rend()));
}

// The filter or test that map, select and their kin name, with the rest of the arguments.
struct NamedCall {
  const Builtin* builtin = nullptr;
  Arguments arguments;
};

StatusOr<NamedCall> TakeCall(std::string_view kind, const Arguments& arguments, size_t place,
                             const Builtin* (*find)(std::string_view)) {
  const Value& name = arguments.positional[place];
  NamedCall call;
  if (name.is_text()) call.builtin = find(name.text());
  if (call.builtin == nullptr) {
    return InvalidArgument("the {} '{}' is not supported", kind,
                           name.is_text() ? name.text() : TypeName(name));
  }
  call.arguments = arguments;
  call.arguments.positional.erase(call.arguments.positional.begin(),
                                  call.arguments.positional.begin() + place + 1);
  return call;
}

StatusOr<Value> MapAttribute(Runtime& runtime, const std::vector<Value>& items,
                             const Arguments& arguments) {
  TREELINE_ASSIGN_OR_RETURN(const auto bound,
                            BoundArguments::Bind("map", arguments, {"attribute", "default"}, 1));
  std::vector<Value> mapped;
  for (const Value& item : items) {
    TREELINE_ASSIGN_OR_RETURN(mapped.emplace_back(),
                              GetPath(runtime, item, bound.Get(0), bound.Get(1)));
  }
  return runtime.NewSequence(SequenceType::kGenerator, std::move(mapped));
}

// What map, select and their kin go over: nothing for none and other values that are false.
StatusOr<const std::vector<Value>*> IterateIfTrue(Runtime& runtime, const Value& value) {
  static const std::vector<Value> kNothing;
  return IsTrue(value) ? Iterate(runtime, value) : &kNothing;
}

StatusOr<Value> Map(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_ASSIGN_OR_RETURN(const std::vector<Value>* items, IterateIfTrue(runtime, self));
  if (arguments.positional.empty()) return MapAttribute(runtime, *items, arguments);
  TREELINE_ASSIGN_OR_RETURN(const NamedCall call, TakeCall("filter", arguments, 0, FindFilter));
  std::vector<Value> mapped;
  for (const Value& item : *items) {
    TREELINE_RETURN_IF_ERROR(runtime.Step());
    TREELINE_ASSIGN_OR_RETURN(mapped.emplace_back(),
                              call.builtin->run(runtime, item, call.arguments));
  }
  return runtime.NewSequence(SequenceType::kGenerator, std::move(mapped));
}

// select and reject, by a test of the item or, with an attribute, of that; without a test, by
// its truth.
template <bool wanted, bool by_attribute>
StatusOr<Value> Select(Runtime& runtime, const Value& self, const Arguments& arguments) {
  constexpr size_t kTestPlace = by_attribute ? 1 : 0;
  if (arguments.positional.size() < kTestPlace) {
    return InvalidArgument("Missing parameter for attribute name");
  }
  NamedCall call;
  if (arguments.positional.size() > kTestPlace) {
    TREELINE_ASSIGN_OR_RETURN(call, TakeCall("test", arguments, kTestPlace, FindTest));
  }
  TREELINE_ASSIGN_OR_RETURN(const std::vector<Value>* items, IterateIfTrue(runtime, self));
  std::vector<Value> selected;
  for (const Value& item : *items) {
    TREELINE_RETURN_IF_ERROR(runtime.Step());
    Value tested = item;
    if (by_attribute) {
      TREELINE_ASSIGN_OR_RETURN(tested, GetPath(runtime, item, arguments.positional[0], Value()));
    }
    if (call.builtin != nullptr) {
      TREELINE_ASSIGN_OR_RETURN(tested, call.builtin->run(runtime, tested, call.arguments));
    }
    if (IsTrue(tested) == wanted) selected.push_back(item);
  }
  return runtime.NewSequence(SequenceType::kGenerator, std::move(selected));
}

// What sort, unique, min and max compare: the item or an attribute of it, in lower case unless
// case matters.
StatusOr<Value> SortKey(Runtime& runtime, const Value& item, const Value& attribute,
                        bool case_sensitive) {
  Value key = item;
  if (!attribute.is_none()) {
    if (attribute.is_text() && attribute.text().find(',') != std::string_view::npos) {
      return InvalidArgument("sorting by several attributes is not supported");
    }
    TREELINE_ASSIGN_OR_RETURN(key, GetPath(runtime, item, attribute, Value()));
  }
  if (case_sensitive || !key.is_text()) return key;
  return runtime.NewText(ToLower(key.text()));
}

struct Keyed {
  Value key;
  Value item;
};

StatusOr<std::vector<Keyed>> WithKeys(Runtime& runtime, const std::vector<Value>& items,
                                      const Value& attribute, bool case_sensitive) {
  TREELINE_RETURN_IF_ERROR(runtime.Spend(items.size() * 2 * sizeof(Keyed)));
  std::vector<Keyed> keyed;
  for (const Value& item : items) {
    TREELINE_ASSIGN_OR_RETURN(const Value key, SortKey(runtime, item, attribute, case_sensitive));
    keyed.push_back({key, item});
  }
  return keyed;
}

// Keys that are equal need no order: two dicts can be sorted when they are the same.
StatusOr<bool> Precedes(Runtime& runtime, const Value& left, const Value& right) {
  TREELINE_ASSIGN_OR_RETURN(const bool equal, IsEqual(runtime, left, right));
  return equal ? StatusOr<bool>(false) : Compare(runtime, Comparison::kLess, left, right);
}

// A stable merge sort of [begin, end). Unlike std::stable_sort it stops at the first
// comparison that fails, and survives an order that is none (NaN).
Status MergeSort(Runtime& runtime, std::vector<Keyed>& items, size_t begin, size_t end,
                 bool reverse) {
  if (end - begin < 2) return OkStatus();
  const size_t middle = begin + (end - begin) / 2;
  TREELINE_RETURN_IF_ERROR(MergeSort(runtime, items, begin, middle, reverse));
  TREELINE_RETURN_IF_ERROR(MergeSort(runtime, items, middle, end, reverse));
  const std::vector<Keyed> left(items.begin() + begin, items.begin() + middle);
  size_t from_left = 0;
  size_t from_right = middle;
  for (size_t to = begin; from_left < left.size(); ++to) {
    bool takes_right = false;
    if (from_right < end) {
      const Value& left_key = left[from_left].key;
      const Value& right_key = items[from_right].key;
      TREELINE_ASSIGN_OR_RETURN(takes_right, reverse ? Precedes(runtime, left_key, right_key)
                                                     : Precedes(runtime, right_key, left_key));
    }
    items[to] = takes_right ? items[from_right++] : left[from_left++];
  }
  return OkStatus();
}

StatusOr<Value> SortedItems(Runtime& runtime, std::vector<Keyed> keyed, bool reverse) {
  TREELINE_RETURN_IF_ERROR(MergeSort(runtime, keyed, 0, keyed.size(), reverse));
  std::vector<Value> sorted;
  for (const Keyed& entry : keyed) sorted.push_back(entry.item);
  return runtime.NewSequence(SequenceType::kList, std::move(sorted));
}

StatusOr<Value> Sort(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_ASSIGN_OR_RETURN(
      const auto bound,
      BoundArguments::Bind("sort", arguments, {"reverse", "case_sensitive", "attribute"}));
  TREELINE_ASSIGN_OR_RETURN(const std::vector<Value>* items, Iterate(runtime, self));
  TREELINE_ASSIGN_OR_RETURN(std::vector<Keyed> keyed,
                            WithKeys(runtime, *items, bound.Get(2), bound.GetFlag(1)));
  return SortedItems(runtime, std::move(keyed), bound.GetFlag(0));
}

StatusOr<Value> DictSort(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_ASSIGN_OR_RETURN(
      const auto bound,
      BoundArguments::Bind("dictsort", arguments, {"case_sensitive", "by", "reverse"}));
  TREELINE_ASSIGN_OR_RETURN(const std::string_view by, bound.GetText(1, "key"));
  if (by != "key" && by != "value") {
    return InvalidArgument("You can only sort by either \"key\" or \"value\"");
  }
  if (self.dict() == nullptr) return InvalidArgument("dictsort needs a dict");
  std::vector<Value> items;
  for (const auto& [key, value] : self.dict()->entries()) {
    TREELINE_ASSIGN_OR_RETURN(items.emplace_back(),
                              runtime.NewSequence(SequenceType::kTuple, {key, value}));
  }
  const Value place(static_cast<int64_t>(by == "key" ? 0 : 1));
  TREELINE_ASSIGN_OR_RETURN(std::vector<Keyed> keyed,
                            WithKeys(runtime, items, place, bound.GetFlag(0)));
  return SortedItems(runtime, std::move(keyed), bound.GetFlag(2));
}

StatusOr<Value> Unique(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_ASSIGN_OR_RETURN(
      const auto bound, BoundArguments::Bind("unique", arguments, {"case_sensitive", "attribute"}));
  TREELINE_ASSIGN_OR_RETURN(const std::vector<Value>* items, Iterate(runtime, self));
  TREELINE_ASSIGN_OR_RETURN(const std::vector<Keyed> keyed,
                            WithKeys(runtime, *items, bound.Get(1), bound.GetFlag(0)));
  Dict seen;
  std::vector<Value> unique;
  for (const auto& [key, item] : keyed) {
    if (!Dict::IsKey(key)) return InvalidArgument("unhashable type: '{}'", TypeName(key));
    if (seen.Find(key) != nullptr) continue;
    seen.Set(key, Value());
    unique.push_back(item);
  }
  return runtime.NewSequence(SequenceType::kGenerator, std::move(unique));
}

// min and max: the first of the items that no other comes before in the order.
template <Comparison order>
StatusOr<Value> Extreme(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_ASSIGN_OR_RETURN(
      const auto bound,
      BoundArguments::Bind("min or max", arguments, {"case_sensitive", "attribute"}));
  TREELINE_ASSIGN_OR_RETURN(const std::vector<Value>* items, Iterate(runtime, self));
  if (items->empty()) {
    return runtime.NewUndefinedHint("No aggregated item, sequence was empty.");
  }
  TREELINE_ASSIGN_OR_RETURN(const std::vector<Keyed> keyed,
                            WithKeys(runtime, *items, bound.Get(1), bound.GetFlag(0)));
  const Keyed* best = &keyed[0];
  for (const Keyed& entry : keyed) {
    TREELINE_ASSIGN_OR_RETURN(const bool better, Compare(runtime, order, entry.key, best->key));
    if (better) best = &entry;
  }
  return best->item;
}

StatusOr<Value> Sum(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_ASSIGN_OR_RETURN(const auto bound,
                            BoundArguments::Bind("sum", arguments, {"attribute", "start"}));
  TREELINE_ASSIGN_OR_RETURN(const std::vector<Value>* items, Iterate(runtime, self));
  Value sum = bound.Get(1, Value(int64_t{0}));
  if (sum.is_text()) return InvalidArgument("sum() can't sum strings [use ''.join(seq) instead]");
  for (Value item : *items) {
    TREELINE_RETURN_IF_ERROR(runtime.Step());
    if (!bound.Get(0).is_none()) {
      TREELINE_ASSIGN_OR_RETURN(item, GetPath(runtime, item, bound.Get(0), Value()));
    }
    TREELINE_ASSIGN_OR_RETURN(sum, Apply(runtime, BinaryOperator::kAdd, sum, item));
  }
  return sum;
}

constexpr Builtin kSequenceFilters[] = {
    {"count", LengthFilter},
    {"d", Default},
    {"default", Default},
    {"dictsort", DictSort},
    {"first", First},
    {"items", Items},
    {"join", JoinFilter},
    {"last", Last},
    {"length", LengthFilter},
    {"list", List},
    {"map", Map},
    {"max", Extreme<Comparison::kGreater>},
    {"min", Extreme<Comparison::kLess>},
    {"reject", Select<false, false>},
    {"rejectattr", Select<false, true>},
    {"reverse", Reverse},
    {"select", Select<true, false>},
    {"selectattr", Select<true, true>},
    {"sort", Sort},
    {"sum", Sum},
    {"unique", Unique},
};

}  // namespace

std::span<const Builtin> SequenceFilters() { return kSequenceFilters; }

}  // namespace treeline::jinja
