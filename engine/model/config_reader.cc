#include "engine/model/config_reader.h"

#include <limits>
#include <utility>

namespace treeline {
namespace {

// The value as int64, or nothing where it is no integer of that range.
std::optional<int64_t> ToInt64(const Json& value) {
  if (value.is_number_unsigned()) {
    const uint64_t number = value.get<uint64_t>();
    if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
    return static_cast<int64_t>(number);
  }
  if (value.is_number_integer()) return value.get<int64_t>();
  return std::nullopt;
}

}  // namespace

ConfigReader::ConfigReader(const Json& json, std::string where)
    : json_(json), where_(std::move(where)) {
  TREELINE_CHECK(json.is_object());
}

const Json* ConfigReader::Find(const char* key) const {
  const auto found = json_.find(key);
  return found == json_.end() || found->is_null() ? nullptr : &*found;
}

StatusOr<int32_t> ConfigReader::Integer(const char* key, int32_t min, int32_t max,
                                        std::optional<int32_t> fallback) const {
  const Json* value = Find(key);
  if (value == nullptr && fallback.has_value()) return *fallback;
  if (value == nullptr) return InvalidArgument("{}: {} is missing", where_, key);
  const std::optional<int64_t> number = ToInt64(*value);
  if (!number.has_value() || *number < min || *number > max) {
    return Wrong(key, fmt::format("an integer in [{}, {}]", min, max));
  }
  return static_cast<int32_t>(*number);
}

StatusOr<double> ConfigReader::Number(const char* key, double min, double max,
                                      std::optional<double> fallback) const {
  const Json* value = Find(key);
  if (value == nullptr && fallback.has_value()) return *fallback;
  if (value == nullptr) return InvalidArgument("{}: {} is missing", where_, key);
  const double number =
      value->is_number() ? value->get<double>() : std::numeric_limits<double>::quiet_NaN();
  // Written so that a NaN fails.
  if (!(number >= min && number <= max)) {
    return Wrong(key, fmt::format("a number in [{}, {}]", min, max));
  }
  return number;
}

StatusOr<bool> ConfigReader::Bool(const char* key, bool fallback) const {
  const Json* value = Find(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) return Wrong(key, "true or false");
  return value->get<bool>();
}

StatusOr<std::string> ConfigReader::String(const char* key,
                                           std::optional<std::string> fallback) const {
  const Json* value = Find(key);
  if (value == nullptr && fallback.has_value()) return *std::move(fallback);
  if (value == nullptr) return InvalidArgument("{}: {} is missing", where_, key);
  if (!value->is_string()) return Wrong(key, "a string");
  return value->get<std::string>();
}

Status ConfigReader::Wrong(const char* key, const std::string& expected) const {
  return InvalidArgument("{}: {} must be {}, not {}", where_, key, expected, Show(key));
}

std::string ConfigReader::Show(const char* key) const {
  const Json* value = Find(key);
  TREELINE_CHECK(value != nullptr);
  return ShortText(*value);
}

std::string ShortText(const Json& value) {
  constexpr size_t kMaxShown = 80;
  std::string text = value.dump(/*indent=*/-1, /*indent_char=*/' ', /*ensure_ascii=*/true,
                                Json::error_handler_t::replace);
  if (text.size() > kMaxShown) text = text.substr(0, kMaxShown) + "...";
  return text;
}

}  // namespace treeline
