#include "engine/speculative/head_guesses.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <queue>

namespace treeline {
namespace {

// A guess of this rank, after an earlier guess or (-1) the last known token.
struct Path {
  float logprob;  // Of all its guesses together.
  int32_t parent;
  size_t head;
  const RankedTokens* ranked;  // The head's guesses, in their order after that one.
  size_t rank;
  bool operator<(const Path& other) const { return logprob < other.logprob; }
};

// The log of the probability that the tokens have together.
float LogSum(const RankedTokens& tokens) {
  float largest = tokens[0].second;
  for (const auto& [token, logprob] : tokens) largest = std::max(largest, logprob);
  float sum = 0;
  for (const auto& [token, logprob] : tokens) sum += std::exp(logprob - largest);
  return largest + std::log(sum);
}

// A head's guesses, of LogSum `total`, as they are after the token `before`. REQUIRES: guesses not
// empty.
RankedTokens After(int32_t before, RankedTokens guesses, float total, const TokenPairs& pairs) {
  for (auto& [token, logprob] : guesses) logprob += pairs.Score(before, token);
  const float correction = total - LogSum(guesses);
  for (auto& [token, logprob] : guesses) logprob += correction;
  std::sort(guesses.begin(), guesses.end(), [](const auto& a, const auto& b) {
    return a.second > b.second || (a.second == b.second && a.first < b.first);
  });
  return guesses;
}

}  // namespace

Guesses LikeliestPaths(const HeadGuesses& heads, int32_t count, int32_t known,
                       const TokenPairs* pairs) {
  // Best first: a path is taken before those that are one guess longer, or end in the next best.
  std::priority_queue<Path> paths;
  const auto push = [&](float above, int32_t parent, size_t head, const RankedTokens& ranked,
                        size_t rank) {
    if (rank < ranked.size()) {
      paths.push({above + ranked[rank].second, parent, head, &ranked, rank});
    }
  };
  std::deque<RankedTokens> rankings;  // Those that pairs made: they stay where they are.
  std::vector<float> totals;          // [heads] the LogSum of each, with pairs.
  for (const RankedTokens& head : heads) {
    totals.push_back(pairs == nullptr || head.empty() ? 0 : LogSum(head));
  }
  const auto push_first = [&](float above, int32_t parent, size_t head, int32_t before) {
    if (head == heads.size() || heads[head].empty()) return;
    const bool has_pairs = pairs != nullptr && before >= 0;
    push(above, parent, head,
         has_pairs ? rankings.emplace_back(After(before, heads[head], totals[head], *pairs))
                   : heads[head],
         0);
  };
  push_first(0, -1, 0, known);
  Guesses guesses;
  while (static_cast<int32_t>(guesses.size()) < count && !paths.empty()) {
    const Path path = paths.top();
    paths.pop();
    const auto [token, logprob] = (*path.ranked)[path.rank];
    push(path.logprob - logprob, path.parent, path.head, *path.ranked, path.rank + 1);
    push_first(path.logprob, static_cast<int32_t>(guesses.size()), path.head + 1, token);
    guesses.push_back({path.parent, token, std::exp(logprob)});
  }
  return guesses;
}

Guesses ChosenPaths(const HeadGuesses& heads, const DraftChoices& choices, int32_t count) {
  constexpr int32_t kNone = -2;
  Guesses guesses;
  std::vector<int32_t> guess_of;  // [choices]
  for (const DraftChoices::Choice& choice : choices.choices()) {
    if (static_cast<int32_t>(guess_of.size()) == count) break;
    const int32_t parent = choice.parent < 0 ? -1 : guess_of[choice.parent];
    const size_t head = choice.head, rank = choice.rank;
    if (parent == kNone || head >= heads.size() || rank >= heads[head].size()) {
      guess_of.push_back(kNone);
      continue;
    }
    guess_of.push_back(static_cast<int32_t>(guesses.size()));
    const auto [token, logprob] = heads[head][rank];
    guesses.push_back({parent, token, std::exp(logprob)});
  }
  return guesses;
}

}  // namespace treeline
