#include "engine/text/jinja/format.h"

#include <algorithm>
#include <cmath>

#include "engine/text/jinja/unicode.h"

namespace treeline::jinja {
namespace {

std::string FloatText(double number, std::string_view infinity, std::string_view not_a_number) {
  if (std::isnan(number)) return std::string(not_a_number);
  if (std::isinf(number)) return (number < 0 ? "-" : "") + std::string(infinity);
  std::string text = fmt::format("{}", number);  // The shortest that reads back, like repr().
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

std::string PlainText(const Value& value) {
  if (value.is_none()) return "None";
  if (value.is_bool()) return value.bool_value() ? "True" : "False";
  if (value.is_integral()) return fmt::format("{}", value.integer());
  return FloatText(value.number(), "inf", "nan");
}

Status CheckDepth(Runtime& runtime, int depth) {
  TREELINE_RETURN_IF_ERROR(runtime.Step());
  if (depth <= kMaxValueDepth) return OkStatus();
  return InvalidArgument("a value is nested deeper than {} levels", kMaxValueDepth);
}

// Writes repr() of a value, which may share its parts many times over: each is charged again.
class ReprWriter {
 public:
  explicit ReprWriter(Runtime& runtime) : runtime_(runtime) {}

  Status Write(const Value& value, int depth) {
    TREELINE_RETURN_IF_ERROR(CheckDepth(runtime_, depth));
    if (value.is_text()) return WriteText(value);
    if (const Sequence* sequence = value.sequence()) return WriteSequence(*sequence, depth);
    if (const Dict* dict = value.dict()) return WriteDict(*dict, depth);
    if (const Namespace* attributes = value.attributes()) {
      out_ += "<Namespace ";
      TREELINE_RETURN_IF_ERROR(WriteDict(attributes->attributes, depth));
      out_ += ">";
      return OkStatus();
    }
    if (value.is_undefined()) {
      out_ += "Undefined";
    } else if (value.is_none() || value.is_number()) {
      out_ += PlainText(value);
    } else {
      return Unprintable(TypeName(value));
    }
    return OkStatus();
  }

  std::string Take() { return std::move(out_); }

 private:
  static Status Unprintable(std::string_view type) {
    return InvalidArgument("printing a {} is not supported (its text in Python holds an address)",
                           type);
  }

  Status WriteText(const Value& value) {
    TREELINE_RETURN_IF_ERROR(runtime_.Spend(value.text().size()));
    out_ += value.is_markup() ? fmt::format("Markup({})", TextRepr(value.text()))
                              : TextRepr(value.text());
    return OkStatus();
  }

  Status WriteItems(const std::vector<Value>& items, int depth) {
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_ += ", ";
      TREELINE_RETURN_IF_ERROR(Write(items[i], depth + 1));
    }
    return OkStatus();
  }

  Status WriteSequence(const Sequence& sequence, int depth) {
    const std::string_view type = TypeName(Value(const_cast<Sequence*>(&sequence)));
    switch (sequence.type) {
      case SequenceType::kGenerator:
      case SequenceType::kRange:
        return Unprintable(type);
      case SequenceType::kTuple:
        out_ += "(";
        TREELINE_RETURN_IF_ERROR(WriteItems(sequence.items, depth));
        out_ += sequence.items.size() == 1 ? ",)" : ")";
        return OkStatus();
      case SequenceType::kList:
        out_ += "[";
        TREELINE_RETURN_IF_ERROR(WriteItems(sequence.items, depth));
        out_ += "]";
        return OkStatus();
      default:
        out_ += fmt::format("{}([", type);
        TREELINE_RETURN_IF_ERROR(WriteItems(sequence.items, depth));
        out_ += "])";
        return OkStatus();
    }
  }

  Status WriteDict(const Dict& dict, int depth) {
    out_ += "{";
    bool first = true;
    for (const auto& [key, value] : dict.entries()) {
      if (!std::exchange(first, false)) out_ += ", ";
      TREELINE_RETURN_IF_ERROR(Write(key, depth + 1));
      out_ += ": ";
      TREELINE_RETURN_IF_ERROR(Write(value, depth + 1));
    }
    out_ += "}";
    return OkStatus();
  }

  Runtime& runtime_;
  std::string out_;
};

void AppendJsonEscape(char32_t code, std::string* out) {
  if (code >= 0x10000) {
    code -= 0x10000;
    *out += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (code >> 10), 0xDC00 + (code & 0x3FF));
  } else {
    *out += fmt::format("\\u{:04x}", static_cast<uint32_t>(code));
  }
}

void AppendJsonText(std::string_view text, bool ensure_ascii, std::string* out) {
  constexpr std::string_view kEscaped = "\"\\\n\r\t\b\f";
  constexpr std::string_view kLetters = "\"\\nrtbf";
  *out += '"';
  while (!text.empty()) {
    const Character character = FirstCharacter(text);
    const size_t special = kEscaped.find(text[0]);
    if (special != std::string_view::npos) {
      *out += '\\';
      *out += kLetters[special];
    } else if (character.code < 0x20 ||
               (ensure_ascii && character.code >= 0x7F && character.code != kInvalidCode)) {
      AppendJsonEscape(character.code, out);
    } else {
      *out += text.substr(0, character.size);
    }
    text.remove_prefix(character.size);
  }
  *out += '"';
}

class JsonWriter {
 public:
  JsonWriter(Runtime& runtime, const JsonStyle& style) : runtime_(runtime), style_(style) {}

  Status Write(const Value& value, int depth) {
    TREELINE_RETURN_IF_ERROR(CheckDepth(runtime_, depth));
    TREELINE_RETURN_IF_ERROR(
        runtime_.Spend(style_.item_separator.size() + style_.key_separator.size()));
    if (value.is_text()) {
      TREELINE_RETURN_IF_ERROR(runtime_.Spend(value.text().size()));
      AppendJsonText(value.text(), style_.ensure_ascii, &out_);
    } else if (value.is_none() || value.is_number()) {
      out_ += JsonPlain(value);
    } else if (const Dict* dict = value.dict()) {
      return WriteObject(*dict, depth);
    } else if (const Sequence* items = value.sequence();
               items != nullptr &&
               (items->type == SequenceType::kList || items->type == SequenceType::kTuple)) {
      return WriteArray(items->items, depth);
    } else {
      return InvalidArgument("Object of type {} is not JSON serializable", TypeName(value));
    }
    return OkStatus();
  }

  std::string Take() { return std::move(out_); }

 private:
  static std::string JsonPlain(const Value& value) {
    if (value.is_none()) return "null";
    if (value.is_bool()) return value.bool_value() ? "true" : "false";
    return value.is_float() ? FloatText(value.number(), "Infinity", "NaN") : PlainText(value);
  }

  Status NewLine(int depth) {
    if (!style_.indent.has_value()) return OkStatus();
    TREELINE_RETURN_IF_ERROR(runtime_.Spend(style_.indent->size() * depth));
    out_ += '\n';
    for (int i = 0; i < depth; ++i) out_ += *style_.indent;
    return OkStatus();
  }

  Status WriteArray(const std::vector<Value>& items, int depth) {
    if (items.empty()) {
      out_ += "[]";
      return OkStatus();
    }
    out_ += "[";
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      TREELINE_RETURN_IF_ERROR(NewLine(depth + 1));
      TREELINE_RETURN_IF_ERROR(Write(items[i], depth + 1));
    }
    TREELINE_RETURN_IF_ERROR(NewLine(depth));
    out_ += "]";
    return OkStatus();
  }

  Status WriteObject(const Dict& dict, int depth) {
    if (dict.entries().empty()) {
      out_ += "{}";
      return OkStatus();
    }
    TREELINE_ASSIGN_OR_RETURN(const std::vector<Dict::Entry> entries, InOrder(dict));
    out_ += "{";
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      TREELINE_RETURN_IF_ERROR(NewLine(depth + 1));
      const Value& key = entries[i].first;
      TREELINE_RETURN_IF_ERROR(key.is_text()
                                   ? Write(key, depth + 1)
                                   : Write(Value(std::string_view(JsonPlain(key))), depth + 1));
      out_ += style_.key_separator;
      TREELINE_RETURN_IF_ERROR(Write(entries[i].second, depth + 1));
    }
    TREELINE_RETURN_IF_ERROR(NewLine(depth));
    out_ += "}";
    return OkStatus();
  }

  StatusOr<std::vector<Dict::Entry>> InOrder(const Dict& dict) {
    TREELINE_RETURN_IF_ERROR(runtime_.Spend(dict.entries().size() * sizeof(Dict::Entry)));
    std::vector<Dict::Entry> entries = dict.entries();
    if (!style_.sort_keys) return entries;
    for (const auto& [key, value] : entries) {
      if (!key.is_text()) return InvalidArgument("tojson: sort_keys needs keys that are text");
    }
    std::sort(entries.begin(), entries.end(), [](const Dict::Entry& a, const Dict::Entry& b) {
      return a.first.text() < b.first.text();
    });
    return entries;
  }

  Runtime& runtime_;
  const JsonStyle& style_;
  std::string out_;
};

// The type's name as Jinja2 puts it in messages about missing members.
std::string OwnerName(const Value& owner) {
  if (owner.is_none()) return "None";
  std::string_view module;
  if (owner.attributes() != nullptr) module = "jinja2.utils.";
  if (owner.loop() != nullptr || owner.macro() != nullptr) module = "jinja2.runtime.";
  if (owner.is_markup()) module = "markupsafe.";
  return fmt::format("{}{} object", module, TypeName(owner));
}

}  // namespace

StatusOr<std::string_view> ToText(Runtime& runtime, const Value& value) {
  if (value.is_text()) return value.text();
  if (value.is_undefined()) return std::string_view();
  TREELINE_ASSIGN_OR_RETURN(std::string repr, ToRepr(runtime, value));
  TREELINE_ASSIGN_OR_RETURN(const Value text, runtime.NewText(std::move(repr)));
  return text.text();
}

StatusOr<std::string> ToRepr(Runtime& runtime, const Value& value) {
  ReprWriter writer(runtime);
  TREELINE_RETURN_IF_ERROR(writer.Write(value, 0));
  return writer.Take();
}

std::string TextRepr(std::string_view text) {
  const bool double_quoted =
      text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos;
  const char quote = double_quoted ? '"' : '\'';
  std::string out(1, quote);
  while (!text.empty()) {
    const Character character = FirstCharacter(text);
    const auto code = static_cast<uint32_t>(character.code);
    if (code == static_cast<uint32_t>(quote) || code == '\\') {
      out += '\\';
      out += text[0];
    } else if (code == '\n' || code == '\r' || code == '\t') {
      out += code == '\n' ? "\\n" : code == '\r' ? "\\r" : "\\t";
    } else if (code == kInvalidCode || IsPrintable(code)) {
      out += text.substr(0, character.size);
    } else if (code < 0x100) {
      out += fmt::format("\\x{:02x}", code);
    } else {
      out += code < 0x10000 ? fmt::format("\\u{:04x}", code) : fmt::format("\\U{:08x}", code);
    }
    text.remove_prefix(character.size);
  }
  return out += quote;
}

StatusOr<std::string> ToJson(Runtime& runtime, const Value& value, const JsonStyle& style) {
  JsonWriter writer(runtime, style);
  TREELINE_RETURN_IF_ERROR(writer.Write(value, 0));
  return writer.Take();
}

std::string EscapeHtml(std::string_view text) {
  std::string escaped;
  escaped.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      case '"':
        escaped += "&#34;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

Status UndefinedError(Runtime& runtime, const Missing& missing) {
  switch (missing.reason) {
    case Missing::Reason::kHint:
      return InvalidArgument("{}", missing.name.text());
    case Missing::Reason::kName:
      return InvalidArgument("{} is undefined", TextRepr(missing.name.text()));
    case Missing::Reason::kMember:
      break;
  }
  TREELINE_ASSIGN_OR_RETURN(const std::string name, ToRepr(runtime, missing.name));
  if (!missing.name.is_text()) {
    return InvalidArgument("{} has no element {}", OwnerName(missing.owner), name);
  }
  return InvalidArgument("'{}' has no attribute {}", OwnerName(missing.owner), name);
}

}  // namespace treeline::jinja
