// Guesses of one or more drafters at what follows a sequence, each with the probability
// that its drafter gives it; the tree to verify is made of the most probable paths.
#ifndef TREELINE_ENGINE_SPECULATIVE_DRAFT_TREE_BUILDER_H_
#define TREELINE_ENGINE_SPECULATIVE_DRAFT_TREE_BUILDER_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "engine/speculative/guess.h"
#include "engine/speculative/token_tree.h"

namespace treeline {

class DraftTreeBuilder {
 public:
  // Node 0 is `root`, the last known token. No guess lies deeper than max_depth below it.
  DraftTreeBuilder(int32_t root, int32_t max_depth);

  // A guess: `token` follows `node`, with this probability if all before it is right; what rounding
  // has made more than 1 is 1. Where it was guessed before, the higher probability counts. Returns
  // its node; -1 where it would lie too deep. REQUIRES: node is one of this builder's.
  int32_t Add(int32_t node, int32_t token, float probability);

  // A model's guesses below the root, but for those too deep.
  void Add(const Guesses& guesses);

  // The probabilities that the guesses are right, each with all before it: descending, and no more
  // than `most`.
  std::vector<float> PathProbabilities(int32_t most = TokenTree::kMaxNodes - 1) const;
  // The root and the `num_guesses` (at most all, and kMaxNodes - 1) most probable guesses; of
  // equal ones the first. A guess is never more probable than the one before it, so what it
  // follows is there too.
  TokenTree Build(int32_t num_guesses) const;

  // That the guess is right, with all before it.
  float PathProbability(int32_t node) const;
  // The guesses from this one back to the root's child.
  std::vector<int32_t> PathBackFrom(int32_t node) const;
  int32_t num_guesses() const { return static_cast<int32_t>(nodes_.size()) - 1; }

 private:
  struct Node {
    int32_t token;
    int32_t parent;
    int32_t depth;
    float probability;  // Of this guess alone.
    int32_t last_child = -1;
    int32_t sibling = -1;  // The one before it.
  };
  // The `most` most probable guesses (or all), the best first.
  std::vector<std::pair<float, int32_t>> Ranked(int32_t most) const;

  int32_t max_depth_;
  std::vector<Node> nodes_;  // Parents before their children.
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_SPECULATIVE_DRAFT_TREE_BUILDER_H_
