#include "engine/speculative/token_pairs.h"

#include <algorithm>
#include <array>
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

void TokenPairs::AddScores(int32_t first, std::span<std::pair<int32_t, float>> seconds) const {
  const int32_t* const row = seconds_.data() + starts_[first];
  const float* const scores = scores_.data() + starts_[first];
  const int32_t row_size = starts_[first + 1] - starts_[first];
  if (row_size == 0) return;
  // By halves, a few tokens at once and without branches that nobody could foretell: a search waits
  // for memory again and again, the others go on meanwhile.
  constexpr size_t kAtOnce = 16;
  for (size_t i = 0; i < seconds.size(); i += kAtOnce) {
    const size_t count = std::min(kAtOnce, seconds.size() - i);
    std::array<int32_t, kAtOnce> tokens{}, last{};  // Of the pairs, the last not greater.
    for (size_t j = 0; j < count; ++j) tokens[j] = seconds[i + j].first;
    int32_t size = row_size;
    while (size > 1) {
      const int32_t half = size / 2;
      for (size_t j = 0; j < kAtOnce; ++j) last[j] += row[last[j] + half] <= tokens[j] ? half : 0;
      size -= half;
    }
    for (size_t j = 0; j < count; ++j) {
      seconds[i + j].second += row[last[j]] == tokens[j] ? scores[last[j]] : 0;
    }
  }
}

}  // namespace treeline
