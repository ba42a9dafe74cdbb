// How probable a model finds each of several continuations of a context: what multiple-choice and
// cloze tasks are scored by. A context is run once for all its continuations, and what it has in
// common with the next question's context once for both, where the engine keeps prefixes.
#ifndef TREELINE_ENGINE_EVAL_LIKELIHOOD_H_
#define TREELINE_ENGINE_EVAL_LIKELIHOOD_H_

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engine/base/status.h"
#include "engine/engine.h"

namespace treeline {

struct Question {
  std::vector<int32_t> context;                     // At least one token,
  std::vector<std::vector<int32_t>> continuations;  // as has each of these.
};

struct Likelihood {
  double logprob = 0;      // Of all tokens of the continuation.
  int32_t num_tokens = 0;  // Of them,
  int32_t num_best = 0;    // those that were the model's own first choice.
};

struct LikelihoodOptions {
  int32_t max_batch_tokens = 512;  // Tokens of a step.
  // Gets each question's likelihoods, in order. May not be empty.
  std::function<void(size_t question, const std::vector<Likelihood>& likelihoods)> on_scored;
};

// INVALID_ARGUMENT naming the question that has no tokens or does not fit the engine's context;
// errors of the engine as they come.
Status ScoreQuestions(std::span<const Question> questions, const LikelihoodOptions& options,
                      Engine& engine);

}  // namespace treeline

#endif  // TREELINE_ENGINE_EVAL_LIKELIHOOD_H_
