// Reads the fields of one JSON object, one call a field. A field that is missing or
// null keeps its default. The first bad one decides status(), naming the field;
// Unknown() lists those that nobody asked for. The same calls can describe the fields as
// JSON Schema, so that what is documented is what is checked. Not thread-safe.
#ifndef TREELINE_SERVER_JSON_FIELDS_H_
#define TREELINE_SERVER_JSON_FIELDS_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "engine/base/json.h"
#include "engine/base/status.h"

namespace treeline {

class JsonFields {
 public:
  // `prefix` stands before names in errors ("stream_options."). REQUIRES: object.is_object();
  // it outlives this.
  explicit JsonFields(const Json& object, std::string prefix = "")
      : object_(object), prefix_(std::move(prefix)) {}

  using Reader = std::function<void(JsonFields*)>;
  // The "properties" of the objects that `read` reads.
  static Json Properties(const Reader& read);

  // The field's value where present and not null, whatever its type.
  const Json* Find(const std::string& name);
  // What Properties says of a field, besides or in place of what the calls below know: `schema` is
  // only called where it is asked for.
  void Describe(const std::string& name, const std::function<Json()>& schema);

  void Bool(const std::string& name, bool* value);
  void Number(const std::string& name, double min, double max, float* value);
  void Integer(const std::string& name, int64_t min, int64_t max, int32_t* value);
  void Integer(const std::string& name, int64_t min, int64_t max, std::optional<int32_t>* value);
  // Any 64-bit integer; a negative one is taken modulo 2^64.
  void Seed(const std::string& name, std::optional<uint64_t>* value);
  void String(const std::string& name, std::string* value);
  // An object, whose fields `read` reads.
  void Object(const std::string& name, const Reader& read);

  // Records the first error.
  void Fail(const Status& status);
  const Status& status() const { return status_; }

  std::vector<std::string> Unknown() const;

 private:
  Status Wrong(const std::string& name, const std::string& expected, const Json& got) const;

  const Json& object_;
  const std::string prefix_;
  Json* properties_ = nullptr;  // Described here, where set.
  std::set<std::string> known_;
  std::vector<std::string> unknown_;  // Of objects within.
  Status status_;
};

// "'...'" or a shortened form of a value, for messages.
std::string Quote(const Json& value);

// JSON Schema of one token id.
Json TokenIdSchema(int32_t vocab_size);

// Token ids: an array of integers in [0, vocab_size). `name` is the field at fault.
StatusOr<std::vector<int32_t>> ParseTokenIds(const Json& value, const std::string& name,
                                             int32_t vocab_size);

}  // namespace treeline

#endif  // TREELINE_SERVER_JSON_FIELDS_H_
