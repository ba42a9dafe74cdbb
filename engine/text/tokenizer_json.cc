#include "engine/text/tokenizer_json.h"

namespace treeline {
namespace {

Status WrongType(const std::string& where, const char* expected, const Json& value) {
  return InvalidArgument("{}: expected {}, found {}", where, expected, value.type_name());
}

}  // namespace

Status CheckObject(const Json& value, const std::string& where) {
  return value.is_object() ? OkStatus() : WrongType(where, "an object", value);
}

Status CheckArray(const Json& value, const std::string& where) {
  return value.is_array() ? OkStatus() : WrongType(where, "an array", value);
}

StatusOr<int32_t> AsTokenId(const Json& value, const std::string& where) {
  const bool is_negative = !value.is_number_unsigned() && value < 0;
  if (!value.is_number_integer() || is_negative) {
    return WrongType(where, "a token id (an integer >= 0)", value);
  }
  const uint64_t id = value.get<uint64_t>();
  if (id > kMaxTokenId) {
    return InvalidArgument("{}: token id {} is larger than the limit of {}", where, id,
                           kMaxTokenId);
  }
  return static_cast<int32_t>(id);
}

const Json& Member(const Json& object, const std::string& name) {
  static const Json& null = *new Json();
  const auto it = object.find(name);
  return it == object.end() ? null : *it;
}

StatusOr<bool> BoolMember(const Json& object, const std::string& name, bool fallback,
                          const std::string& where) {
  const Json& value = Member(object, name);
  if (value.is_null()) return fallback;
  if (!value.is_boolean()) return WrongType(where + "." + name, "a boolean", value);
  return value.get<bool>();
}

StatusOr<std::string> StringMember(const Json& object, const std::string& name,
                                   const std::string& where) {
  const Json& value = Member(object, name);
  if (!value.is_string()) return WrongType(where + "." + name, "a string", value);
  return value.get<std::string>();
}

StatusOr<Replacement> ReadReplacement(const Json& step, const std::string& where) {
  const Json& pattern = Member(step, "pattern");
  TREELINE_RETURN_IF_ERROR(CheckObject(pattern, where + ".pattern"));
  Replacement result;
  TREELINE_ASSIGN_OR_RETURN(result.from, StringMember(pattern, "String", where + ".pattern"));
  TREELINE_ASSIGN_OR_RETURN(result.to, StringMember(step, "content", where));
  if (result.from.empty()) return InvalidArgument("{}.pattern.String: is empty", where);
  if (result.to.size() > kMaxReplacementBytes) {
    return InvalidArgument("{}.content: {} bytes long; the limit is {}", where, result.to.size(),
                           kMaxReplacementBytes);
  }
  return result;
}

}  // namespace treeline
