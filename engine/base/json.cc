#include "engine/base/json.h"

#include "engine/base/file.h"

namespace treeline {

StatusOr<Json> ParseJson(std::string_view text, const std::string& what, int max_depth) {
  bool too_deep = false;
  auto limit_depth = [&](int depth, Json::parse_event_t event, Json&) {
    if (depth >= max_depth && (event == Json::parse_event_t::object_start ||
                               event == Json::parse_event_t::array_start)) {
      too_deep = true;
      return false;  // The subtree is discarded, so memory stays bounded by max_depth.
    }
    return true;
  };
  try {
    Json value = Json::parse(text.begin(), text.end(), limit_depth);
    if (too_deep) {
      return InvalidArgument("{}: JSON nested deeper than {} levels", what, max_depth);
    }
    return value;
  } catch (const Json::parse_error& error) {
    return InvalidArgument("{}: not valid JSON at byte {}: {}", what, error.byte, error.what());
  } catch (const Json::exception& error) {
    return InvalidArgument("{}: not valid JSON: {}", what, error.what());
  }
}

StatusOr<Json> ParseJsonFile(const std::string& path) {
  TREELINE_ASSIGN_OR_RETURN(std::string text, ReadFile(path));
  return ParseJson(text, path);
}

}  // namespace treeline
