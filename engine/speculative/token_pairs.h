// Which tokens follow which: what draft heads, each of which guesses for a place of its own, do not
// know of one another's guesses. Pairs of tokens that were seen next to each other have a score,
// how much likelier the second is after the first than it would be by itself (a difference of
// logs); pairs that were not have none. Scores of one first token may all be off by a constant.
#ifndef TREELINE_ENGINE_SPECULATIVE_TOKEN_PAIRS_H_
#define TREELINE_ENGINE_SPECULATIVE_TOKEN_PAIRS_H_

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/status.h"

namespace treeline {

// Immutable; safe from any thread.
class TokenPairs {
 public:
  // `starts` [vocab + 1]: where in `seconds` and `scores` the pairs of a first token begin; its
  // second tokens ascend. INVALID_ARGUMENT that begins with `source` where this is not so.
  static StatusOr<TokenPairs> Create(std::vector<int32_t> starts, std::vector<int32_t> seconds,
                                     std::vector<float> scores, const std::string& source);

  // Adds to the number beside each second token the score of its pair; nothing where the pair was
  // not seen. REQUIRES: 0 <= first < vocab.
  void AddScores(int32_t first, std::span<std::pair<int32_t, float>> seconds) const;

  int32_t vocab() const { return static_cast<int32_t>(starts_.size()) - 1; }

 private:
  TokenPairs(std::vector<int32_t> starts, std::vector<int32_t> seconds, std::vector<float> scores);

  std::vector<int32_t> starts_, seconds_;
  std::vector<float> scores_;
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_SPECULATIVE_TOKEN_PAIRS_H_
