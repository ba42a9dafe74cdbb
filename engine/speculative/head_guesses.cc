#include "engine/speculative/head_guesses.h"

#include <cmath>
#include <queue>

namespace treeline {
namespace {

// Guess `rank` of head `depth` below `node`.
struct Path {
  float logprob;  // Of all its guesses together.
  int32_t node;
  int32_t depth;
  int32_t rank;
  bool operator<(const Path& other) const { return logprob < other.logprob; }
};

}  // namespace

void Propose(const HeadGuesses& guesses, int32_t count, DraftTreeBuilder& tree) {
  // Best first: a path is taken before those that are one guess longer, or end in the next best.
  std::priority_queue<Path> paths;
  const auto push = [&](float above, int32_t node, int32_t depth, int32_t rank) {
    if (depth < static_cast<int32_t>(guesses.size()) &&
        rank < static_cast<int32_t>(guesses[depth].size())) {
      paths.push({above + guesses[depth][rank].second, node, depth, rank});
    }
  };
  push(0, 0, 0, 0);
  for (int32_t i = 0; i < count && !paths.empty(); ++i) {
    const Path path = paths.top();
    paths.pop();
    const auto [token, logprob] = guesses[path.depth][path.rank];
    push(path.logprob - logprob, path.node, path.depth, path.rank + 1);
    const int32_t node = tree.Add(path.node, token, std::exp(logprob));
    if (node > 0) push(path.logprob, node, path.depth + 1, 0);
  }
}

}  // namespace treeline
