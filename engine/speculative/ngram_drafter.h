// Prompt lookup: what followed the last few tokens where they stood before, in the prompt
// or in what was generated, may follow them again (Saxena, "Prompt Lookup Decoding", 2023; here
// a tree of several such places). Good where answers quote: code, summaries, retrieval.
#ifndef TREELINE_ENGINE_SPECULATIVE_NGRAM_DRAFTER_H_
#define TREELINE_ENGINE_SPECULATIVE_NGRAM_DRAFTER_H_

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/speculative/drafter.h"

namespace treeline {

class NgramDrafter : public Drafter {
 public:
  // Guesses go at most max_depth tokens on.
  explicit NgramDrafter(int32_t max_depth) : max_depth_(max_depth) {}

  void Append(std::span<const int32_t> tokens) override;
  void Propose(int32_t first, DraftTreeBuilder& tree) const override;

 private:
  // Two tokens as one key.
  static uint64_t Key(int32_t first, int32_t second) {
    return uint64_t{static_cast<uint32_t>(first)} << 32 | static_cast<uint32_t>(second);
  }
  // The known tokens and guesses after them, the last first.
  class Reversed;
  // How many tokens up to `position` are the last ones of `text`.
  int32_t MatchLength(int32_t position, const Reversed& text) const;
  void ProposeAfter(int32_t node, DraftTreeBuilder& tree) const;

  const int32_t max_depth_;
  std::vector<int32_t> tokens_;
  // Places of a pair of tokens, by its second one, as a chain: the latest, and the one before each.
  std::unordered_map<uint64_t, int32_t> latest_;
  std::vector<int32_t> previous_;  // [tokens_.size()] -1: none.
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_SPECULATIVE_NGRAM_DRAFTER_H_
