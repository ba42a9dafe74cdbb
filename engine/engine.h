// The engine executes steps: it owns the model, the states and the sampler, and
// knows nothing of requests. One thread drives it (the scheduler's loop); calls
// must not overlap. ModelEngine (engine/model_engine.h) is the real one.
//
// Any call may fail with UNAVAILABLE: the device is lost, and so will every later call.
#ifndef TREELINE_ENGINE_ENGINE_H_
#define TREELINE_ENGINE_ENGINE_H_

#include <cstdint>
#include <span>
#include <vector>

#include "engine/base/status.h"
#include "engine/batch.h"
#include "engine/speculative/guess.h"
#include "engine/state/state_slot.h"

namespace treeline {

// What the engine keeps of earlier sequences that begin like this one.
struct PrefixMatch {
  int32_t length = 0;  // Tokens that the slot holds now.
  // Tokens in common with some kept sequence. More than `length`: a state kept there would have
  // served.
  int32_t shared = 0;
};

// A path of a slot's draft tree from its root: node indices within the tree, in order.
struct AcceptedPath {
  int32_t slot = -1;  // StateSlot::index().
  std::vector<int32_t> nodes;
};

struct EngineLimits {
  int32_t vocab_size = 0;       // Token ids are [0, vocab_size).
  int32_t max_context = 0;      // Tokens a sequence may hold, prompt and output.
  int32_t num_slots = 0;        // Sequences that can hold state at once.
  int32_t num_draft_heads = 0;  // Of the model: heads that guess ahead (Draft);
  bool draft_model = false;     // or a model of its own does.

  bool drafts() const { return num_draft_heads > 0 || draft_model; }
};

class Engine {
 public:
  virtual ~Engine() = default;

  virtual EngineLimits limits() const = 0;
  virtual int32_t free_slots() const = 0;

  // An empty state (no tokens committed). RESOURCE_EXHAUSTED when all are in use.
  virtual StatusOr<StateSlot> AcquireSlot() = 0;

  // Runs the batch: reads every slot's state, commits the trees whose acceptance is known,
  // and answers batch.requests in order. INVALID_ARGUMENT for a malformed batch (nothing has
  // run); after any other error the slots of the batch hold no valid state: release them.
  virtual StatusOr<std::vector<RowResult>> Step(const Batch& batch) = 0;

  // Accepts nodes of draft trees that the last Step ran, each slot's at most once: they are
  // committed before a state is read again. INVALID_ARGUMENT for what is no path of its tree
  // (nothing has changed); after any other error, which may be the next Step's, the slots hold no
  // valid state.
  virtual Status Commit(std::span<const AcceptedPath> paths) = 0;

  // What the model's draft heads, or a draft model, guess to follow the tokens drawn at rows of the
  // last Step's batch, a result a row, once paths that lead there are committed. Of a row's guesses
  // no more than `max_guesses` will be of use. An engine that does not draft need not implement it.
  virtual StatusOr<std::vector<Guesses>> Draft(std::span<const int32_t> /*rows*/,
                                               int32_t /*max_guesses*/) {
    return Unimplemented("the model has no draft heads");
  }

  // Makes the slot hold the longest kept prefix of `tokens`, where that is more than it holds.
  // REQUIRES: the slot holds a prefix of `tokens`.
  virtual PrefixMatch RestorePrefix(const StateSlot& slot, std::span<const int32_t> tokens) = 0;
  // Keeps a copy of the slot's state for sequences that begin with its tokens, if there is room:
  // that is the engine's own matter. REQUIRES: `tokens` are what the slot holds.
  virtual void KeepPrefix(const StateSlot& slot, std::span<const int32_t> tokens) = 0;
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_ENGINE_H_
