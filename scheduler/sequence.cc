#include "scheduler/sequence.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "engine/speculative/ngram_drafter.h"

namespace treeline {
namespace {

// Fewer tokens are computed about as fast as a state is copied.
constexpr int32_t kShortestPrefix = 32;
// A prompt's state is kept at the last multiple of this too: the end of a prompt is often not what
// the next one goes on from, and the same prompt again cannot start from its own end.
constexpr int32_t kTailUnit = 512;
// Guesses further ahead are too seldom right.
constexpr int32_t kMaxDraftDepth = 16;
// Of a prompt's tokens, the last: reading them all would hold up the other sequences.
constexpr size_t kMaxDrafterPrompt = 32768;
// Of what was expected and accepted, from one step to the next.
constexpr float kFading = 0.9f;

bool Contains(std::span<const int32_t> tokens, int32_t token) {
  return std::find(tokens.begin(), tokens.end(), token) != tokens.end();
}

}  // namespace

Sequence::Sequence(const Request& request, int32_t choice, const SequenceContext& context)
    : request_(request),
      context_(context),
      choice_(choice),
      detokenizer_(context.tokenizer, request.skip_special_tokens),
      stop_checker_(request.stop.stop_strings) {
  if (request.stop.min_tokens > 0) {
    min_tokens_bans_ = context.eos_token_ids;
    min_tokens_bans_.insert(min_tokens_bans_.end(), request.stop.stop_token_ids.begin(),
                            request.stop.stop_token_ids.end());
  }
}

std::span<const int32_t> Sequence::Pending() const {
  const std::span<const int32_t> prompt = request_.prompt;
  if (num_computed_ < static_cast<int32_t>(prompt.size())) return prompt.subspan(num_computed_);
  return std::span(generated_).subspan(num_computed_ - prompt.size());
}

// Who wants log-probabilities of the prompt has all of it computed.
bool Sequence::keeps_prefixes() const {
  return context_.prefix_interval > 0 && !request_.prompt_logprobs;
}

void Sequence::UsePrefix(Engine& engine) {
  if (!keeps_prefixes()) return;
  // The last token is computed in any case: its row draws the first new one.
  const auto known = std::span(request_.prompt).first(request_.prompt.size() - 1);
  const PrefixMatch match = engine.RestorePrefix(*slot_, known);
  if (match.length > num_computed_) {
    cached_tokens_ += match.length - num_computed_;
    num_computed_ = restored_ = match.length;
  }
  junction_ = match.shared;
  // The other choices go on from there.
  if (request_.num_choices > 1) junction_ = static_cast<int32_t>(known.size());
  if (junction_ < restored_ + kShortestPrefix) junction_ = 0;
  tail_ = static_cast<int32_t>(known.size()) / kTailUnit * kTailUnit;
  if (tail_ < restored_ + kShortestPrefix) tail_ = 0;
}

void Sequence::KeepPrefix(Engine& engine) const {
  if (!keeps_prefixes() || num_computed_ < kShortestPrefix) return;
  const auto prompt_size = static_cast<int32_t>(request_.prompt.size());
  const bool in_prompt = num_computed_ < prompt_size;
  const bool at_place = in_prompt ? num_computed_ == junction_ || num_computed_ == tail_ ||
                                        num_computed_ % context_.prefix_interval == 0
                                  : finished();
  if (!at_place) return;
  std::vector<int32_t> tokens = request_.prompt;
  tokens.insert(tokens.end(), generated_.begin(), generated_.end());
  engine.KeepPrefix(*slot_, std::span(tokens).first(num_computed_));
}

bool Sequence::shares_prompt() const {
  return keeps_prefixes() && request_.num_choices > 1 &&
         static_cast<int32_t>(request_.prompt.size()) > kShortestPrefix;
}

int32_t Sequence::num_pending() const {
  const auto pending = static_cast<int32_t>(Pending().size());
  if (decoding() || !keeps_prefixes()) return pending;
  const int32_t interval = context_.prefix_interval;
  int32_t end = std::min(num_computed_ + pending, (num_computed_ / interval + 1) * interval);
  for (const int32_t place : {junction_, tail_}) {
    if (place > num_computed_) end = std::min(end, place);
  }
  return end - num_computed_;
}

int32_t Sequence::AddTo(Batch& batch, int32_t num_tokens) {
  const std::span<const int32_t> prompt = request_.prompt;
  const int32_t first_row = batch.AddChain(slot_->index(), Pending().first(num_tokens));
  drawn_at_ = first_row + num_tokens - 1;
  const size_t requests_before = batch.requests.size();
  for (int32_t i = 0; i < num_tokens; ++i) {
    const size_t next = num_computed_ + i + 1;  // Position of the token that this row predicts.
    if (next < prompt.size()) {
      if (!request_.prompt_logprobs) continue;
      batch.requests.push_back({.row = first_row + i,
                                .score = prompt.subspan(next, 1),
                                .top_logprobs = request_.top_logprobs});
    } else if (request_.stop.max_tokens > 0) {
      batch.requests.push_back(SamplingRow(first_row + i));
    }
  }
  return static_cast<int32_t>(batch.requests.size() - requests_before);
}

RowRequest Sequence::SamplingRow(int32_t row, std::span<const int32_t> drafted) const {
  const size_t num_generated = generated_.size() + drafted.size();
  RowRequest row_request;
  row_request.row = row;
  row_request.sampling = &request_.sampling;
  row_request.random = {.seed = request_.sampling.seed,
                        .choice = static_cast<uint32_t>(choice_),
                        .position = static_cast<uint32_t>(request_.prompt.size() + num_generated)};
  row_request.prompt = request_.prompt;
  row_request.generated = generated_;
  row_request.drafted = drafted;
  if (num_generated < static_cast<size_t>(request_.stop.min_tokens)) {
    row_request.banned = min_tokens_bans_;
  }
  if (request_.logprobs) row_request.top_logprobs = request_.top_logprobs;
  return row_request;
}

std::optional<TokenEvent> Sequence::Commit(int32_t num_tokens, std::span<RowResult> results) {
  num_computed_ += num_tokens;
  for (RowResult& result : results) {
    if (result.scores.empty()) continue;
    const int32_t token = request_.prompt[prompt_logprobs_.size() + 1];
    prompt_logprobs_.push_back({token, result.scores[0], std::move(result.top_logprobs)});
  }
  if (!Pending().empty()) return std::nullopt;

  TokenEvent event;
  event.choice = choice_;
  event.prompt_logprobs = std::exchange(prompt_logprobs_, {});
  if (request_.stop.max_tokens > 0) {
    TakeToken(results.back(), event);
  } else {
    finish_ = FinishReason::kLength;
  }
  event.finish = finish_;
  return event;
}

int32_t Sequence::max_draft_depth() const {
  const int32_t known = static_cast<int32_t>(request_.prompt.size()) + num_generated();
  // A guess at the last token that may come is of use, one after it is not.
  return std::min({kMaxDraftDepth, request_.stop.max_tokens - num_generated() - 1,
                   context_.max_context - known - 1});
}

int32_t Sequence::max_draft_nodes() const {
  return std::min(context_.max_draft_nodes, request_.max_draft_nodes);
}

std::optional<int32_t> Sequence::RowToDraft() const {
  const bool asks = (context_.drafters.heads && request_.drafters.heads) ||
                    (context_.drafters.draft_model && request_.drafters.draft_model);
  if (!asks || max_draft_depth() < 1 || max_draft_nodes() < 2) return std::nullopt;
  return drawn_at_;
}

// Shows the drafter the tokens it has not seen.
void Sequence::ReadAhead() {
  const std::span<const int32_t> prompt = request_.prompt;
  if (drafter_ == nullptr) {
    drafter_ = std::make_unique<NgramDrafter>(kMaxDraftDepth);
    drafter_->Append(prompt.last(std::min(prompt.size(), kMaxDrafterPrompt)));
    num_drafter_tokens_ = prompt.size();
  }
  drafter_->Append(std::span(generated_).subspan(num_drafter_tokens_ - prompt.size()));
  num_drafter_tokens_ = prompt.size() + generated_.size();
}

std::vector<float> Sequence::Probabilities(const DraftTreeBuilder& guesses) const {
  std::vector<float> probabilities = guesses.PathProbabilities(max_draft_nodes() - 1);
  // Each starts with one guess borne out, so that no run of bad luck lasts for ever.
  const float trust = std::min(1.0f, (recently_accepted_ + 1) / (recently_expected_ + 1));
  for (float& probability : probabilities) probability *= trust;
  return probabilities;
}

std::optional<Sequence::Draft> Sequence::Guess(const Guesses* by_model) {
  const bool asks_ngram = context_.drafters.ngram && request_.drafters.ngram;
  if ((!asks_ngram && by_model == nullptr) || max_draft_depth() < 1 || max_draft_nodes() < 2) {
    return std::nullopt;
  }
  Draft draft{DraftTreeBuilder(generated_.back(), max_draft_depth()), {}, {}};
  if (asks_ngram) {
    ReadAhead();
    drafter_->Propose(0, draft.guesses);
  }
  draft.without_model = Probabilities(draft.guesses);
  if (by_model != nullptr) {
    const int32_t first = draft.guesses.num_guesses() + 1;
    draft.guesses.Add(*by_model);
    if (asks_ngram) drafter_->Propose(first, draft.guesses);
  }
  draft.probabilities = Probabilities(draft.guesses);
  recently_expected_ *= kFading;
  recently_accepted_ *= kFading;
  return draft;
}

int32_t Sequence::AddDraftTo(Batch& batch, const Draft& draft, int32_t num_guesses) {
  tree_ = draft.guesses.Build(num_guesses);
  expected_ =
      std::accumulate(draft.probabilities.begin(), draft.probabilities.begin() + num_guesses, 0.0f);
  const int32_t first_row = batch.AddTree(slot_->index(), *tree_);
  drawn_at_ = first_row;  // And further down the tree, once a path is accepted.
  drafted_.resize(tree_->size());
  drafted_[0].clear();
  if (request_.typical_acceptance) guesses_.assign(tree_->size(), {});
  for (int32_t node = 1; node < tree_->size(); ++node) {
    const int32_t parent = tree_->parents()[node], token = tree_->tokens()[node];
    drafted_[node] = drafted_[parent];
    drafted_[node].push_back(token);
    if (request_.typical_acceptance) guesses_[parent].push_back(token);
  }
  for (int32_t node = 0; node < tree_->size(); ++node) {
    RowRequest& row = batch.requests.emplace_back(SamplingRow(first_row + node, drafted_[node]));
    if (request_.typical_acceptance) row.score = row.guesses = guesses_[node];
  }
  return tree_->size();
}

TokenEvent Sequence::CommitDraft(std::span<RowResult> results, std::vector<int32_t>* path) {
  const TokenTree tree = *std::exchange(tree_, std::nullopt);
  TokenEvent event;
  event.choice = choice_;
  path->clear();
  const std::vector<int32_t> right = RightChildren(tree, results);
  for (int32_t node = 0; node >= 0 && !finish_; node = right[node]) {
    path->push_back(node);
    RowResult& result = results[node];
    if (right[node] >= 0 && request_.typical_acceptance) {
      result.token = tree.tokens()[right[node]];
      const auto guess = std::find(guesses_[node].begin(), guesses_[node].end(), result.token);
      result.logprob = result.scores[guess - guesses_[node].begin()];
    }
    TakeToken(result, event);
  }
  drawn_at_ += path->back();
  const auto num_computed = static_cast<int32_t>(path->size());
  num_computed_ += num_computed;
  accepted_draft_tokens_ += num_computed - 1;
  rejected_draft_tokens_ += tree.size() - num_computed;
  recently_expected_ += expected_;
  recently_accepted_ += static_cast<float>(num_computed - 1);
  event.finish = finish_;
  return event;
}

std::vector<int32_t> Sequence::RightChildren(const TokenTree& tree,
                                             std::span<const RowResult> results) const {
  std::vector<int32_t> right(tree.size(), -1), height(tree.size(), 0), num_children(tree.size(), 0);
  std::vector<int32_t> index(tree.size());  // Among the node's siblings.
  for (int32_t node = 1; node < tree.size(); ++node) {
    index[node] = num_children[tree.parents()[node]]++;
  }
  // From the leaves up. Of paths as long as each other the first is the more probable.
  for (int32_t node = tree.size() - 1; node > 0; --node) {
    const int32_t parent = tree.parents()[node];
    const bool is_right = request_.typical_acceptance
                              ? results[parent].typical[index[node]]
                              : results[parent].token == tree.tokens()[node];
    if (!is_right || height[node] + 1 < height[parent]) continue;
    height[parent] = height[node] + 1;
    right[parent] = node;
  }
  return right;
}

void Sequence::TakeToken(RowResult& result, TokenEvent& event) {
  generated_.push_back(result.token);
  event.tokens.push_back(result.token);
  if (request_.logprobs) {
    event.logprobs.push_back({result.token, result.logprob, std::move(result.top_logprobs)});
  }

  // Text that comes before min_tokens is not searched for stop strings.
  const auto show = [&](const std::string& text) {
    const bool search = num_generated() >= request_.stop.min_tokens;
    event.text += search ? stop_checker_.Push(text) : text;
  };
  const int32_t num_known = static_cast<int32_t>(request_.prompt.size()) + num_generated();
  if (IsStopToken(result.token)) {
    finish_ = FinishReason::kStop;
  } else {
    show(detokenizer_.Push(result.token));
    if (num_generated() == request_.stop.max_tokens || num_known == context_.max_context) {
      finish_ = FinishReason::kLength;
    }
  }
  if (finish_) show(detokenizer_.Flush());
  if (stop_checker_.stopped()) finish_ = FinishReason::kStop;
  if (finish_) event.text += stop_checker_.Flush();
}

bool Sequence::IsStopToken(int32_t token) const {
  return (!request_.stop.ignore_eos && Contains(context_.eos_token_ids, token)) ||
         Contains(request_.stop.stop_token_ids, token);
}

}  // namespace treeline
