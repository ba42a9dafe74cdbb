#include "engine/eval/likelihood.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

namespace treeline {

namespace {

// A state of fewer tokens costs more to keep than to compute again.
constexpr size_t kMinShared = 32;

using Tokens = std::span<const int32_t>;

// Tokens to run behind what a slot holds, to see what follows each.
struct Run {
  struct Next {
    std::vector<int32_t> tokens;
    std::vector<size_t> continuations;  // Whose they are.
  };
  std::vector<int32_t> tokens;
  std::vector<Next> next;  // [tokens.size()]
  std::optional<StateSlot> slot;
  size_t done = 0;  // Tokens.
};

class Scorer {
 public:
  Scorer(const LikelihoodOptions& options, Engine& engine)
      : max_batch_tokens_(options.max_batch_tokens), engine_(engine) {}

  // `shared`: how many tokens of the context the next question's begins with.
  StatusOr<std::vector<Likelihood>> Score(const Question& question, size_t shared);

 private:
  Status Feed(const StateSlot& slot, Tokens tokens);
  StatusOr<StateSlot> SlotHolding(Tokens prefix, size_t shared, bool keep);
  Status Step(std::vector<Run>& runs, std::vector<Likelihood>* likelihoods);

  const int32_t max_batch_tokens_;
  Engine& engine_;
};

// Commits tokens of which nothing is wanted.
Status Scorer::Feed(const StateSlot& slot, Tokens tokens) {
  for (size_t begin = 0; begin < tokens.size(); begin += max_batch_tokens_) {
    Batch batch;
    batch.AddChain(slot.index(), tokens.subspan(begin, std::min<size_t>(max_batch_tokens_,
                                                                        tokens.size() - begin)));
    TREELINE_RETURN_IF_ERROR(engine_.Step(batch).status());
  }
  return OkStatus();
}

// A new slot that holds `prefix`, of which the engine is to keep the first `shared` tokens, and all
// if `keep`.
StatusOr<StateSlot> Scorer::SlotHolding(Tokens prefix, size_t shared, bool keep) {
  TREELINE_ASSIGN_OR_RETURN(StateSlot slot, engine_.AcquireSlot());
  if (prefix.empty()) return slot;
  size_t held = engine_.RestorePrefix(slot, prefix).length;
  if (shared >= kMinShared && shared > held) {
    TREELINE_RETURN_IF_ERROR(Feed(slot, prefix.subspan(held, shared - held)));
    engine_.KeepPrefix(slot, prefix.first(shared));
    held = shared;
  }
  if (held == prefix.size()) return slot;
  TREELINE_RETURN_IF_ERROR(Feed(slot, prefix.subspan(held)));
  if (keep) engine_.KeepPrefix(slot, prefix);
  return slot;
}

// The rows that score the continuations: the context's last token and then each continuation but
// for its last token, which predicts nothing. Continuations that differ only there share a run.
std::vector<Run> PlanRuns(const Question& question) {
  std::map<std::vector<int32_t>, Run> by_tokens;
  for (size_t c = 0; c < question.continuations.size(); ++c) {
    const std::vector<int32_t>& continuation = question.continuations[c];
    std::vector<int32_t> tokens = {question.context.back()};
    tokens.insert(tokens.end(), continuation.begin(), continuation.end() - 1);
    Run& run = by_tokens[tokens];
    run.next.resize(tokens.size());
    for (size_t i = 0; i < tokens.size(); ++i) {
      run.next[i].tokens.push_back(continuation[i]);
      run.next[i].continuations.push_back(c);
    }
    run.tokens = std::move(tokens);
  }
  std::vector<Run> runs;
  for (auto& [tokens, run] : by_tokens) runs.push_back(std::move(run));
  return runs;
}

// Runs as many tokens of each run, in order, as a step takes.
Status Scorer::Step(std::vector<Run>& runs, std::vector<Likelihood>* likelihoods) {
  Batch batch;
  std::vector<const Run::Next*> asked;
  for (Run& run : runs) {
    const size_t count =
        std::min<size_t>(run.tokens.size() - run.done, max_batch_tokens_ - batch.num_tokens());
    if (count == 0) continue;
    const int32_t first_row =
        batch.AddChain(run.slot->index(), Tokens(run.tokens).subspan(run.done, count));
    for (size_t i = 0; i < count; ++i) {
      asked.push_back(&run.next[run.done + i]);
      RowRequest request;
      request.row = first_row + static_cast<int32_t>(i);
      request.score = asked.back()->tokens;
      request.top_logprobs = 1;
      batch.requests.push_back(request);
    }
    run.done += count;
  }
  TREELINE_ASSIGN_OR_RETURN(const std::vector<RowResult> rows, engine_.Step(batch));
  for (size_t i = 0; i < rows.size(); ++i) {
    TREELINE_RETURN_IF_ERROR(rows[i].status);
    for (size_t j = 0; j < asked[i]->tokens.size(); ++j) {
      Likelihood& likelihood = (*likelihoods)[asked[i]->continuations[j]];
      likelihood.logprob += rows[i].scores[j];
      likelihood.num_tokens += 1;
      likelihood.num_best += rows[i].top_logprobs[0].first == asked[i]->tokens[j];
    }
  }
  return OkStatus();
}

StatusOr<std::vector<Likelihood>> Scorer::Score(const Question& question, size_t shared) {
  const Tokens prefix = Tokens(question.context).first(question.context.size() - 1);
  shared = std::min(shared, prefix.size());
  std::vector<Run> waiting = PlanRuns(question);
  const bool keep = waiting.size() > 1;
  std::vector<Likelihood> likelihoods(question.continuations.size());
  while (!waiting.empty()) {
    std::vector<Run> runs;
    do {
      TREELINE_ASSIGN_OR_RETURN(StateSlot slot, SlotHolding(prefix, shared, keep));
      runs.push_back(std::move(waiting.back()));
      runs.back().slot = std::move(slot);
      waiting.pop_back();
    } while (!waiting.empty() && engine_.free_slots() > 0);
    const auto unfinished = [](const Run& run) { return run.done < run.tokens.size(); };
    while (std::any_of(runs.begin(), runs.end(), unfinished)) {
      TREELINE_RETURN_IF_ERROR(Step(runs, &likelihoods));
    }
  }
  return likelihoods;
}

Status Check(const Question& question, const Engine& engine) {
  const auto& continuations = question.continuations;
  const auto is_empty = [](const std::vector<int32_t>& tokens) { return tokens.empty(); };
  if (question.context.empty() || continuations.empty() ||
      std::any_of(continuations.begin(), continuations.end(), is_empty)) {
    return InvalidArgument("its context or a continuation has no tokens");
  }
  size_t longest = 0;
  for (const auto& continuation : continuations) longest = std::max(longest, continuation.size());
  const size_t rows = question.context.size() + longest - 1;
  const auto limit = static_cast<size_t>(engine.limits().max_context);
  if (rows > limit) {
    return InvalidArgument("it has {} tokens, more than the engine's context of {}", rows, limit);
  }
  return OkStatus();
}

size_t CommonPrefix(Tokens a, Tokens b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

}  // namespace

Status ScoreQuestions(std::span<const Question> questions, const LikelihoodOptions& options,
                      Engine& engine) {
  Scorer scorer(options, engine);
  for (size_t i = 0; i < questions.size(); ++i) {
    const Status valid = Check(questions[i], engine);
    if (!valid.ok()) return Annotate(valid, fmt::format("question {}", i));
    const size_t shared =
        i + 1 < questions.size() ? CommonPrefix(questions[i].context, questions[i + 1].context) : 0;
    TREELINE_ASSIGN_OR_RETURN(const std::vector<Likelihood> likelihoods,
                              scorer.Score(questions[i], shared));
    options.on_scored(i, likelihoods);
  }
  return OkStatus();
}

}  // namespace treeline
