// The methods of str.
#include <algorithm>
#include <string>

#include "engine/text/jinja/arguments.h"
#include "engine/text/jinja/builtins.h"
#include "engine/text/jinja/operators.h"
#include "engine/text/jinja/text_operations.h"
#include "engine/text/jinja/unicode.h"

namespace treeline::jinja {
namespace {

template <Side side>
StatusOr<Value> StripMethod(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_ASSIGN_OR_RETURN(const auto bound, BoundArguments::Bind("strip", arguments, {"chars"}));
  TREELINE_ASSIGN_OR_RETURN(const std::string_view stripped,
                            Strip(runtime, self.text(), side, bound.Get(0)));
  return Value(stripped, self.is_markup());
}

// str.title(): a letter after anything that is not a letter is in upper case.
std::string Title(std::string_view text) {
  std::string title;
  bool inside_word = false;
  while (!text.empty()) {
    const Character character = FirstCharacter(text);
    const std::string_view bytes = text.substr(0, character.size);
    title += inside_word ? ToLower(bytes) : ToUpper(bytes);
    inside_word = IsCased(character.code);
    text.remove_prefix(character.size);
  }
  return title;
}

template <std::string (*convert)(std::string_view)>
StatusOr<Value> CaseMethod(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_RETURN_IF_ERROR(BoundArguments::Bind("the method", arguments, {}).status());
  TREELINE_RETURN_IF_ERROR(runtime.Spend(self.text().size()));
  return runtime.NewText(convert(self.text()), self.is_markup());
}

// Whether the text starts (or ends) with the argument, or with one of a tuple.
template <bool at_end>
StatusOr<Value> AffixMethod(Runtime& runtime, const Value& self, const Arguments& arguments) {
  constexpr std::string_view kName = at_end ? "endswith" : "startswith";
  TREELINE_ASSIGN_OR_RETURN(const auto bound, BoundArguments::Bind(kName, arguments, {"affix"}, 1));
  const Value& argument = arguments.positional.empty() ? bound.Get(0) : arguments.positional[0];
  std::vector<Value> affixes = {argument};
  const Sequence* tuple = argument.sequence();
  if (tuple != nullptr && tuple->type == SequenceType::kTuple) affixes = tuple->items;
  for (const Value& affix : affixes) {
    TREELINE_RETURN_IF_ERROR(runtime.Step());
    if (!affix.is_text()) {
      return InvalidArgument("{} first arg must be str or a tuple of str, not {}", kName,
                             TypeName(affix));
    }
    TREELINE_RETURN_IF_ERROR(runtime.Spend(std::min(affix.text().size(), self.text().size())));
    const std::string_view text = self.text();
    if (at_end ? text.ends_with(affix.text()) : text.starts_with(affix.text())) return Value(true);
  }
  return Value(false);
}

StatusOr<Value> ReplaceMethod(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_ASSIGN_OR_RETURN(const auto bound,
                            BoundArguments::Bind("replace", arguments, {"old", "new", "count"}, 2));
  TREELINE_ASSIGN_OR_RETURN(const std::string_view old, bound.GetText(0));
  TREELINE_ASSIGN_OR_RETURN(const std::string_view replacement, bound.GetText(1));
  TREELINE_ASSIGN_OR_RETURN(const int64_t count, bound.GetInteger(2, -1));
  TREELINE_ASSIGN_OR_RETURN(std::string replaced,
                            Replace(runtime, self.text(), old, replacement, count));
  return runtime.NewText(std::move(replaced));
}

using Parts = std::vector<std::string_view>;

// At white space; parts are never empty, but for the rest after `limit` splits.
Parts SplitAtSpace(std::string_view text, size_t limit) {
  Parts parts;
  for (text = StripLeft(text); !text.empty() && parts.size() < limit; text = StripLeft(text)) {
    size_t end = 0;
    while (end < text.size()) {
      const Character character = FirstCharacter(text.substr(end));
      if (IsSpace(character.code)) break;
      end += character.size;
    }
    parts.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
  if (!text.empty()) parts.push_back(text);
  return parts;
}

Parts SplitAt(std::string_view text, std::string_view separator, size_t limit) {
  Parts parts;
  while (parts.size() < limit) {
    const size_t place = text.find(separator);
    if (place == std::string_view::npos) break;
    parts.push_back(text.substr(0, place));
    text.remove_prefix(place + separator.size());
  }
  parts.push_back(text);
  return parts;
}

Parts SplitAtFromRight(std::string_view text, std::string_view separator, size_t limit) {
  Parts parts;
  while (parts.size() < limit) {
    const size_t place = text.rfind(separator);
    if (place == std::string_view::npos) break;
    parts.push_back(text.substr(place + separator.size()));
    text = text.substr(0, place);
  }
  parts.push_back(text);
  std::reverse(parts.begin(), parts.end());
  return parts;
}

StatusOr<Value> TextList(Runtime& runtime, const Parts& parts) {
  TREELINE_RETURN_IF_ERROR(runtime.Spend(parts.size() * sizeof(Value)));
  std::vector<Value> items;
  items.reserve(parts.size());
  for (const std::string_view part : parts) items.emplace_back(part);
  return runtime.NewSequence(SequenceType::kList, std::move(items));
}

template <bool from_right>
StatusOr<Value> SplitMethod(Runtime& runtime, const Value& self, const Arguments& arguments) {
  constexpr std::string_view kName = from_right ? "rsplit" : "split";
  TREELINE_ASSIGN_OR_RETURN(const auto bound,
                            BoundArguments::Bind(kName, arguments, {"sep", "maxsplit"}));
  TREELINE_ASSIGN_OR_RETURN(const int64_t asked, bound.GetInteger(1, -1));
  const size_t limit = asked < 0 ? std::string_view::npos : static_cast<size_t>(asked);
  TREELINE_RETURN_IF_ERROR(runtime.Spend(self.text().size()));
  if (bound.Get(0).is_none()) {
    if (from_right && asked >= 0) {
      return InvalidArgument("rsplit() at white space with maxsplit is not supported");
    }
    return TextList(runtime, SplitAtSpace(self.text(), limit));
  }
  TREELINE_ASSIGN_OR_RETURN(const std::string_view separator, bound.GetText(0));
  if (separator.empty()) return InvalidArgument("empty separator");
  return TextList(runtime, from_right ? SplitAtFromRight(self.text(), separator, limit)
                                      : SplitAt(self.text(), separator, limit));
}

StatusOr<Value> SplitLinesMethod(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_ASSIGN_OR_RETURN(const auto bound,
                            BoundArguments::Bind("splitlines", arguments, {"keepends"}));
  TREELINE_RETURN_IF_ERROR(runtime.Spend(self.text().size()));
  return TextList(runtime, SplitLines(self.text(), bound.GetFlag(0)));
}

StatusOr<Value> JoinMethod(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_ASSIGN_OR_RETURN(const auto bound,
                            BoundArguments::Bind("join", arguments, {"iterable"}, 1));
  TREELINE_ASSIGN_OR_RETURN(const std::vector<Value>* items, Iterate(runtime, bound.Get(0)));
  Parts parts;
  for (const Value& item : *items) {
    if (!item.is_text()) {
      return InvalidArgument("sequence item {}: expected str instance, {} found", parts.size(),
                             TypeName(item));
    }
    parts.push_back(item.text());
  }
  TREELINE_ASSIGN_OR_RETURN(std::string joined, Join(runtime, self.text(), parts));
  return runtime.NewText(std::move(joined));
}

// The place of a part in characters, or -1.
template <bool from_right>
StatusOr<Value> FindMethodOf(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_ASSIGN_OR_RETURN(const auto bound, BoundArguments::Bind("find", arguments, {"sub"}, 1));
  TREELINE_ASSIGN_OR_RETURN(const std::string_view part, bound.GetText(0));
  TREELINE_RETURN_IF_ERROR(runtime.Spend(self.text().size()));
  const size_t place = from_right ? self.text().rfind(part) : self.text().find(part);
  if (place == std::string_view::npos) return Value(int64_t{-1});
  return Value(static_cast<int64_t>(CountCharacters(self.text().substr(0, place))));
}

StatusOr<Value> CountMethod(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_ASSIGN_OR_RETURN(const auto bound, BoundArguments::Bind("count", arguments, {"sub"}, 1));
  TREELINE_ASSIGN_OR_RETURN(const std::string_view part, bound.GetText(0));
  TREELINE_RETURN_IF_ERROR(runtime.Spend(self.text().size()));
  if (part.empty()) return Value(static_cast<int64_t>(CountCharacters(self.text())) + 1);
  return Value(static_cast<int64_t>(SplitAt(self.text(), part, std::string_view::npos).size() - 1));
}

template <bool at_end>
StatusOr<Value> RemoveMethod(Runtime& runtime, const Value& self, const Arguments& arguments) {
  constexpr std::string_view kName = at_end ? "removesuffix" : "removeprefix";
  TREELINE_ASSIGN_OR_RETURN(const auto bound, BoundArguments::Bind(kName, arguments, {"affix"}, 1));
  TREELINE_ASSIGN_OR_RETURN(const std::string_view affix, bound.GetText(0));
  std::string_view text = self.text();
  TREELINE_RETURN_IF_ERROR(runtime.Spend(std::min(affix.size(), text.size())));
  if (at_end && text.ends_with(affix)) text.remove_suffix(affix.size());
  if (!at_end && text.starts_with(affix)) text.remove_prefix(affix.size());
  return Value(text);
}

constexpr Builtin kTextMethods[] = {
    {"capitalize", CaseMethod<Capitalize>},
    {"count", CountMethod},
    {"endswith", AffixMethod<true>},
    {"find", FindMethodOf<false>},
    {"join", JoinMethod},
    {"lower", CaseMethod<ToLower>},
    {"lstrip", StripMethod<Side::kLeft>},
    {"removeprefix", RemoveMethod<false>},
    {"removesuffix", RemoveMethod<true>},
    {"replace", ReplaceMethod},
    {"rfind", FindMethodOf<true>},
    {"rsplit", SplitMethod<true>},
    {"rstrip", StripMethod<Side::kRight>},
    {"split", SplitMethod<false>},
    {"splitlines", SplitLinesMethod},
    {"startswith", AffixMethod<false>},
    {"strip", StripMethod<Side::kBoth>},
    {"title", CaseMethod<Title>},
    {"upper", CaseMethod<ToUpper>},
};

}  // namespace

std::span<const Builtin> TextMethods() { return kTextMethods; }

}  // namespace treeline::jinja
