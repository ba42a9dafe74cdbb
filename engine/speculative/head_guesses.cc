#include "engine/speculative/head_guesses.h"

#include <algorithm>
#include <cmath>
#include <queue>
#include <utility>

namespace treeline {
namespace {

// The log of the probability that the tokens have together.
float LogSum(const RankedTokens& tokens) {
  float largest = tokens[0].second;
  for (const auto& [token, logprob] : tokens) largest = std::max(largest, logprob);
  float sum = 0;
  for (const auto& [token, logprob] : tokens) sum += std::exp(logprob - largest);
  return largest + std::log(sum);
}

// A head's guesses, of LogSum `total`, as they are after the token `before`, in no order. REQUIRES:
// guesses not empty.
RankedTokens After(int32_t before, RankedTokens guesses, float total, const TokenPairs& pairs) {
  pairs.AddScores(before, guesses);
  const float correction = total - LogSum(guesses);
  for (auto& [token, logprob] : guesses) logprob += correction;
  return guesses;
}

bool IsBetter(const std::pair<int32_t, float>& a, const std::pair<int32_t, float>& b) {
  return a.second > b.second || (a.second == b.second && a.first < b.first);
}

// What heads guess after this token or that. Which is the best, the next best and so on is found
// out as far as it is asked: of most tokens no more than one or two guesses are looked at.
class HeadRankings {
 public:
  // `pairs`: or null.
  HeadRankings(const HeadGuesses& heads, const TokenPairs* pairs)
      : heads_(heads), pairs_(pairs), totals_(heads.size()) {
    for (size_t head = 0; head < heads.size() && pairs != nullptr; ++head) {
      if (!heads[head].empty()) totals_[head] = LogSum(heads[head]);
    }
  }

  // The head's guesses after the token `before` (-1: it is not known), as a number for the other
  // methods. REQUIRES: it has some.
  size_t Find(size_t head, int32_t before) {
    if (pairs_ == nullptr) before = -1;
    const auto known = std::find_if(
        rankings_.begin(), rankings_.end(),
        [&](const Ranking& ranking) { return ranking.head == head && ranking.before == before; });
    if (known != rankings_.end()) return known - rankings_.begin();
    const RankedTokens& guesses = heads_[head];
    if (before < 0) {
      rankings_.push_back({head, before, guesses, guesses.size()});
    } else {
      rankings_.push_back({head, before, After(before, guesses, totals_[head], *pairs_), 0});
    }
    return rankings_.size() - 1;
  }

  size_t HeadOf(size_t ranking) const { return rankings_[ranking].head; }
  size_t SizeOf(size_t ranking) const { return rankings_[ranking].guesses.size(); }
  // REQUIRES: rank < SizeOf(ranking).
  std::pair<int32_t, float> At(size_t ranking, size_t rank) {
    auto& [head, before, guesses, num_ranked] = rankings_[ranking];
    for (; num_ranked <= rank; ++num_ranked) {
      const auto rest = guesses.begin() + num_ranked;
      std::iter_swap(rest, std::min_element(rest, guesses.end(), IsBetter));
    }
    return guesses[rank];
  }

 private:
  struct Ranking {
    size_t head;
    int32_t before;
    RankedTokens guesses;
    size_t num_ranked;  // The best, in order; the others follow in none.
  };
  const HeadGuesses& heads_;
  const TokenPairs* const pairs_;
  std::vector<float> totals_;  // [heads] the LogSum of each, with pairs.
  std::vector<Ranking> rankings_;
};

// A guess after an earlier one or (-1) the last known token.
struct Path {
  float logprob;  // Of all its guesses together.
  int32_t parent;
  size_t ranking, rank;  // Its place in HeadRankings.
  bool operator<(const Path& other) const { return logprob < other.logprob; }
};

}  // namespace

Guesses LikeliestPaths(const HeadGuesses& heads, int32_t count, int32_t known,
                       const TokenPairs* pairs) {
  HeadRankings rankings(heads, pairs);
  // Best first: a path is taken before those that are one guess longer, or end in the next best.
  std::priority_queue<Path> paths;
  const auto push = [&](float above, int32_t parent, size_t ranking, size_t rank) {
    if (rank == rankings.SizeOf(ranking)) return;
    paths.push({above + rankings.At(ranking, rank).second, parent, ranking, rank});
  };
  const auto push_first = [&](float above, int32_t parent, size_t head, int32_t before) {
    if (head == heads.size() || heads[head].empty()) return;
    push(above, parent, rankings.Find(head, before), 0);
  };
  push_first(0, -1, 0, known);
  Guesses guesses;
  while (count > 0 && !paths.empty()) {
    const Path path = paths.top();
    paths.pop();
    const auto [token, logprob] = rankings.At(path.ranking, path.rank);
    const auto guess = static_cast<int32_t>(guesses.size());
    guesses.push_back({path.parent, token, std::exp(logprob)});
    if (guess + 1 == count) break;
    push(path.logprob - logprob, path.parent, path.ranking, path.rank + 1);
    push_first(path.logprob, guess, rankings.HeadOf(path.ranking) + 1, token);
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
