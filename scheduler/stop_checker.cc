#include "scheduler/stop_checker.h"

#include <algorithm>
#include <utility>

namespace treeline {

StopChecker::Matcher::Matcher(const std::string& pattern)
    : pattern_(pattern), borders_(pattern.size(), 0) {
  size_t border = 0;
  for (size_t i = 1; i < pattern_.size(); ++i) {
    while (border > 0 && pattern_[i] != pattern_[border]) border = borders_[border - 1];
    if (pattern_[i] == pattern_[border]) ++border;
    borders_[i] = border;
  }
}

size_t StopChecker::Matcher::Push(char byte) {
  while (length_ > 0 && byte != pattern_[length_]) length_ = borders_[length_ - 1];
  if (byte == pattern_[length_]) ++length_;
  return length_;
}

StopChecker::StopChecker(const std::vector<std::string>& stop_strings)
    : matchers_(stop_strings.begin(), stop_strings.end()) {}

std::string StopChecker::Push(std::string_view text) {
  if (stopped_) return "";
  size_t hold = 0;
  for (const char byte : text) {
    held_.push_back(byte);
    hold = 0;
    size_t match = 0;
    for (Matcher& matcher : matchers_) {
      const size_t length = matcher.Push(byte);
      hold = std::max(hold, length);
      if (matcher.complete()) match = std::max(match, length);
    }
    if (match > 0) {
      stopped_ = true;
      held_.resize(held_.size() - match);
      return std::exchange(held_, "");
    }
  }
  if (text.empty()) return "";
  std::string clear = held_.substr(0, held_.size() - hold);
  held_.erase(0, clear.size());
  return clear;
}

std::string StopChecker::Flush() { return std::exchange(held_, ""); }

}  // namespace treeline
