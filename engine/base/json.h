// JSON from files and clients, parsed with limits. The types are nlohmann::json and
// nlohmann::ordered_json; the parsers below are the only way in, so that depth and encoding
// are always checked.
#ifndef TREELINE_ENGINE_BASE_JSON_H_
#define TREELINE_ENGINE_BASE_JSON_H_

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "engine/base/status.h"

namespace treeline {

using Json = nlohmann::json;
// Keeps the members of objects in the order of the text, for what a model sees.
using OrderedJson = nlohmann::ordered_json;

inline constexpr int kMaxJsonDepth = 64;
// Members of one object of an OrderedJson, which finds a member by linear search: without
// the limit a hostile text would take quadratic time.
inline constexpr int kMaxOrderedJsonMembers = 1024;

// Parses UTF-8 JSON. INVALID_ARGUMENT with the byte position for bad syntax, bad UTF-8,
// or nesting deeper than max_depth. `what` names the source in the message
// ("config.json", "the request body").
StatusOr<Json> ParseJson(std::string_view text, const std::string& what,
                         int max_depth = kMaxJsonDepth);

// The same, keeping the order of members; at most kMaxOrderedJsonMembers in one object.
StatusOr<OrderedJson> ParseOrderedJson(std::string_view text, const std::string& what,
                                       int max_depth = kMaxJsonDepth);

// Reads and parses a file. NOT_FOUND where it does not exist.
StatusOr<Json> ParseJsonFile(const std::string& path);

}  // namespace treeline

#endif  // TREELINE_ENGINE_BASE_JSON_H_
