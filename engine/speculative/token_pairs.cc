#include "engine/speculative/token_pairs.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace treeline {

TokenPairs::TokenPairs(std::vector<int32_t> starts, std::vector<int32_t> seconds,
                       std::vector<float> scores)
    : starts_(std::move(starts)), seconds_(std::move(seconds)), scores_(std::move(scores)) {}

StatusOr<TokenPairs> TokenPairs::Create(std::vector<int32_t> starts, std::vector<int32_t> seconds,
                                        std::vector<float> scores, const std::string& source) {
  const int32_t size = static_cast<int32_t>(seconds.size());
  if (starts.size() < 2 || starts.front() != 0 || starts.back() != size ||
      !std::is_sorted(starts.begin(), starts.end()) || scores.size() != seconds.size()) {
    return InvalidArgument("{}: the pairs of each first token do not lie one after the other",
                           source);
  }
  const int32_t vocab = static_cast<int32_t>(starts.size()) - 1;
  for (int32_t first = 0; first < vocab; ++first) {
    int32_t previous = -1;
    for (int32_t i = starts[first]; i < starts[first + 1]; ++i) {
      if (seconds[i] <= previous || seconds[i] >= vocab) {
        return InvalidArgument(
            "{}: tokens that follow token {}: {} comes after {}; they must ascend, below {}",
            source, first, seconds[i], previous, vocab);
      }
      previous = seconds[i];
      if (!std::isfinite(scores[i])) {
        return InvalidArgument("{}: the score of tokens {} and {} is not finite", source, first,
                               seconds[i]);
      }
    }
  }
  return TokenPairs(std::move(starts), std::move(seconds), std::move(scores));
}

float TokenPairs::Score(int32_t first, int32_t second) const {
  const auto begin = seconds_.begin() + starts_[first], end = seconds_.begin() + starts_[first + 1];
  const auto found = std::lower_bound(begin, end, second);
  return found == end || *found != second ? 0 : scores_[found - seconds_.begin()];
}

}  // namespace treeline
