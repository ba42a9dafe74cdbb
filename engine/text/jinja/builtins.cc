#include "engine/text/jinja/builtins.h"

#include <time.h>

#include <algorithm>
#include <array>
#include <string>

#include "engine/text/jinja/arguments.h"
#include "engine/text/jinja/format.h"
#include "engine/text/jinja/operators.h"

namespace treeline::jinja {
namespace {

// The sandbox of Jinja2, which Hugging Face runs templates in, has the same limit.
constexpr uint64_t kMaxRange = 100'000;

const Builtin* Find(std::span<const Builtin> table, std::string_view name) {
  const auto found = std::find_if(table.begin(), table.end(),
                                  [&](const Builtin& builtin) { return builtin.name == name; });
  return found == table.end() ? nullptr : &*found;
}

StatusOr<Value> RaiseException(Runtime& runtime, const Value&, const Arguments& arguments) {
  TREELINE_ASSIGN_OR_RETURN(const auto bound,
                            BoundArguments::Bind("raise_exception", arguments, {"message"}, 1));
  TREELINE_ASSIGN_OR_RETURN(const std::string_view message, ToText(runtime, bound.Get(0)));
  return InvalidArgument("{}", message);
}

// A naive datetime, as Python's datetime.now(): it has no zone.
std::string WithoutZone(std::string_view format) {
  std::string result;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%' || i + 1 == format.size()) {
      result += format[i];
      continue;
    }
    ++i;
    if (format[i] == 'f') {
      result += "000000";
    } else if (format[i] != 'z' && format[i] != 'Z') {
      result.append({'%', format[i]});
    }
  }
  return result;
}

StatusOr<Value> StrftimeNow(Runtime& runtime, const Value&, const Arguments& arguments) {
  constexpr size_t kMaxFormat = 256;
  TREELINE_ASSIGN_OR_RETURN(const auto bound,
                            BoundArguments::Bind("strftime_now", arguments, {"format"}, 1));
  TREELINE_ASSIGN_OR_RETURN(const std::string_view asked, bound.GetText(0));
  if (asked.size() > kMaxFormat || asked.find('\0') != std::string_view::npos) {
    return InvalidArgument("strftime_now(): the format is not text of at most {} bytes",
                           kMaxFormat);
  }
  const time_t now = runtime.now_unix_seconds();
  tm utc = {};
  if (gmtime_r(&now, &utc) == nullptr) {
    return InvalidArgument("strftime_now(): the time {} has no date", runtime.now_unix_seconds());
  }
  // The space keeps the result from being empty, which strftime uses to report a full buffer.
  const std::string format = WithoutZone(asked) + " ";
  std::array<char, 16384> buffer;
  const size_t size = strftime(buffer.data(), buffer.size(), format.c_str(), &utc);
  if (size == 0) return InvalidArgument("strftime_now(): the result is too long");
  return runtime.NewText(std::string(buffer.data(), size - 1));
}

StatusOr<Value> MakeRange(Runtime& runtime, const Value&, const Arguments& arguments) {
  TREELINE_ASSIGN_OR_RETURN(const auto bound,
                            BoundArguments::Bind("range", arguments, {"start", "stop", "step"}, 1));
  TREELINE_ASSIGN_OR_RETURN(const int64_t first, bound.GetInteger(0, 0));
  TREELINE_ASSIGN_OR_RETURN(const int64_t second, bound.GetInteger(1, 0));
  TREELINE_ASSIGN_OR_RETURN(const int64_t step, bound.GetInteger(2, 1));
  if (step == 0) return InvalidArgument("range() arg 3 must not be zero");
  const int64_t start = bound.Has(1) ? first : 0;
  const int64_t stop = bound.Has(1) ? second : first;
  std::vector<Value> items;
  if (step > 0 ? start < stop : start > stop) {
    // Unsigned: the distance may not fit the signed type.
    const uint64_t low = static_cast<uint64_t>(step > 0 ? start : stop);
    const uint64_t high = static_cast<uint64_t>(step > 0 ? stop : start);
    const uint64_t stride = step > 0 ? step : -static_cast<uint64_t>(step);
    const uint64_t last = (high - low - 1) / stride;
    if (last >= kMaxRange) {
      return InvalidArgument("Range too big. At most {} numbers are allowed.", kMaxRange);
    }
    for (uint64_t i = 0; i <= last; ++i) {
      const uint64_t item = static_cast<uint64_t>(start) + i * static_cast<uint64_t>(step);
      items.emplace_back(static_cast<int64_t>(item));
    }
  }
  return runtime.NewSequence(SequenceType::kRange, std::move(items));
}

// The entries of dict(...) and namespace(...): a dict, then named arguments.
StatusOr<std::vector<Dict::Entry>> NamedEntries(std::string_view function,
                                                const Arguments& arguments) {
  std::vector<Dict::Entry> entries;
  for (const Value& value : arguments.positional) {
    if (arguments.positional.size() > 1 || value.dict() == nullptr) {
      return InvalidArgument("{}() takes one dict and named arguments", function);
    }
    entries = value.dict()->entries();
  }
  for (const auto& [name, value] : arguments.named) entries.emplace_back(Value(name), value);
  return entries;
}

StatusOr<Value> MakeDict(Runtime& runtime, const Value&, const Arguments& arguments) {
  TREELINE_ASSIGN_OR_RETURN(std::vector<Dict::Entry> entries, NamedEntries("dict", arguments));
  return runtime.NewDict(std::move(entries));
}

StatusOr<Value> MakeNamespace(Runtime& runtime, const Value&, const Arguments& arguments) {
  TREELINE_ASSIGN_OR_RETURN(const auto entries, NamedEntries("namespace", arguments));
  TREELINE_RETURN_IF_ERROR(runtime.Spend(2 * entries.size() * sizeof(Dict::Entry)));
  TREELINE_ASSIGN_OR_RETURN(const Value made, runtime.NewNamespace());
  for (const auto& [name, value] : entries) made.attributes()->attributes.Set(name, value);
  return made;
}

constexpr Builtin kFunctions[] = {
    {"dict", MakeDict},   {"namespace", MakeNamespace},  {"raise_exception", RaiseException},
    {"range", MakeRange}, {"strftime_now", StrftimeNow},
};

StatusOr<Value> DictGet(Runtime&, const Value& self, const Arguments& arguments) {
  TREELINE_ASSIGN_OR_RETURN(const auto bound,
                            BoundArguments::Bind("get", arguments, {"key", "default"}, 1));
  const Value* value = self.dict()->Find(bound.Get(0));
  return value != nullptr ? *value : bound.Get(1);
}

StatusOr<Value> DictItems(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_RETURN_IF_ERROR(BoundArguments::Bind("items", arguments, {}).status());
  std::vector<Value> items;
  for (const auto& [key, value] : self.dict()->entries()) {
    TREELINE_ASSIGN_OR_RETURN(items.emplace_back(),
                              runtime.NewSequence(SequenceType::kTuple, {key, value}));
  }
  return runtime.NewSequence(SequenceType::kDictItems, std::move(items));
}

StatusOr<Value> DictKeys(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_RETURN_IF_ERROR(BoundArguments::Bind("keys", arguments, {}).status());
  std::vector<Value> keys;
  for (const auto& [key, value] : self.dict()->entries()) keys.push_back(key);
  return runtime.NewSequence(SequenceType::kDictKeys, std::move(keys));
}

StatusOr<Value> DictValues(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_RETURN_IF_ERROR(BoundArguments::Bind("values", arguments, {}).status());
  std::vector<Value> values;
  for (const auto& [key, value] : self.dict()->entries()) values.push_back(value);
  return runtime.NewSequence(SequenceType::kDictValues, std::move(values));
}

constexpr Builtin kDictMethods[] = {
    {"get", DictGet}, {"items", DictItems}, {"keys", DictKeys}, {"values", DictValues}};

StatusOr<Value> ListCount(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_ASSIGN_OR_RETURN(const auto bound,
                            BoundArguments::Bind("count", arguments, {"value"}, 1));
  int64_t count = 0;
  for (const Value& item : self.sequence()->items) {
    TREELINE_ASSIGN_OR_RETURN(const bool equal, IsEqual(runtime, item, bound.Get(0)));
    count += equal ? 1 : 0;
  }
  return Value(count);
}

StatusOr<Value> ListIndex(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_ASSIGN_OR_RETURN(const auto bound,
                            BoundArguments::Bind("index", arguments, {"value"}, 1));
  const std::vector<Value>& items = self.sequence()->items;
  for (size_t i = 0; i < items.size(); ++i) {
    TREELINE_ASSIGN_OR_RETURN(const bool equal, IsEqual(runtime, items[i], bound.Get(0)));
    if (equal) return Value(static_cast<int64_t>(i));
  }
  TREELINE_ASSIGN_OR_RETURN(const std::string repr, ToRepr(runtime, bound.Get(0)));
  return InvalidArgument("{} is not in list", repr);
}

constexpr Builtin kListMethods[] = {{"count", ListCount}, {"index", ListIndex}};

StatusOr<Value> LoopCycle(Runtime&, const Value& self, const Arguments& arguments) {
  if (arguments.positional.empty() || !arguments.named.empty()) {
    return InvalidArgument("no items for cycling given");
  }
  return arguments.positional[self.loop()->index % arguments.positional.size()];
}

constexpr Builtin kLoopMethods[] = {{"cycle", LoopCycle}};

bool IsListOrTuple(const Value& value) {
  const Sequence* sequence = value.sequence();
  return sequence != nullptr &&
         (sequence->type == SequenceType::kList || sequence->type == SequenceType::kTuple);
}

// Python's other methods. Those that change their object are refused by Hugging Face too.
constexpr std::string_view kOtherTextMethods[] = {
    "casefold",    "center",  "encode",     "expandtabs", "format",       "format_map", "index",
    "isalnum",     "isalpha", "isascii",    "isdecimal",  "isidentifier", "islower",    "isnumeric",
    "isprintable", "isspace", "istitle",    "isupper",    "ljust",        "maketrans",  "partition",
    "rindex",      "rjust",   "rpartition", "swapcase",   "translate",    "zfill",      "isdigit"};
constexpr std::string_view kOtherDictMethods[] = {"clear",   "copy",       "fromkeys", "pop",
                                                  "popitem", "setdefault", "update"};
constexpr std::string_view kOtherListMethods[] = {"append", "clear",  "copy",    "extend", "insert",
                                                  "pop",    "remove", "reverse", "sort"};

std::span<const std::string_view> OtherMethods(const Value& object) {
  if (object.is_text()) return kOtherTextMethods;
  if (object.dict() != nullptr) return kOtherDictMethods;
  const Sequence* sequence = object.sequence();
  if (sequence != nullptr && sequence->type == SequenceType::kList) return kOtherListMethods;
  return {};
}

}  // namespace

const Builtin* FindFilter(std::string_view name) {
  const Builtin* filter = Find(TextFilters(), name);
  return filter != nullptr ? filter : Find(SequenceFilters(), name);
}

const Builtin* FindFunction(std::string_view name) { return Find(kFunctions, name); }

const Builtin* FindMethod(const Value& object, std::string_view name) {
  if (object.is_text()) return Find(TextMethods(), name);
  if (object.dict() != nullptr) return Find(kDictMethods, name);
  if (IsListOrTuple(object)) return Find(kListMethods, name);
  if (object.loop() != nullptr) return Find(kLoopMethods, name);
  return nullptr;
}

Status CheckMethodSupported(const Value& object, std::string_view name) {
  const std::span<const std::string_view> others = OtherMethods(object);
  if (std::find(others.begin(), others.end(), name) == others.end()) return OkStatus();
  return InvalidArgument("the method '{}' of {} is not supported", name, TypeName(object));
}

}  // namespace treeline::jinja
