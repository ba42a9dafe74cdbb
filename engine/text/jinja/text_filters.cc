// The filters that make text or numbers.
#include <charconv>
#include <cmath>
#include <string>

#include "engine/text/jinja/arguments.h"
#include "engine/text/jinja/builtins.h"
#include "engine/text/jinja/format.h"
#include "engine/text/jinja/operators.h"
#include "engine/text/jinja/text_operations.h"
#include "engine/text/jinja/unicode.h"

namespace treeline::jinja {
namespace {

// The filter's own title(): words begin after white space and opening brackets, too.
std::string TitleWords(std::string_view text) {
  std::string title;
  bool at_start = true;
  while (!text.empty()) {
    const Character character = FirstCharacter(text);
    const std::string_view bytes = text.substr(0, character.size);
    title += at_start ? ToUpper(bytes) : ToLower(bytes);
    at_start =
        IsSpace(character.code) ||
        (character.size == 1 && std::string_view("-({[<").find(text[0]) != std::string_view::npos);
    text.remove_prefix(character.size);
  }
  return title;
}

template <std::string (*convert)(std::string_view)>
StatusOr<Value> Case(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_RETURN_IF_ERROR(BoundArguments::Bind("the filter", arguments, {}).status());
  TREELINE_ASSIGN_OR_RETURN(const std::string_view text, ToText(runtime, self));
  TREELINE_RETURN_IF_ERROR(runtime.Spend(text.size()));
  return runtime.NewText(convert(text), self.is_markup());
}

StatusOr<Value> Trim(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_ASSIGN_OR_RETURN(const auto bound, BoundArguments::Bind("trim", arguments, {"chars"}));
  TREELINE_ASSIGN_OR_RETURN(const std::string_view text, ToText(runtime, self));
  TREELINE_ASSIGN_OR_RETURN(const std::string_view trimmed,
                            Strip(runtime, text, Side::kBoth, bound.Get(0)));
  return Value(trimmed, self.is_markup());
}

StatusOr<Value> ReplaceFilter(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_ASSIGN_OR_RETURN(const auto bound,
                            BoundArguments::Bind("replace", arguments, {"old", "new", "count"}, 2));
  TREELINE_ASSIGN_OR_RETURN(const std::string_view text, ToText(runtime, self));
  TREELINE_ASSIGN_OR_RETURN(const std::string_view old, ToText(runtime, bound.Get(0)));
  TREELINE_ASSIGN_OR_RETURN(const std::string_view replacement, ToText(runtime, bound.Get(1)));
  const bool all = bound.Get(2).is_none();
  TREELINE_ASSIGN_OR_RETURN(const int64_t count,
                            all ? StatusOr<int64_t>(-1) : bound.GetInteger(2, -1));
  TREELINE_ASSIGN_OR_RETURN(std::string replaced, Replace(runtime, text, old, replacement, count));
  return runtime.NewText(std::move(replaced));
}

StatusOr<Value> String(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_RETURN_IF_ERROR(BoundArguments::Bind("string", arguments, {}).status());
  if (self.is_text()) return self;
  TREELINE_ASSIGN_OR_RETURN(const std::string_view text, ToText(runtime, self));
  return Value(text);
}

StatusOr<Value> Safe(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_RETURN_IF_ERROR(BoundArguments::Bind("safe", arguments, {}).status());
  TREELINE_ASSIGN_OR_RETURN(const std::string_view text, ToText(runtime, self));
  return Value(text, /*markup=*/true);
}

StatusOr<Value> Escape(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_RETURN_IF_ERROR(BoundArguments::Bind("escape", arguments, {}).status());
  if (self.is_markup()) return self;
  TREELINE_ASSIGN_OR_RETURN(const std::string_view text, ToText(runtime, self));
  TREELINE_RETURN_IF_ERROR(runtime.Spend(text.size()));
  return runtime.NewText(EscapeHtml(text), /*markup=*/true);
}

// The text that indents one level: a count of spaces or the text itself.
StatusOr<std::string> Indentation(Runtime& runtime, const Value& width) {
  if (width.is_text()) return std::string(width.text());
  if (!width.is_integral()) {
    return InvalidArgument("the indentation must be a number or text, not {}", TypeName(width));
  }
  const int64_t count = std::max<int64_t>(width.integer(), 0);
  TREELINE_RETURN_IF_ERROR(runtime.Spend(static_cast<size_t>(count)));
  return std::string(static_cast<size_t>(count), ' ');
}

StatusOr<Value> Indent(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_ASSIGN_OR_RETURN(const auto bound,
                            BoundArguments::Bind("indent", arguments, {"width", "first", "blank"}));
  TREELINE_ASSIGN_OR_RETURN(const std::string indentation,
                            Indentation(runtime, bound.Get(0, Value(int64_t{4}))));
  if (self.is_undefined()) return UndefinedError(runtime, *self.missing());
  if (!self.is_text()) return InvalidArgument("indent: needs text, not {}", TypeName(self));
  TREELINE_RETURN_IF_ERROR(runtime.Spend(self.text().size()));
  std::string with_end(self.text());
  with_end += '\n';  // A last empty line counts.
  std::string indented;
  bool is_first = true;
  for (const std::string_view line : SplitLines(with_end, /*keep_ends=*/false)) {
    TREELINE_RETURN_IF_ERROR(runtime.Spend(indentation.size() + line.size()));
    if (!is_first) indented += '\n';
    const bool wanted = is_first ? bound.GetFlag(1) : bound.GetFlag(2) || !line.empty();
    if (wanted) indented += indentation;
    indented += line;
    is_first = false;
  }
  return runtime.NewText(std::move(indented), self.is_markup());
}

StatusOr<JsonStyle> ReadJsonStyle(Runtime& runtime, const BoundArguments& bound) {
  JsonStyle style;
  style.ensure_ascii = bound.GetFlag(0);
  if (const Value indent = bound.Get(1); !indent.is_none()) {
    TREELINE_ASSIGN_OR_RETURN(style.indent, Indentation(runtime, indent));
    style.item_separator = ",";
  }
  if (const Value separators = bound.Get(2); !separators.is_none()) {
    const Sequence* pair = separators.sequence();
    if (pair == nullptr || pair->items.size() != 2 || !pair->items[0].is_text() ||
        !pair->items[1].is_text()) {
      return InvalidArgument("tojson: separators must be a pair of text");
    }
    style.item_separator = pair->items[0].text();
    style.key_separator = pair->items[1].text();
  }
  style.sort_keys = bound.GetFlag(3);
  return style;
}

// The one that Hugging Face puts in place of Jinja2's: it leaves < > & ' as they are.
StatusOr<Value> ToJsonFilter(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_ASSIGN_OR_RETURN(const auto bound, BoundArguments::Bind("tojson", arguments,
                                                                   {"ensure_ascii", "indent",
                                                                    "separators", "sort_keys"}));
  TREELINE_ASSIGN_OR_RETURN(const JsonStyle style, ReadJsonStyle(runtime, bound));
  TREELINE_ASSIGN_OR_RETURN(std::string json, ToJson(runtime, self, style));
  return runtime.NewText(std::move(json));
}

// The number a whole text spells, without surrounding white space.
template <typename T>
std::optional<T> ParseNumber(std::string_view text) {
  text = StripLeft(StripRight(text));
  if (text.starts_with('+') && !text.starts_with("+-")) text.remove_prefix(1);
  T number = {};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) {
    return std::nullopt;
  }
  return number;
}

bool FitsInteger(double number) { return number >= -0x1p63 && number < 0x1p63; }

StatusOr<Value> Int(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_ASSIGN_OR_RETURN(const auto bound,
                            BoundArguments::Bind("int", arguments, {"default", "base"}));
  TREELINE_ASSIGN_OR_RETURN(const int64_t base, bound.GetInteger(1, 10));
  if (base != 10) return InvalidArgument("int: only base 10 is supported");
  const Value fallback = bound.Get(0, Value(int64_t{0}));
  if (self.is_undefined()) return UndefinedError(runtime, *self.missing());
  if (self.is_integral()) return Value(self.integer());
  std::optional<double> number;
  if (self.is_float()) number = self.number();
  if (self.is_text()) {
    TREELINE_RETURN_IF_ERROR(runtime.Spend(self.text().size()));
    if (const auto whole = ParseNumber<int64_t>(self.text())) return Value(*whole);
    number = ParseNumber<double>(self.text());
  }
  if (!number.has_value() || !std::isfinite(*number)) return fallback;
  if (!FitsInteger(*number))
    return InvalidArgument("int: an integer beyond 64 bits is not supported");
  return Value(static_cast<int64_t>(*number));
}

StatusOr<Value> Float(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_ASSIGN_OR_RETURN(const auto bound,
                            BoundArguments::Bind("float", arguments, {"default"}));
  if (self.is_undefined()) return UndefinedError(runtime, *self.missing());
  if (self.is_number()) return Value(self.number());
  if (self.is_text()) {
    TREELINE_RETURN_IF_ERROR(runtime.Spend(self.text().size()));
    if (const auto number = ParseNumber<double>(self.text())) return Value(*number);
  }
  return bound.Get(0, Value(0.0));
}

StatusOr<Value> Abs(Runtime& runtime, const Value& self, const Arguments& arguments) {
  TREELINE_RETURN_IF_ERROR(BoundArguments::Bind("abs", arguments, {}).status());
  if (self.is_undefined()) return UndefinedError(runtime, *self.missing());
  if (!self.is_number()) return InvalidArgument("bad operand type for abs(): '{}'", TypeName(self));
  if (self.is_float()) return Value(std::abs(self.number()));
  return self.integer() < 0 ? Negate(runtime, self) : StatusOr<Value>(Value(self.integer()));
}

StatusOr<Value> Round(Runtime& runtime, const Value& self, const Arguments& arguments) {
  constexpr int64_t kMaxPrecision = 15;
  TREELINE_ASSIGN_OR_RETURN(const auto bound,
                            BoundArguments::Bind("round", arguments, {"precision", "method"}));
  TREELINE_ASSIGN_OR_RETURN(const int64_t precision, bound.GetInteger(0, 0));
  TREELINE_ASSIGN_OR_RETURN(const std::string_view method, bound.GetText(1, "common"));
  if (self.is_undefined()) return UndefinedError(runtime, *self.missing());
  if (!self.is_number()) {
    return InvalidArgument("type {} doesn't define __round__ method", TypeName(self));
  }
  if (precision < 0 || precision > kMaxPrecision) {
    return InvalidArgument("round: a precision outside 0 to {} is not supported", kMaxPrecision);
  }
  if (method == "common") {
    if (self.is_integral()) return Value(self.integer());
    // By way of the decimal digits, as Python rounds; a half goes to the even neighbour.
    const std::string digits = fmt::format("{:.{}f}", self.number(), precision);
    return Value(ParseNumber<double>(digits).value_or(self.number()));
  }
  if (method != "ceil" && method != "floor") {
    return InvalidArgument("method must be common, ceil or floor");
  }
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double scaled = self.number() * scale;
  return Value((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
}

constexpr Builtin kTextFilters[] = {
    {"abs", Abs},
    {"capitalize", Case<Capitalize>},
    {"e", Escape},
    {"escape", Escape},
    {"float", Float},
    {"indent", Indent},
    {"int", Int},
    {"lower", Case<ToLower>},
    {"replace", ReplaceFilter},
    {"round", Round},
    {"safe", Safe},
    {"string", String},
    {"title", Case<TitleWords>},
    {"tojson", ToJsonFilter},
    {"trim", Trim},
    {"upper", Case<ToUpper>},
};

}  // namespace

std::span<const Builtin> TextFilters() { return kTextFilters; }

}  // namespace treeline::jinja
