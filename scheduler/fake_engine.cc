#include "scheduler/fake_engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace treeline {
namespace {

uint64_t Hash(std::span<const int32_t> tokens, uint64_t salt) {
  uint64_t hash = 0xcbf29ce484222325 + salt;
  for (const int32_t token : tokens) {
    hash = (hash ^ static_cast<uint64_t>(token + 1)) * 0x9E3779B97F4A7C15;
    hash ^= hash >> 29;
  }
  return hash;
}

bool Contains(std::span<const int32_t> tokens, int32_t token) {
  return std::find(tokens.begin(), tokens.end(), token) != tokens.end();
}

}  // namespace

FakeEngine::~FakeEngine() { EXPECT_TRUE(committed_.empty()) << "slots were not returned"; }

int32_t FakeEngine::HashToken(std::span<const int32_t> prefix, uint32_t choice) const {
  return 10 + static_cast<int32_t>(Hash(prefix, choice) % (limits_.vocab_size - 10));
}

std::vector<int32_t> FakeEngine::Continuation(const std::vector<int32_t>& prompt, int32_t count,
                                              uint32_t choice) const {
  Tokens tokens = prompt;
  for (int32_t i = 0; i < count; ++i) tokens.push_back(next_token_(tokens, choice));
  return {tokens.begin() + prompt.size(), tokens.end()};
}

float FakeEngine::Logprob(std::span<const int32_t> prefix, int32_t token) {
  return -static_cast<float>(Hash(prefix, 1000 + token) % 10'000) / 1000;
}

std::vector<std::pair<int32_t, float>> FakeEngine::TopLogprobs(std::span<const int32_t> prefix,
                                                               int32_t count) {
  std::vector<std::pair<int32_t, float>> top;
  for (int32_t token = 0; token < count; ++token) top.emplace_back(token, Logprob(prefix, token));
  return top;
}

StatusOr<StateSlot> FakeEngine::AcquireSlot() {
  if (acquire_error_) return *std::exchange(acquire_error_, std::nullopt);
  for (int32_t index = 0; index < limits_.num_slots; ++index) {
    if (committed_.try_emplace(index).second) return StateSlot(this, index);
  }
  return ResourceExhausted("all {} slots are in use", limits_.num_slots);
}

void FakeEngine::ReleaseSlot(int32_t index) {
  EXPECT_EQ(committed_.erase(index), 1u) << "slot " << index << " was not in use";
}

Status FakeEngine::Commit(std::span<const AcceptedPath> paths) {
  if (commit_error_) return *std::exchange(commit_error_, std::nullopt);
  for (const AcceptedPath& path : paths) {
    const auto draft = drafts_.find(path.slot);
    EXPECT_NE(draft, drafts_.end()) << "no draft to commit";
    if (draft == drafts_.end()) return InvalidArgument("no draft");
    int32_t previous = -1;
    for (const int32_t node : path.nodes) {
      EXPECT_EQ(draft->second.parents.at(node), previous) << "not a path";
      committed_.at(path.slot).push_back(draft->second.tokens.at(node));
      previous = node;
    }
    EXPECT_FALSE(path.nodes.empty()) << "the root is always right";
    drafts_.erase(draft);
  }
  return OkStatus();
}

PrefixMatch FakeEngine::RestorePrefix(const StateSlot& slot, std::span<const int32_t> tokens) {
  Tokens& held = committed_.at(slot.index());
  EXPECT_LE(held.size(), tokens.size());
  EXPECT_TRUE(std::equal(held.begin(), held.end(), tokens.begin())) << "of another sequence";
  PrefixMatch match;
  for (const Tokens& kept : kept_) {
    const size_t limit = std::min(kept.size(), tokens.size());
    const auto common = std::mismatch(kept.begin(), kept.begin() + limit, tokens.begin()).first;
    match.shared = std::max(match.shared, static_cast<int32_t>(common - kept.begin()));
    if (common == kept.end() && kept.size() > held.size()) held = kept;
  }
  match.length = static_cast<int32_t>(held.size());
  return match;
}

void FakeEngine::KeepPrefix(const StateSlot& slot, std::span<const int32_t> tokens) {
  const Tokens kept(tokens.begin(), tokens.end());
  EXPECT_EQ(committed_.at(slot.index()), kept) << "not what the slot holds";
  if (std::find(kept_.begin(), kept_.end(), kept) == kept_.end()) kept_.push_back(kept);
}

StatusOr<std::vector<RowResult>> FakeEngine::Step(const Batch& batch) {
  CheckShape(batch);
  on_step_(batch);
  if (testing::Test::HasFailure()) return InvalidArgument("FakeEngine was asked nonsense");
  const std::vector<Tokens> prefixes = RunTrees(batch);
  if (step_error_) return *std::exchange(step_error_, std::nullopt);
  std::vector<RowResult> results;
  drawn_.clear();
  for (const RowRequest& request : batch.requests) {
    results.push_back(Answer(batch, request, prefixes[request.row]));
    if (request.sampling == nullptr) continue;
    drawn_[request.row] = prefixes[request.row];
    drawn_[request.row].push_back(results.back().token);
  }
  return results;
}

StatusOr<std::vector<Guesses>> FakeEngine::Draft(std::span<const int32_t> rows,
                                                 int32_t max_guesses) {
  on_draft_(rows);
  if (draft_error_) return *std::exchange(draft_error_, std::nullopt);
  std::vector<Guesses> guesses;
  for (const int32_t row : rows) {
    const auto known = drawn_.find(row);
    EXPECT_NE(known, drawn_.end()) << "nothing was drawn at row " << row;
    if (known == drawn_.end()) return InvalidArgument("FakeEngine was asked nonsense");
    HeadGuesses heads;
    for (int32_t head = 0; head < limits_.num_draft_heads; ++head) {
      heads.push_back(head_guess_(known->second, head));
    }
    guesses.push_back(LikeliestPaths(heads, max_guesses));
  }
  return guesses;
}

void FakeEngine::CheckShape(const Batch& batch) const {
  EXPECT_GT(batch.num_sequences(), 0);
  EXPECT_EQ(batch.tree_offsets.size(), batch.slots.size() + 1);
  EXPECT_EQ(batch.acceptance.size(), batch.slots.size());
  EXPECT_EQ(batch.parents.size(), batch.token_ids.size());
  EXPECT_EQ(batch.tree_offsets.back(), batch.num_tokens());
  const std::set<int32_t> slots(batch.slots.begin(), batch.slots.end());
  EXPECT_EQ(slots.size(), batch.slots.size()) << "a slot appears twice";
  for (const int32_t slot : slots) {
    EXPECT_TRUE(committed_.contains(slot)) << "slot " << slot << " is not in use";
  }
  for (const int32_t token : batch.token_ids) {
    EXPECT_GE(token, 0);
    EXPECT_LT(token, limits_.vocab_size);
  }
  int32_t previous_row = -1;
  for (const RowRequest& request : batch.requests) {
    EXPECT_GT(request.row, previous_row) << "row requests must ascend";
    EXPECT_LT(request.row, batch.num_tokens());
    previous_row = request.row;
  }
}

std::vector<FakeEngine::Tokens> FakeEngine::RunTrees(const Batch& batch) {
  std::vector<Tokens> prefixes;
  std::vector<Chain>& chains = steps_.emplace_back();
  drafts_.clear();
  for (int32_t i = 0; i < batch.num_sequences(); ++i) {
    Tokens& committed = committed_.at(batch.slots[i]);
    const int32_t begin = batch.tree_offsets[i], end = batch.tree_offsets[i + 1];
    EXPECT_GT(end, begin);
    const bool known = batch.acceptance[i] == Acceptance::kKnown;
    for (int32_t row = begin; row < end; ++row) {
      const int32_t parent = batch.parents[row];
      EXPECT_TRUE(known ? parent == row - begin - 1 : parent < row - begin) << "no tree";
      prefixes.push_back(parent < 0 ? committed : prefixes[begin + parent]);
      prefixes.back().push_back(batch.token_ids[row]);
      EXPECT_LE(prefixes.back().size(), static_cast<size_t>(limits_.max_context));
    }
    const auto position = static_cast<int32_t>(committed.size());
    if (known) {
      committed = prefixes.back();
    } else {
      drafts_[batch.slots[i]] = {{batch.token_ids.begin() + begin, batch.token_ids.begin() + end},
                                 {batch.parents.begin() + begin, batch.parents.begin() + end}};
    }
    chains.push_back({prefixes.back().front(), position, end - begin});
  }
  return prefixes;
}

RowResult FakeEngine::Answer(const Batch& batch, const RowRequest& request,
                             const Tokens& prefix) const {
  RowResult result;
  if (const auto error = row_errors_.find(prefix.front()); error != row_errors_.end()) {
    result.status = error->second;
    return result;
  }
  for (const int32_t token : request.score) result.scores.push_back(Logprob(prefix, token));
  result.top_logprobs = TopLogprobs(prefix, request.top_logprobs);
  if (request.sampling == nullptr) return result;

  Tokens known(request.prompt.begin(), request.prompt.end());
  known.insert(known.end(), request.generated.begin(), request.generated.end());
  known.insert(known.end(), request.drafted.begin(), request.drafted.end());
  EXPECT_EQ(known, prefix) << "the request's tokens are not those committed";
  EXPECT_EQ(request.random.position, prefix.size());
  EXPECT_EQ(request.random.seed, request.sampling->seed);
  result.token = draw_(batch, request, prefix);
  while (Contains(request.banned, result.token)) ++result.token;
  result.logprob = Logprob(prefix, result.token);
  if (!request.guesses.empty()) result.typical = typical_(request, prefix);
  return result;
}

}  // namespace treeline
