// What a model guesses to follow a sequence's last known token.
#ifndef TREELINE_ENGINE_SPECULATIVE_GUESS_H_
#define TREELINE_ENGINE_SPECULATIVE_GUESS_H_

#include <cstdint>
#include <vector>

namespace treeline {

struct Guess {
  int32_t parent;  // The guess that it follows, an earlier one of the list; -1: the known token.
  int32_t token;
  float probability;  // That it is right if all before it is.
  bool operator==(const Guess&) const = default;
};

using Guesses = std::vector<Guess>;

}  // namespace treeline

#endif  // TREELINE_ENGINE_SPECULATIVE_GUESS_H_
