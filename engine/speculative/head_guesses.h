// What a model's own draft heads (Medusa) guess. Every head guesses for a place of its own,
// whatever the other heads guess, so a draft tree may take any of its guesses after any of the
// head's before it: the likeliest paths, or those of a static tree. Which guesses go together,
// token pairs know.
#ifndef TREELINE_ENGINE_SPECULATIVE_HEAD_GUESSES_H_
#define TREELINE_ENGINE_SPECULATIVE_HEAD_GUESSES_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "engine/speculative/draft_choices.h"
#include "engine/speculative/guess.h"
#include "engine/speculative/token_pairs.h"

namespace treeline {

// Of a head's guesses, those that a tree may use: less likely ones are right too seldom.
inline constexpr int32_t kGuessesPerHead = 10;
// But token pairs find those that are likely after others.
inline constexpr int32_t kGuessesWithPairs = 32;

// Tokens and the logs of their probabilities, best first.
using RankedTokens = std::vector<std::pair<int32_t, float>>;

// [head] its likeliest tokens. Head h guesses the token h + 2 places after the row it looked at:
// that row's own draw is the next.
using HeadGuesses = std::vector<RankedTokens>;

// The `count` likeliest paths of guesses. Without `pairs` heads are taken to be independent; with
// them, a head's guesses keep the probability that they have together, and how they share it
// changes with the token before them: a guess of the head before, or `known`, the last known token
// (-1: it is not known, or the heads have seen it themselves).
Guesses LikeliestPaths(const HeadGuesses& heads, int32_t count, int32_t known = -1,
                       const TokenPairs* pairs = nullptr);
// The first `count` of these paths, but for those that the heads have no guess for.
Guesses ChosenPaths(const HeadGuesses& heads, const DraftChoices& choices, int32_t count);

}  // namespace treeline

#endif  // TREELINE_ENGINE_SPECULATIVE_HEAD_GUESSES_H_
