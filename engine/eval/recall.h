// Recall probes: what a model still knows of something it read so many tokens ago.
//
//   kv    states "The secret word of NAME is WORD.", goes on with ordinary text and asks for the
//   word. copy  shows a passage of ordinary text, goes on and shows it again: all of it but its
//   first
//         tokens, which lead in, can be copied.
//
// The distance is the number of tokens between. Distance 0 stands for probes without the statement
// or the first showing: what can be guessed.
#ifndef TREELINE_ENGINE_EVAL_RECALL_H_
#define TREELINE_ENGINE_EVAL_RECALL_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/base/status.h"
#include "engine/eval/likelihood.h"
#include "engine/text/tokenizer.h"

namespace treeline {

struct RecallProbe {
  std::string kind;  // "kv" or "copy".
  int32_t distance;
  Question question;  // With one continuation.
};

struct RecallOptions {
  int32_t probes = 32;      // Of each kind at each distance.
  int32_t max_context = 0;  // Tokens; distances that need more are left out.
  uint64_t seed = 0;        // The same seed and text make the same probes.
};

// The same probes at every distance but for how much lies between, so that longer ones begin as
// shorter ones do. `text`: the ordinary text, in tokens. INVALID_ARGUMENT where it is too short, or
// the context holds no distance.
StatusOr<std::vector<RecallProbe>> MakeRecallProbes(std::span<const int32_t> text,
                                                    const Tokenizer& tokenizer,
                                                    const RecallOptions& options);

}  // namespace treeline

#endif  // TREELINE_ENGINE_EVAL_RECALL_H_
