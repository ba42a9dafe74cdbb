// Guesses at how one sequence goes on. A drafter sees a sequence's tokens as they become
// known; whatever it guesses, the target model decides. One thread at a time.
#ifndef TREELINE_ENGINE_SPECULATIVE_DRAFTER_H_
#define TREELINE_ENGINE_SPECULATIVE_DRAFTER_H_

#include <cstdint>
#include <span>

#include "engine/speculative/draft_tree_builder.h"

namespace treeline {

class Drafter {
 public:
  virtual ~Drafter() = default;

  // The sequence's next known tokens, of the prompt or generated.
  virtual void Append(std::span<const int32_t> tokens) = 0;
  // Adds what may follow the tree's nodes from `first` on: the root (0), which is the last known
  // token, and what others guess to follow it, but for the improbable.
  virtual void Propose(int32_t first, DraftTreeBuilder& tree) const = 0;
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_SPECULATIVE_DRAFTER_H_
