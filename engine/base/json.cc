#include "engine/base/json.h"

#include <limits>
#include <vector>

#include "engine/base/file.h"

namespace treeline {

namespace {

// Checks nesting and members over the bytes alone, before anything is built: nlohmann's own
// callback takes quadratic time on arrays of objects. Text that is not JSON may pass; the
// parser refuses it.
Status CheckLimits(std::string_view text, const std::string& what, int max_depth, int max_members) {
  std::vector<int> members;  // One count for each open object or array.
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;  // Skips what is escaped.
      if (c == '"') in_string = false;
      continue;
    }
    if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      members.push_back(0);
      if (static_cast<int>(members.size()) > max_depth) {
        return InvalidArgument("{}: JSON nested deeper than {} levels", what, max_depth);
      }
    } else if ((c == '}' || c == ']') && !members.empty()) {
      members.pop_back();
    } else if (c == ':' && !members.empty() && ++members.back() > max_members) {
      return InvalidArgument("{}: a JSON object with more than {} members", what, max_members);
    }
  }
  return OkStatus();
}

template <typename JsonType>
StatusOr<JsonType> ParseText(std::string_view text, const std::string& what) {
  try {
    return JsonType::parse(text.begin(), text.end());
  } catch (const typename JsonType::parse_error& error) {
    return InvalidArgument("{}: not valid JSON at byte {}: {}", what, error.byte, error.what());
  } catch (const typename JsonType::exception& error) {
    return InvalidArgument("{}: not valid JSON: {}", what, error.what());
  }
}

}  // namespace

StatusOr<Json> ParseJson(std::string_view text, const std::string& what, int max_depth) {
  TREELINE_RETURN_IF_ERROR(CheckLimits(text, what, max_depth, std::numeric_limits<int>::max()));
  return ParseText<Json>(text, what);
}

StatusOr<OrderedJson> ParseOrderedJson(std::string_view text, const std::string& what,
                                       int max_depth) {
  TREELINE_RETURN_IF_ERROR(CheckLimits(text, what, max_depth, kMaxOrderedJsonMembers));
  return ParseText<OrderedJson>(text, what);
}

StatusOr<Json> ParseJsonFile(const std::string& path) {
  TREELINE_ASSIGN_OR_RETURN(std::string text, ReadFile(path));
  return ParseJson(text, path);
}

}  // namespace treeline
