#include "server/json_fields.h"

#include <utility>

#include "server/status_codes.h"

namespace treeline {

namespace {

constexpr size_t kMaxQuotedBytes = 60;

// The integer a JSON number stands for; 5.0 counts, as JavaScript clients write it.
std::optional<int64_t> AsInteger(const Json& value) {
  constexpr double kExact = 9007199254740992.0;  // 2^53
  if (value.is_number_unsigned()) {
    const uint64_t number = value.get<uint64_t>();
    if (number > INT64_MAX) return std::nullopt;
    return static_cast<int64_t>(number);
  }
  if (value.is_number_integer()) return value.get<int64_t>();
  if (!value.is_number_float()) return std::nullopt;
  const double number = value.get<double>();
  if (!(number >= -kExact && number <= kExact)) return std::nullopt;
  const auto integer = static_cast<int64_t>(number);
  if (static_cast<double>(integer) != number) return std::nullopt;
  return integer;
}

}  // namespace

std::string Quote(const Json& value) {
  if (value.is_structured()) return value.is_array() ? "an array" : "an object";
  std::string text = Dump(value);
  if (text.size() > kMaxQuotedBytes) text = text.substr(0, kMaxQuotedBytes) + "...";
  return text;
}

Json JsonFields::Properties(const Reader& read) {
  const Json nothing = Json::object();
  Json properties = Json::object();
  JsonFields fields(nothing);
  fields.properties_ = &properties;
  read(&fields);
  return properties;
}

void JsonFields::Describe(const std::string& name, const std::function<Json()>& schema) {
  if (properties_ != nullptr) (*properties_)[name].update(schema());
}

const Json* JsonFields::Find(const std::string& name) {
  known_.insert(name);
  Describe(name, [] { return Json::object(); });
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

Status JsonFields::Wrong(const std::string& name, const std::string& expected,
                         const Json& got) const {
  const std::string param = prefix_ + name;
  return FieldError(param, "{} must be {}, not {}", param, expected, Quote(got));
}

void JsonFields::Fail(const Status& status) {
  if (status_.ok()) status_ = status;
}

void JsonFields::Bool(const std::string& name, bool* value) {
  Describe(name, [] { return Json{{"type", {"boolean", "null"}}}; });
  const Json* found = Find(name);
  if (found == nullptr) return;
  if (!found->is_boolean()) return Fail(Wrong(name, "true or false", *found));
  *value = found->get<bool>();
}

void JsonFields::Number(const std::string& name, double min, double max, float* value) {
  Describe(name, [=] {
    return Json{{"type", {"number", "null"}}, {"minimum", min}, {"maximum", max}};
  });
  const Json* found = Find(name);
  if (found == nullptr) return;
  const double number = found->is_number() ? found->get<double>() : 0;
  if (!found->is_number() || !(number >= min && number <= max)) {
    return Fail(Wrong(name, fmt::format("a number from {} to {}", min, max), *found));
  }
  *value = static_cast<float>(number);
}

void JsonFields::Integer(const std::string& name, int64_t min, int64_t max,
                         std::optional<int32_t>* value) {
  Describe(name, [=] {
    return Json{{"type", {"integer", "null"}}, {"minimum", min}, {"maximum", max}};
  });
  const Json* found = Find(name);
  if (found == nullptr) return;
  const std::optional<int64_t> number = AsInteger(*found);
  if (!number || *number < min || *number > max) {
    return Fail(Wrong(name, fmt::format("an integer from {} to {}", min, max), *found));
  }
  *value = static_cast<int32_t>(*number);
}

void JsonFields::Integer(const std::string& name, int64_t min, int64_t max, int32_t* value) {
  std::optional<int32_t> found;
  Integer(name, min, max, &found);
  if (found) *value = *found;
}

void JsonFields::Seed(const std::string& name, std::optional<uint64_t>* value) {
  Describe(name, [] {
    return Json{{"type", {"integer", "null"}}, {"minimum", INT64_MIN}, {"maximum", UINT64_MAX}};
  });
  const Json* found = Find(name);
  if (found == nullptr) return;
  if (found->is_number_unsigned()) {
    *value = found->get<uint64_t>();
  } else if (const std::optional<int64_t> number = AsInteger(*found)) {
    *value = static_cast<uint64_t>(*number);
  } else {
    Fail(Wrong(name, "an integer", *found));
  }
}

void JsonFields::String(const std::string& name, std::string* value) {
  Describe(name, [] { return Json{{"type", {"string", "null"}}}; });
  const Json* found = Find(name);
  if (found == nullptr) return;
  if (!found->is_string()) return Fail(Wrong(name, "a string", *found));
  *value = found->get_ref<const std::string&>();
}

void JsonFields::Object(const std::string& name, const Reader& read) {
  Describe(name, [&] {
    return Json{{"type", {"object", "null"}}, {"properties", Properties(read)}};
  });
  const Json* found = Find(name);
  if (found == nullptr) return;
  if (!found->is_object()) return Fail(Wrong(name, "an object", *found));
  JsonFields fields(*found, prefix_ + name + ".");
  read(&fields);
  Fail(fields.status());
  const std::vector<std::string> unknown = fields.Unknown();
  unknown_.insert(unknown_.end(), unknown.begin(), unknown.end());
}

std::vector<std::string> JsonFields::Unknown() const {
  std::vector<std::string> unknown = unknown_;
  for (const auto& [name, value] : object_.items()) {
    if (known_.count(name) == 0) unknown.push_back(prefix_ + name);
  }
  return unknown;
}

Json TokenIdSchema(int32_t vocab_size) {
  return {{"type", "integer"}, {"minimum", 0}, {"maximum", vocab_size - 1}};
}

StatusOr<std::vector<int32_t>> ParseTokenIds(const Json& value, const std::string& name,
                                             int32_t vocab_size) {
  if (!value.is_array()) {
    return FieldError(name, "{} must be an array of token ids, not {}", name, Quote(value));
  }
  std::vector<int32_t> ids;
  ids.reserve(value.size());
  for (const Json& item : value) {
    const std::optional<int64_t> id = AsInteger(item);
    if (!id || *id < 0 || *id >= vocab_size) {
      return FieldError(name, "{}[{}] must be a token id from 0 to {}, not {}", name, ids.size(),
                        vocab_size - 1, Quote(item));
    }
    ids.push_back(static_cast<int32_t>(*id));
  }
  return ids;
}

}  // namespace treeline
