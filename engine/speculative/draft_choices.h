// A static draft tree: which guesses of a model's draft heads are looked at, decided beforehand.
// A list of paths of ranks as Medusa's authors write it: [1, 0] is the first head's second best
// guess, followed by the second head's best. What a path continues stands before it, so the first
// n paths of a list are a tree for every n. Immutable.
#ifndef TREELINE_ENGINE_SPECULATIVE_DRAFT_CHOICES_H_
#define TREELINE_ENGINE_SPECULATIVE_DRAFT_CHOICES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "engine/base/json.h"
#include "engine/base/status.h"

namespace treeline {

class DraftChoices {
 public:
  // The end of a path.
  struct Choice {
    int32_t parent;  // The choice that it continues; -1: it begins at the last known token.
    int32_t head;    // Which one guesses here: the length of the path, less one.
    int32_t rank;    // 0: its best guess.
  };

  // "mc_sim_7b_63", which is built in, or else a JSON file [[0], [0, 0], [1] ...]. NOT_FOUND where
  // there is none; errors of Parse name it.
  static StatusOr<DraftChoices> Load(const std::string& name_or_file);
  // INVALID_ARGUMENT beginning with `source` unless there are 1 to kMaxNodes - 1 paths, each of
  // ranks below kGuessesPerHead, once, and after the one that it continues.
  static StatusOr<DraftChoices> Parse(const Json& paths, const std::string& source);

  const std::vector<Choice>& choices() const { return choices_; }
  // Heads that the longest path takes.
  int32_t num_heads() const;

 private:
  std::vector<Choice> choices_;
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_SPECULATIVE_DRAFT_CHOICES_H_
