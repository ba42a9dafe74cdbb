// What a client asked for, as values. Immutable once submitted.
#ifndef TREELINE_SCHEDULER_REQUEST_H_
#define TREELINE_SCHEDULER_REQUEST_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/clock.h"
#include "engine/sampling/params.h"
#include "engine/speculative/token_tree.h"

namespace treeline {

// When a choice ends.
struct StopCriteria {
  int32_t max_tokens = 16;  // Generated tokens, at least 0 (0: score the prompt only).
  int32_t min_tokens = 0;   // At most max_tokens. Neither EOS nor a stop token is drawn before
                            // there are this many, and no stop string is looked for.
  bool ignore_eos = false;  // An EOS token is a token like others (but see min_tokens).
  std::vector<int32_t> stop_token_ids;    // Besides the model's EOS tokens.
  std::vector<std::string> stop_strings;  // Not empty each; text ends before the first match.
};

// Who guesses ahead (engine/speculative). Outputs are the same whoever does, but for typical
// acceptance.
struct Drafters {
  bool ngram = true;
  bool heads = true;        // The model's own, where it has some.
  bool draft_model = true;  // Where there is one.
};
inline constexpr Drafters kNoDrafters{.ngram = false, .heads = false, .draft_model = false};

struct Request {
  std::string id;
  std::vector<int32_t> prompt;  // At least one token.
  SamplingParams sampling;      // Validated; the seed is decided.
  StopCriteria stop;
  int32_t num_choices = 1;

  bool logprobs = false;         // Log-probabilities of the generated tokens,
  int32_t top_logprobs = 0;      // with this many alternatives at each;
  bool prompt_logprobs = false;  // the same for the prompt's tokens (from the second on).
  bool skip_special_tokens = true;

  Drafters drafters{};  // Of those that the server lets guess.
  // Guesses pass where they are typical of the model, drawn or not: more of them, but outputs are
  // no longer distributed as the model's.
  bool typical_acceptance = false;
  int32_t max_draft_nodes =
      TokenTree::kMaxNodes;  // Of a tree, its root too; at most as the server is set.
  // Waiting requests with less of it go first; waiting lessens it (Scheduler::Options).
  int32_t priority = 0;
  TimePoint arrival;                  // When its first byte came.
  std::optional<TimePoint> deadline;  // Not answered by then: DEADLINE_EXCEEDED.
};

}  // namespace treeline

#endif  // TREELINE_SCHEDULER_REQUEST_H_
