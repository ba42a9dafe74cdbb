// An engine for tests. The next token is a function of everything committed to the
// sequence, so a lost, repeated or misplaced token changes all that follow. It checks what
// it is asked (slots, tokens, rows, random keys, penalties' tokens) and reports nonsense
// as a test failure; what it ran can be looked at step by step, and it fails on demand.
#ifndef TREELINE_SCHEDULER_FAKE_ENGINE_H_
#define TREELINE_SCHEDULER_FAKE_ENGINE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/speculative/head_guesses.h"

namespace treeline {

class FakeEngine : public Engine, private StateSlotOwner {
 public:
  // The token that follows `prefix` in a request's choice of this number.
  using NextToken = std::function<int32_t(std::span<const int32_t> prefix, uint32_t choice)>;

  // What a step ran of one sequence, a chain or a draft tree. Tests name sequences by their first
  // token.
  struct Chain {
    int32_t first_token;  // Of the sequence.
    int32_t position;     // Of the first token run.
    int32_t num_tokens;
    bool operator==(const Chain&) const = default;
  };

  // The token drawn at a row whose token is the last of `prefix`.
  using Draw = std::function<int32_t(const Batch& batch, const RowRequest& request,
                                     std::span<const int32_t> prefix)>;

  explicit FakeEngine(const EngineLimits& limits) : limits_(limits) {}
  ~FakeEngine() override;  // Every slot must have been returned.

  // The default: 10 or more, so that tests can give small ids a meaning of their own.
  int32_t HashToken(std::span<const int32_t> prefix, uint32_t choice) const;
  void set_next_token(NextToken next_token) { next_token_ = std::move(next_token); }
  // What head `head` guesses to follow `known`, the tokens up to and with the one just drawn.
  // Needed where limits().num_draft_heads > 0.
  using HeadGuess = std::function<std::vector<std::pair<int32_t, float>>(
      std::span<const int32_t> known, int32_t head)>;
  void set_head_guess(HeadGuess guess) { head_guess_ = std::move(guess); }
  // In place of the function of the prefix.
  void set_draw(Draw draw) { draw_ = std::move(draw); }
  // The `count` tokens that a request for `prompt` must be given.
  std::vector<int32_t> Continuation(const std::vector<int32_t>& prompt, int32_t count,
                                    uint32_t choice = 0) const;
  // The log-probabilities it answers with.
  static float Logprob(std::span<const int32_t> prefix, int32_t token);
  static std::vector<std::pair<int32_t, float>> TopLogprobs(std::span<const int32_t> prefix,
                                                            int32_t count);

  // Which of request.guesses would pass as typical, needed where there are any.
  using Typical =
      std::function<std::vector<bool>(const RowRequest& request, std::span<const int32_t> prefix)>;
  void set_typical(Typical typical) { typical_ = std::move(typical); }

  // Faults: of the next step, of the commit of its drafts, of the draft heads, of the next slot, of
  // every row of the sequences that begin with `first_token`.
  void FailNextStep(const Status& status) { step_error_ = status; }
  void FailNextCommit(const Status& status) { commit_error_ = status; }
  void FailNextDraft(const Status& status) { draft_error_ = status; }
  void FailNextAcquire(const Status& status) { acquire_error_ = status; }
  void FailRowsOf(int32_t first_token, const Status& status) { row_errors_[first_token] = status; }

  // Called as each step, or a call of Draft, begins: to let time pass.
  void set_on_step(std::function<void(const Batch&)> on_step) { on_step_ = std::move(on_step); }
  void set_on_draft(std::function<void(std::span<const int32_t> rows)> on_draft) {
    on_draft_ = std::move(on_draft);
  }

  // The prefixes it was told to keep, in that order; none is ever dropped, unless a test does.
  std::vector<std::vector<int32_t>>& kept() { return kept_; }

  // What the steps ran, failed ones too.
  const std::vector<std::vector<Chain>>& steps() const { return steps_; }

  EngineLimits limits() const override { return limits_; }
  int32_t free_slots() const override {
    return limits_.num_slots - static_cast<int32_t>(committed_.size());
  }
  StatusOr<StateSlot> AcquireSlot() override;
  StatusOr<std::vector<RowResult>> Step(const Batch& batch) override;
  Status Commit(std::span<const AcceptedPath> paths) override;
  StatusOr<std::vector<Guesses>> Draft(std::span<const int32_t> rows, int32_t max_guesses) override;
  PrefixMatch RestorePrefix(const StateSlot& slot, std::span<const int32_t> tokens) override;
  void KeepPrefix(const StateSlot& slot, std::span<const int32_t> tokens) override;

 private:
  using Tokens = std::vector<int32_t>;

  void ReleaseSlot(int32_t index) override;
  void CheckShape(const Batch& batch) const;
  // Commits the batch's chains and remembers its drafts. Returns for each row the tokens up to
  // and with it.
  std::vector<Tokens> RunTrees(const Batch& batch);
  RowResult Answer(const Batch& batch, const RowRequest& request, const Tokens& prefix) const;

  const EngineLimits limits_;
  NextToken next_token_ = [this](std::span<const int32_t> prefix, uint32_t choice) {
    return HashToken(prefix, choice);
  };
  Draw draw_ = [this](const Batch&, const RowRequest& request, std::span<const int32_t> prefix) {
    return next_token_(prefix, request.random.choice);
  };
  Typical typical_;
  std::optional<Status> step_error_;
  std::optional<Status> commit_error_;
  std::optional<Status> draft_error_;
  std::optional<Status> acquire_error_;
  std::map<int32_t, Status> row_errors_;
  std::map<int32_t, Tokens> committed_;  // By slot in use.
  struct DraftTree {
    Tokens tokens, parents;
  };
  std::map<int32_t, DraftTree> drafts_;  // Of the last step, by slot.
  std::map<int32_t, Tokens> drawn_;      // Of the last step, by row: the tokens with the one drawn.
  HeadGuess head_guess_;
  std::vector<std::vector<Chain>> steps_;
  std::function<void(const Batch&)> on_step_ = [](const Batch&) {};
  std::function<void(std::span<const int32_t>)> on_draft_ = [](std::span<const int32_t>) {};
  std::vector<Tokens> kept_;
};

}  // namespace treeline

#endif  // TREELINE_SCHEDULER_FAKE_ENGINE_H_
