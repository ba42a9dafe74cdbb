#include "engine/base/json.h"

#include <type_traits>
#include <vector>

#include "engine/base/file.h"

namespace treeline {

namespace {

// Watches a parse through nlohmann's callback. A subtree past a limit is discarded, so memory
// and time stay bounded while the parser runs to the end of the text.
template <typename JsonType>
class LimitKeeper {
 public:
  using Event = typename JsonType::parse_event_t;

  LimitKeeper(const std::string& what, int max_depth) : what_(what), max_depth_(max_depth) {}

  bool Keep(int depth, Event event) {
    if (!status_.ok()) return false;
    const bool opens = event == Event::object_start || event == Event::array_start;
    if (opens && depth >= max_depth_) {
      status_ = InvalidArgument("{}: JSON nested deeper than {} levels", what_, max_depth_);
    } else if (std::is_same_v<JsonType, OrderedJson>) {
      CountMembers(event);
    }
    return status_.ok();
  }

  const Status& status() const { return status_; }

 private:
  void CountMembers(Event event) {
    if (event == Event::object_start) {
      members_.push_back(0);
    } else if (event == Event::object_end) {
      members_.pop_back();
    } else if (event == Event::key && ++members_.back() > kMaxOrderedJsonMembers) {
      status_ = InvalidArgument("{}: a JSON object with more than {} members", what_,
                                kMaxOrderedJsonMembers);
    }
  }

  const std::string& what_;
  const int max_depth_;
  std::vector<int> members_;  // One count for each open object.
  Status status_;
};

template <typename JsonType>
StatusOr<JsonType> ParseWithLimits(std::string_view text, const std::string& what, int max_depth) {
  LimitKeeper<JsonType> limits(what, max_depth);
  auto keep = [&](int depth, typename JsonType::parse_event_t event, JsonType&) {
    return limits.Keep(depth, event);
  };
  try {
    JsonType value = JsonType::parse(text.begin(), text.end(), keep);
    TREELINE_RETURN_IF_ERROR(limits.status());
    return value;
  } catch (const typename JsonType::parse_error& error) {
    return InvalidArgument("{}: not valid JSON at byte {}: {}", what, error.byte, error.what());
  } catch (const typename JsonType::exception& error) {
    return InvalidArgument("{}: not valid JSON: {}", what, error.what());
  }
}

}  // namespace

StatusOr<Json> ParseJson(std::string_view text, const std::string& what, int max_depth) {
  return ParseWithLimits<Json>(text, what, max_depth);
}

StatusOr<OrderedJson> ParseOrderedJson(std::string_view text, const std::string& what,
                                       int max_depth) {
  return ParseWithLimits<OrderedJson>(text, what, max_depth);
}

StatusOr<Json> ParseJsonFile(const std::string& path) {
  TREELINE_ASSIGN_OR_RETURN(std::string text, ReadFile(path));
  return ParseJson(text, path);
}

}  // namespace treeline
