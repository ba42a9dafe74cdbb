// An engine whose guesses are a second, smaller model's, which reads the same tokens (Leviathan et
// al., "Fast Inference from Transformers via Speculative Decoding", 2023; here the guesses are
// trees). All else is the target engine's: its slots, its answers, its prefixes.
//
// Each slot has one of the draft engine's beside it, taken when it is first drafted for and given
// back with it, that holds a prefix of what the target has committed there. Draft brings it up to
// the target, long prompts in pieces of several calls, and then looks ahead with draft trees of
// its own, of which nothing is committed: no state is copied, and nothing is to be undone.
#ifndef TREELINE_ENGINE_DRAFT_MODEL_ENGINE_H_
#define TREELINE_ENGINE_DRAFT_MODEL_ENGINE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/base/status.h"
#include "engine/batch.h"
#include "engine/engine.h"
#include "engine/state/state_slot.h"

namespace treeline {

class DraftModelEngine : public Engine, private StateSlotOwner {
 public:
  // How many tokens ahead guesses may go.
  static constexpr int32_t kMaxDepth = 16;

  // The draft model guesses `depth` tokens ahead, which takes as many of its steps. Sequences too
  // long for its context, or for which it has no slot, get no guesses. INVALID_ARGUMENT where the
  // vocabularies are not of one size. REQUIRES: 1 <= depth <= kMaxDepth; tokens mean the same to
  // both; the engines hold no sequences.
  static StatusOr<std::unique_ptr<DraftModelEngine>> Create(std::unique_ptr<Engine> target,
                                                            std::unique_ptr<Engine> draft,
                                                            int32_t depth);

  EngineLimits limits() const override;
  int32_t free_slots() const override { return target_->free_slots(); }
  StatusOr<StateSlot> AcquireSlot() override;
  StatusOr<std::vector<RowResult>> Step(const Batch& batch) override;
  Status Commit(std::span<const AcceptedPath> paths) override;
  StatusOr<std::vector<Guesses>> Draft(std::span<const int32_t> rows, int32_t max_guesses) override;
  PrefixMatch RestorePrefix(const StateSlot& slot, std::span<const int32_t> tokens) override;
  void KeepPrefix(const StateSlot& slot, std::span<const int32_t> tokens) override;

 private:
  // Of a slot.
  struct Sequence {
    std::optional<StateSlot> target;
    std::vector<int32_t> tokens;  // Committed to the target's slot.
    int32_t first_row = 0;        // In the last step that it was in.

    std::optional<StateSlot> draft;  // None until it is drafted for, and after a fault.
    int32_t drafted = 0;             // How many of the tokens its slot holds.
    int32_t junction = 0;            // Where others parted from these tokens; 0: nowhere.

    int32_t behind() const { return static_cast<int32_t>(tokens.size()) - drafted; }
  };
  // A sequence while it is drafted for: the draft model's tree of the token drawn last and the
  // guesses that it looked beyond.
  class Lookahead;

  DraftModelEngine(std::unique_ptr<Engine> target, std::unique_ptr<Engine> draft, int32_t depth);
  void ReleaseSlot(int32_t index) override;

  // The slot's sequence of a row of the last step.
  Sequence& SequenceAt(int32_t row);
  // Gives the sequence a slot of the draft engine; false where it cannot be drafted for.
  bool Prepare(Sequence& sequence);
  // Computes what the draft model has not seen of these sequences, all but a few tokens that the
  // first look ahead will, and no more than a step should take on.
  Status CatchUp(std::span<Sequence* const> sequences);
  Status LookAhead(std::span<Lookahead> lookaheads, int32_t max_guesses);
  StatusOr<std::vector<Guesses>> Guess(std::span<const int32_t> rows, int32_t max_guesses);

  const std::unique_ptr<Engine> target_, draft_;
  const int32_t depth_;
  std::vector<Sequence> sequences_;  // [target's slots]

  // Of the last step that ran.
  std::vector<int32_t> token_ids_, tree_offsets_, slots_;
  std::vector<int32_t> drawn_;  // [rows] the token drawn at each; -1: none. Empty after a failure.
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_DRAFT_MODEL_ENGINE_H_
