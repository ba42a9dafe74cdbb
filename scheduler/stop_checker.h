// Finds stop strings in text that arrives in pieces and holds back what may still
// become one. All stop strings are searched at once, byte by byte; the match that is
// complete first wins (the longest, where several end together), so the result does
// not depend on how the text was cut. Linear time. One per sequence; not thread-safe.
#ifndef TREELINE_SCHEDULER_STOP_CHECKER_H_
#define TREELINE_SCHEDULER_STOP_CHECKER_H_

#include <string>
#include <string_view>
#include <vector>

namespace treeline {

class StopChecker {
 public:
  // REQUIRES: no stop string is empty.
  explicit StopChecker(const std::vector<std::string>& stop_strings);

  // Takes the next piece and returns the text that is now certain to come before any stop
  // string. Whole characters in and whole characters in the stop strings give whole
  // characters out. After a match nothing is taken or returned any more.
  std::string Push(std::string_view text);
  // What is held back, at the end of the text.
  std::string Flush();

  bool stopped() const { return stopped_; }

 private:
  // Knuth-Morris-Pratt search for one stop string.
  class Matcher {
   public:
    explicit Matcher(const std::string& pattern);
    // The length of the longest prefix of the pattern that the text now ends with.
    size_t Push(char byte);
    bool complete() const { return length_ == pattern_.size(); }

   private:
    std::string pattern_;
    std::vector<size_t> borders_;  // [i] = longest proper border of pattern_[0, i + 1).
    size_t length_ = 0;
  };

  std::vector<Matcher> matchers_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace treeline

#endif  // TREELINE_SCHEDULER_STOP_CHECKER_H_
