#include "engine/draft_model_engine.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace treeline {
namespace {

// Of each look ahead: how many of the guesses are looked beyond, and how many follow each.
constexpr size_t kWidth = 2;
constexpr int32_t kChildren = 4;
// Known tokens that the first look ahead may compute on its way. After an accepted path there are
// no more; prompts are caught up with before.
constexpr int32_t kMostBehind = TokenTree::kMaxNodes / 2;
// Tokens caught up with in a call, of all sequences: those who decode wait for it.
constexpr int32_t kMostCaughtUp = 512;
// Fewer tokens are computed about as fast as a state is copied.
constexpr int32_t kShortestPrefix = 32;

}  // namespace

class DraftModelEngine::Lookahead {
 public:
  Lookahead(Sequence& sequence, int32_t drawn, Guesses& guesses)
      : sequence_(&sequence), guesses_(&guesses), tokens_{drawn} {}

  Sequence& sequence() const { return *sequence_; }
  bool has_new_nodes() const { return num_run_ < tokens_.size(); }

  // Adds the tree to the batch, and asks what follows its new nodes: a request each.
  void AddTo(Batch& batch) {
    const std::span<const int32_t> known = std::span(sequence_->tokens).subspan(sequence_->drafted);
    const auto num_known = static_cast<int32_t>(known.size());
    std::vector<int32_t> tokens(known.begin(), known.end()), parents;
    for (int32_t node = 0; node < num_known; ++node) parents.push_back(node - 1);
    for (const int32_t parent : parents_) parents.push_back(parent + num_known);
    tokens.insert(tokens.end(), tokens_.begin(), tokens_.end());
    const int32_t first_row =
        batch.AddTree(sequence_->draft->index(),
                      TokenTree::Create(std::move(tokens), std::move(parents)).value());
    for (; num_run_ < tokens_.size(); ++num_run_) {
      RowRequest request;
      request.row = first_row + num_known + static_cast<int32_t>(num_run_);
      request.top_logprobs = kChildren;
      batch.requests.push_back(request);
      asked_.push_back(num_run_);
    }
  }

  // Takes the answers off the front of `results`. A row without one (its logits are not finite)
  // guesses nothing.
  void Take(std::span<const RowResult>& results) {
    newest_ = guesses_->size();
    for (const size_t node : asked_) {
      const int32_t parent = guess_of_[node];
      const float above = parent < 0 ? 0 : logprobs_[parent];
      for (const auto& [token, logprob] : results.front().top_logprobs) {
        guesses_->push_back({parent, token, std::exp(logprob)});
        logprobs_.push_back(above + logprob);
        followed_.push_back(false);
      }
      results = results.subspan(1);
    }
    asked_.clear();
  }

  // Adds the guesses to look beyond next: the best child of the one that was added first, so that
  // the likeliest token after the likeliest is always among them, and those on the most probable
  // paths.
  void Extend() {
    if (newest_ < guesses_->size()) Follow(static_cast<int32_t>(newest_));
    for (size_t i = 1; i < kWidth; ++i) {
      int32_t best = -1;
      for (size_t guess = 0; guess < guesses_->size(); ++guess) {
        if (!followed_[guess] && (best < 0 || logprobs_[guess] > logprobs_[best])) {
          best = static_cast<int32_t>(guess);
        }
      }
      if (best >= 0) Follow(best);
    }
  }

 private:
  // Adds the guess to the tree. REQUIRES: what it follows is there, and it is not.
  void Follow(int32_t guess) {
    const auto parent = std::find(guess_of_.begin(), guess_of_.end(), (*guesses_)[guess].parent);
    parents_.push_back(static_cast<int32_t>(parent - guess_of_.begin()));
    tokens_.push_back((*guesses_)[guess].token);
    guess_of_.push_back(guess);
    followed_[guess] = true;
  }

  Sequence* sequence_;
  Guesses* guesses_;
  std::vector<float> logprobs_;  // [guesses] of their paths
  std::vector<bool> followed_;   // [guesses] they are in the tree
  size_t newest_ = 0;            // The first of those that came last.
  // [nodes], the root first.
  std::vector<int32_t> tokens_, parents_ = {-1};
  std::vector<int32_t> guess_of_ = {-1};
  size_t num_run_ = 0;         // Nodes that the draft model has run,
  std::vector<size_t> asked_;  // and those whose answers come next.
};

DraftModelEngine::DraftModelEngine(std::unique_ptr<Engine> target, std::unique_ptr<Engine> draft,
                                   int32_t depth)
    : target_(std::move(target)),
      draft_(std::move(draft)),
      depth_(depth),
      sequences_(target_->limits().num_slots) {}

StatusOr<std::unique_ptr<DraftModelEngine>> DraftModelEngine::Create(std::unique_ptr<Engine> target,
                                                                     std::unique_ptr<Engine> draft,
                                                                     int32_t depth) {
  TREELINE_CHECK(depth >= 1 && depth <= kMaxDepth, "depth {}", depth);
  const int32_t vocab = target->limits().vocab_size, draft_vocab = draft->limits().vocab_size;
  if (vocab != draft_vocab) {
    return InvalidArgument(
        "the draft model's vocabulary is {} tokens, the model's is {}; they must have one "
        "tokenizer",
        draft_vocab, vocab);
  }
  return std::unique_ptr<DraftModelEngine>(
      new DraftModelEngine(std::move(target), std::move(draft), depth));
}

EngineLimits DraftModelEngine::limits() const {
  EngineLimits limits = target_->limits();
  limits.num_draft_heads = 0;
  limits.draft_model = true;
  return limits;
}

StatusOr<StateSlot> DraftModelEngine::AcquireSlot() {
  TREELINE_ASSIGN_OR_RETURN(StateSlot slot, target_->AcquireSlot());
  const int32_t index = slot.index();
  sequences_[index].target.emplace(std::move(slot));
  return StateSlot(this, index);
}

void DraftModelEngine::ReleaseSlot(int32_t index) { sequences_[index] = Sequence(); }

StatusOr<std::vector<RowResult>> DraftModelEngine::Step(const Batch& batch) {
  // A batch that is refused leaves the step before as it was, whose draft trees may be committed.
  drawn_.clear();
  TREELINE_ASSIGN_OR_RETURN(std::vector<RowResult> results, target_->Step(batch));
  token_ids_ = batch.token_ids;
  tree_offsets_ = batch.tree_offsets;
  slots_ = batch.slots;
  drawn_.assign(token_ids_.size(), -1);
  for (size_t i = 0; i < results.size(); ++i) drawn_[batch.requests[i].row] = results[i].token;
  for (int32_t i = 0; i < batch.num_sequences(); ++i) {
    Sequence& sequence = sequences_[slots_[i]];
    sequence.first_row = tree_offsets_[i];
    if (batch.acceptance[i] != Acceptance::kKnown) continue;
    sequence.tokens.insert(sequence.tokens.end(), token_ids_.begin() + tree_offsets_[i],
                           token_ids_.begin() + tree_offsets_[i + 1]);
  }
  return results;
}

Status DraftModelEngine::Commit(std::span<const AcceptedPath> paths) {
  TREELINE_RETURN_IF_ERROR(target_->Commit(paths));
  for (const AcceptedPath& path : paths) {
    Sequence& sequence = sequences_[path.slot];
    for (const int32_t node : path.nodes) {
      sequence.tokens.push_back(token_ids_[sequence.first_row + node]);
    }
  }
  return OkStatus();
}

DraftModelEngine::Sequence& DraftModelEngine::SequenceAt(int32_t row) {
  const auto end = std::upper_bound(tree_offsets_.begin(), tree_offsets_.end(), row);
  return sequences_[slots_[end - tree_offsets_.begin() - 1]];
}

StatusOr<std::vector<Guesses>> DraftModelEngine::Draft(std::span<const int32_t> rows,
                                                       int32_t max_guesses) {
  for (const int32_t row : rows) {
    if (row < 0 || row >= static_cast<int32_t>(drawn_.size()) || drawn_[row] < 0) {
      return InvalidArgument("draft: nothing was drawn at row {} of the last step's {}", row,
                             drawn_.size());
    }
  }
  StatusOr<std::vector<Guesses>> guesses = Guess(rows, max_guesses);
  if (!guesses.ok()) {
    // What the step was to change is lost.
    for (const int32_t row : rows) SequenceAt(row).draft.reset();
  }
  return guesses;
}

StatusOr<std::vector<Guesses>> DraftModelEngine::Guess(std::span<const int32_t> rows,
                                                       int32_t max_guesses) {
  std::vector<Sequence*> sequences;
  for (const int32_t row : rows) {
    Sequence& sequence = SequenceAt(row);
    if (Prepare(sequence)) sequences.push_back(&sequence);
  }
  TREELINE_RETURN_IF_ERROR(CatchUp(sequences));

  std::vector<Guesses> guesses(rows.size());
  std::vector<Lookahead> lookaheads;
  for (size_t i = 0; i < rows.size(); ++i) {
    Sequence& sequence = SequenceAt(rows[i]);
    if (!sequence.draft || sequence.behind() > kMostBehind) continue;
    lookaheads.emplace_back(sequence, drawn_[rows[i]], guesses[i]);
  }
  TREELINE_RETURN_IF_ERROR(LookAhead(lookaheads, max_guesses));
  return guesses;
}

bool DraftModelEngine::Prepare(Sequence& sequence) {
  // The deepest guess that is looked beyond stands so far behind the token drawn last.
  if (static_cast<int32_t>(sequence.tokens.size()) + depth_ > draft_->limits().max_context) {
    sequence.draft.reset();
  } else if (!sequence.draft) {
    StatusOr<StateSlot> slot = draft_->AcquireSlot();
    if (!slot.ok()) return false;
    sequence.draft.emplace(*std::move(slot));
    const PrefixMatch match = draft_->RestorePrefix(*sequence.draft, sequence.tokens);
    sequence.drafted = match.length;
    sequence.junction = match.shared < match.length + kShortestPrefix ? 0 : match.shared;
  }
  return sequence.draft.has_value();
}

Status DraftModelEngine::CatchUp(std::span<Sequence* const> sequences) {
  Batch batch;
  std::vector<Sequence*> caught_up;
  for (Sequence* sequence : sequences) {
    const int32_t room = kMostCaughtUp - batch.num_tokens();
    if (sequence->behind() <= kMostBehind || room == 0) continue;
    int32_t count = std::min(sequence->behind(), room);
    if (sequence->junction > sequence->drafted) {
      count = std::min(count, sequence->junction - sequence->drafted);
    }
    batch.AddChain(sequence->draft->index(),
                   std::span(sequence->tokens).subspan(sequence->drafted, count));
    caught_up.push_back(sequence);
  }
  if (caught_up.empty()) return OkStatus();
  TREELINE_RETURN_IF_ERROR(draft_->Step(batch).status());
  for (size_t i = 0; i < caught_up.size(); ++i) {
    Sequence& sequence = *caught_up[i];
    sequence.drafted += batch.tree_offsets[i + 1] - batch.tree_offsets[i];
    if (sequence.drafted != sequence.junction) continue;
    draft_->KeepPrefix(*sequence.draft, std::span(sequence.tokens).first(sequence.drafted));
  }
  return OkStatus();
}

Status DraftModelEngine::LookAhead(std::span<Lookahead> lookaheads, int32_t max_guesses) {
  for (int32_t round = 0; round < std::min(depth_, max_guesses); ++round) {
    Batch batch;
    for (Lookahead& lookahead : lookaheads) {
      if (round > 0) lookahead.Extend();
      if (lookahead.has_new_nodes()) lookahead.AddTo(batch);
    }
    if (batch.num_sequences() == 0) return OkStatus();
    TREELINE_ASSIGN_OR_RETURN(const std::vector<RowResult> results, draft_->Step(batch));
    std::span<const RowResult> rest = results;
    for (Lookahead& lookahead : lookaheads) lookahead.Take(rest);
    if (round > 0) continue;

    // The known tokens on the way.
    std::vector<AcceptedPath> paths;
    for (const Lookahead& lookahead : lookaheads) {
      Sequence& sequence = lookahead.sequence();
      if (sequence.behind() == 0) continue;
      AcceptedPath& path = paths.emplace_back();
      path.slot = sequence.draft->index();
      for (int32_t node = 0; node < sequence.behind(); ++node) path.nodes.push_back(node);
      sequence.drafted = static_cast<int32_t>(sequence.tokens.size());
    }
    if (!paths.empty()) TREELINE_RETURN_IF_ERROR(draft_->Commit(paths));
  }
  return OkStatus();
}

PrefixMatch DraftModelEngine::RestorePrefix(const StateSlot& slot,
                                            std::span<const int32_t> tokens) {
  Sequence& sequence = sequences_[slot.index()];
  const PrefixMatch match = target_->RestorePrefix(*sequence.target, tokens);
  sequence.tokens.assign(tokens.begin(), tokens.begin() + match.length);
  return match;
}

void DraftModelEngine::KeepPrefix(const StateSlot& slot, std::span<const int32_t> tokens) {
  const Sequence& sequence = sequences_[slot.index()];
  target_->KeepPrefix(*sequence.target, tokens);
  if (!sequence.draft || sequence.drafted < kShortestPrefix) return;
  draft_->KeepPrefix(*sequence.draft, tokens.first(sequence.drafted));
}

}  // namespace treeline
