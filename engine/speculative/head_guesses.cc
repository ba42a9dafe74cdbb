#include "engine/speculative/head_guesses.h"

#include <algorithm>
#include <cmath>
#include <queue>

namespace treeline {
namespace {

// A head's guess of this rank, after an earlier guess or (-1) the last known token.
struct Path {
  float logprob;  // Of all its guesses together.
  int32_t parent;
  size_t head;
  size_t rank;
  bool operator<(const Path& other) const { return logprob < other.logprob; }
};

}  // namespace

Guesses LikeliestPaths(const HeadGuesses& heads, int32_t count) {
  // Best first: a path is taken before those that are one guess longer, or end in the next best.
  std::priority_queue<Path> paths;
  const auto push = [&](float above, int32_t parent, size_t head, size_t rank) {
    if (head < heads.size() && rank < heads[head].size()) {
      paths.push({above + heads[head][rank].second, parent, head, rank});
    }
  };
  push(0, -1, 0, 0);
  Guesses guesses;
  while (static_cast<int32_t>(guesses.size()) < count && !paths.empty()) {
    const Path path = paths.top();
    paths.pop();
    const auto [token, logprob] = heads[path.head][path.rank];
    push(path.logprob - logprob, path.parent, path.head, path.rank + 1);
    push(path.logprob, static_cast<int32_t>(guesses.size()), path.head + 1, 0);
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
