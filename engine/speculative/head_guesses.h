// What a model's own draft heads (Medusa) guess. Every head guesses for a place of its own,
// whatever comes before it, so a draft tree may take any of its guesses after any of the head's
// before it.
#ifndef TREELINE_ENGINE_SPECULATIVE_HEAD_GUESSES_H_
#define TREELINE_ENGINE_SPECULATIVE_HEAD_GUESSES_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "engine/speculative/draft_tree_builder.h"

namespace treeline {

// Tokens and the logs of their probabilities, best first.
using RankedTokens = std::vector<std::pair<int32_t, float>>;

// [head] its likeliest tokens. Head h guesses the token h + 2 places after the row it looked at:
// that row's own draw is the next.
using HeadGuesses = std::vector<RankedTokens>;

// Adds the `count` likeliest paths of guesses below the root, taking heads to be independent.
void Propose(const HeadGuesses& guesses, int32_t count, DraftTreeBuilder& tree);

}  // namespace treeline

#endif  // TREELINE_ENGINE_SPECULATIVE_HEAD_GUESSES_H_
