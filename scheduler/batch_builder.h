// Plans one step: which tokens of which sequences the engine runs next.
#ifndef TREELINE_SCHEDULER_BATCH_BUILDER_H_
#define TREELINE_SCHEDULER_BATCH_BUILDER_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/base/clock.h"
#include "engine/batch.h"
#include "engine/engine.h"
#include "scheduler/sequence_group.h"
#include "scheduler/speculation.h"

namespace treeline {

struct StepPlan {
  // One tree of the batch, in order.
  struct Entry {
    SequenceGroup* group;
    Sequence* sequence;
    int32_t num_tokens;
    int32_t num_requests;  // Row requests of the batch, in order.
    bool is_draft;
  };
  Batch batch;
  std::vector<Entry> entries;
  int32_t prompt_tokens = 0;
  int32_t num_decodes = 0;      // Sequences that decode,
  int32_t num_guesses = 0;      // and what is verified of theirs besides:
  double expected_guesses = 0;  // so many are thought right, the sum of their probabilities.
  int32_t model_asked = 0;      // Sequences that Engine::Draft guessed for.
};

// `groups` are in order of admission. Every decoding sequence gets its token; what is left of
// `max_tokens`, but no more than `max_prompt_tokens`, goes to prompts, each as much as there is,
// the earliest admitted first. Decodes never outgrow max_tokens: who decodes was in the step
// before, and that had its room. A prompt that is about to run first takes over what the engine
// keeps of it.
// Sequences that decode may verify guesses besides, where by `speculation` that makes tokens
// faster, the time that guessing takes by `clock` included.
StepPlan BuildBatch(std::span<const std::unique_ptr<SequenceGroup>> groups, int32_t max_tokens,
                    int32_t max_prompt_tokens, const Clock& clock, Speculation& speculation,
                    Engine& engine);

}  // namespace treeline

#endif  // TREELINE_SCHEDULER_BATCH_BUILDER_H_
