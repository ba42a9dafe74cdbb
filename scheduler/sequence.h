// The progress of one choice of a request: its state slot, the tokens it has so far,
// and the way from sampled tokens to text and to an end.
//
// Known tokens are the prompt followed by what was generated. The engine has computed
// the first num_computed of them; a step runs some of the rest, a chunk of the prompt or
// the one token generated last, and the row of the last known token draws the next. So
// prefill and decoding are the same thing here.
//
// Owned by its SequenceGroup; only the scheduler's thread touches it.
#ifndef TREELINE_SCHEDULER_SEQUENCE_H_
#define TREELINE_SCHEDULER_SEQUENCE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/base/clock.h"
#include "engine/batch.h"
#include "engine/engine.h"
#include "engine/speculative/draft_tree_builder.h"
#include "engine/speculative/drafter.h"
#include "engine/speculative/guess.h"
#include "engine/state/state_slot.h"
#include "engine/text/detokenizer.h"
#include "engine/text/tokenizer.h"
#include "scheduler/request.h"
#include "scheduler/stop_checker.h"
#include "scheduler/token_stream.h"

namespace treeline {

// What all sequences of a scheduler share.
struct SequenceContext {
  const Tokenizer& tokenizer;
  std::vector<int32_t> eos_token_ids;
  int32_t max_context = 0;  // Tokens, prompt and output.
  // States are kept for later sequences at the ends of choices, a little before the ends of
  // prompts, where prompts were seen to part, and every so many tokens. 0: none are kept.
  int32_t prefix_interval = 0;
  int32_t max_draft_nodes = 0;  // Of a sequence's draft tree, its root too; 0: none are drafted.
  Drafters drafters{};
};

class Sequence {
 public:
  // `request` and `context` must outlive the sequence. REQUIRES: the request is admissible.
  Sequence(const Request& request, int32_t choice, const SequenceContext& context);

  // -- Its slot: none while it waits, one while it runs, none once it is finished.

  bool running() const { return slot_.has_value(); }
  bool finished() const { return finish_.has_value(); }
  void Start(StateSlot slot) { slot_.emplace(std::move(slot)); }
  void ReleaseSlot() { slot_.reset(); }
  const StateSlot& slot() const { return *slot_; }  // REQUIRES: running.

  // -- Its prefix

  // Takes over what the engine keeps of a sequence that began like this one, and sees where its
  // own state is worth keeping. REQUIRES: running, not decoding.
  void UsePrefix(Engine& engine);
  // Keeps the state if this is such a place. REQUIRES: running.
  void KeepPrefix(Engine& engine) const;
  // Other choices of the request can take this one's prompt over once it is computed.
  bool shares_prompt() const;
  // Prompt tokens that were not computed, thanks to UsePrefix.
  int32_t cached_tokens() const { return cached_tokens_; }

  // -- Plan

  bool decoding() const { return !generated_.empty(); }
  // Known tokens that the engine has not computed and that one step may run: a step ends where
  // the state is to be kept. At least 1 while running.
  int32_t num_pending() const;
  // Adds the next `num_tokens` pending tokens to the batch and asks for what their rows should
  // answer. The batch points into this sequence until Commit. Returns the number of row
  // requests added.
  int32_t AddTo(Batch& batch, int32_t num_tokens);

  // The row of the last step at which the last token was drawn, where Engine::Draft is to guess
  // what follows it. REQUIRES: decoding.
  std::optional<int32_t> RowToDraft() const;
  // Nodes that its draft tree may have; below 2: none is drafted.
  int32_t max_draft_nodes() const;
  // What may follow, by those who guess for this sequence, and the probabilities of the guesses
  // as they have borne out here; none where it does not speculate. `by_model`: what Engine::Draft
  // said at RowToDraft, or null. REQUIRES: decoding.
  struct Draft {
    DraftTreeBuilder guesses;
    std::vector<float> probabilities;  // Descending; no more than may be verified.
    std::vector<float> without_model;  // The same of the other guesses alone.
  };
  std::optional<Draft> Guess(const Guesses* by_model);
  // As AddTo, for the last token and the best `num_guesses` of the draft. REQUIRES: at least 1.
  int32_t AddDraftTo(Batch& batch, const Draft& draft, int32_t num_guesses);
  // Of those that AddDraftTo added last, the sum of their probabilities.
  double expected_guesses() const { return expected_; }

  // -- Commit

  // Takes what the step computed for AddTo's tokens. Gives the event to tell the reader, if
  // there is one; event->finish ends the sequence.
  std::optional<TokenEvent> Commit(int32_t num_tokens, std::span<RowResult> results);
  // The same for AddDraftTo's: the draw at each node is what plain decoding would draw there, so
  // the child that guessed it is right, and its own draw comes next; with typical acceptance,
  // the longest path of typical guesses is. `path` is what the engine must commit.
  TokenEvent CommitDraft(std::span<RowResult> results, std::vector<int32_t>* path);

  int32_t num_generated() const { return static_cast<int32_t>(generated_.size()); }
  int32_t accepted_draft_tokens() const { return accepted_draft_tokens_; }
  int32_t rejected_draft_tokens() const { return rejected_draft_tokens_; }
  std::optional<FinishReason> finish() const { return finish_; }

  // When the latest token came; for the scheduler's measurements.
  std::optional<TimePoint> last_token_time;

 private:
  bool keeps_prefixes() const;
  // How many tokens ahead guesses are of use; below 1: none are.
  int32_t max_draft_depth() const;
  void ReadAhead();
  std::vector<float> Probabilities(const DraftTreeBuilder& guesses) const;
  std::span<const int32_t> Pending() const;
  // `drafted`: the tokens between those generated and this row.
  RowRequest SamplingRow(int32_t row, std::span<const int32_t> drafted = {}) const;
  // Adds the drawn token, its text and perhaps the end to the event.
  void TakeToken(RowResult& result, TokenEvent& event);
  // [nodes] the child that is right, if the node is; -1: none.
  std::vector<int32_t> RightChildren(const TokenTree& tree,
                                     std::span<const RowResult> results) const;
  bool IsStopToken(int32_t token) const;

  const Request& request_;
  const SequenceContext& context_;
  const int32_t choice_;
  std::vector<int32_t> min_tokens_bans_;  // Banned until min_tokens are there.

  std::optional<StateSlot> slot_;
  int32_t num_computed_ = 0;
  int32_t restored_ = 0;  // The length of the state taken over last.
  int32_t cached_tokens_ = 0;
  int32_t junction_ = 0;  // Where a kept sequence and the prompt part; 0: nowhere.
  int32_t tail_ = 0;      // A little before the prompt's end; 0: nowhere.
  std::vector<int32_t> generated_;
  std::vector<TokenLogprob> prompt_logprobs_;  // Until the first event takes them.
  Detokenizer detokenizer_;
  StopChecker stop_checker_;
  std::optional<FinishReason> finish_;

  // Speculation.
  int32_t drawn_at_ = 0;                       // The last step's row that drew the last token.
  std::unique_ptr<Drafter> drafter_;           // Null until it is first asked.
  size_t num_drafter_tokens_ = 0;              // Known tokens that the drafter has seen.
  std::optional<TokenTree> tree_;              // Between AddDraftTo and CommitDraft,
  std::vector<std::vector<int32_t>> drafted_;  // [nodes] the guesses down to each,
  std::vector<std::vector<int32_t>> guesses_;  // [nodes] those below (for typical acceptance),
  float expected_ = 0;                         // and how many were thought right.
  // Sums over the drafts so far, the old ones fading: how far probabilities can be trusted here.
  float recently_expected_ = 0, recently_accepted_ = 0;
  int32_t accepted_draft_tokens_ = 0, rejected_draft_tokens_ = 0;
};

}  // namespace treeline

#endif  // TREELINE_SCHEDULER_SEQUENCE_H_
