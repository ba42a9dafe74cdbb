// Typed, range-checked reading of one JSON object of a model's configuration. Every error is
// INVALID_ARGUMENT and names the object, the key, what it holds and what it may hold.
//
//   ConfigReader reader(json, "config.json");
//   TREELINE_ASSIGN_OR_RETURN(int32_t layers, reader.Integer("num_hidden_layers", 1, 1024));
//   TREELINE_ASSIGN_OR_RETURN(double theta, reader.Number("rope_theta", 1, 1e9, 10000));
#ifndef TREELINE_ENGINE_MODEL_CONFIG_READER_H_
#define TREELINE_ENGINE_MODEL_CONFIG_READER_H_

#include <cstdint>
#include <optional>
#include <string>

#include "engine/base/json.h"
#include "engine/base/status.h"

namespace treeline {

class ConfigReader {
 public:
  // `where` names the object in messages. REQUIRES: json.is_object(), and it outlives the reader.
  ConfigReader(const Json& json, std::string where);

  const std::string& where() const { return where_; }

  // Null where the key is absent or holds null: Hugging Face writes either for "not set".
  const Json* Find(const char* key) const;
  bool Has(const char* key) const { return Find(key) != nullptr; }

  // The value of a key. Absent: `fallback`, or an error where there is none. Numbers must lie in
  // [min, max].
  StatusOr<int32_t> Integer(const char* key, int32_t min, int32_t max,
                            std::optional<int32_t> fallback = std::nullopt) const;
  StatusOr<double> Number(const char* key, double min, double max,
                          std::optional<double> fallback = std::nullopt) const;
  StatusOr<bool> Bool(const char* key, bool fallback) const;
  StatusOr<std::string> String(const char* key,
                               std::optional<std::string> fallback = std::nullopt) const;

  // "where: key must be `expected`, not VALUE", for rules that the readers above do not know.
  // REQUIRES: Has(key).
  Status Wrong(const char* key, const std::string& expected) const;

  // ShortText of a key's value. REQUIRES: Has(key).
  std::string Show(const char* key) const;

 private:
  const Json& json_;
  std::string where_;
};

// A value as JSON text in ASCII, cut short: for messages.
std::string ShortText(const Json& value);

}  // namespace treeline

#endif  // TREELINE_ENGINE_MODEL_CONFIG_READER_H_
