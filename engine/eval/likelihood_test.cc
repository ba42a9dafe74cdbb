#include "engine/eval/likelihood.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <vector>

namespace treeline {
namespace {

constexpr int32_t kVocabSize = 20;
constexpr int32_t kMaxContext = 120;

using Tokens = std::vector<int32_t>;

// An engine whose probabilities depend on every token before: one lost, repeated or misplaced
// changes all that follow.
class PrefixEngine : public Engine, private StateSlotOwner {
 public:
  PrefixEngine(int32_t num_slots, bool keeps) : num_slots_(num_slots), keeps_(keeps) {}

  static float Logprob(const Tokens& prefix, int32_t token) {
    uint32_t hash = 17;
    for (const int32_t t : prefix) hash = hash * 31 + static_cast<uint32_t>(t);
    return -0.01f * static_cast<float>(1 + (hash * 13 + token * 7919u) % 997);
  }
  static int32_t Best(const Tokens& prefix) {
    int32_t best = 0;
    for (int32_t t = 1; t < kVocabSize; ++t) {
      if (Logprob(prefix, t) > Logprob(prefix, best)) best = t;
    }
    return best;
  }

  EngineLimits limits() const override {
    return {.vocab_size = kVocabSize, .max_context = kMaxContext, .num_slots = num_slots_};
  }
  int32_t free_slots() const override { return num_slots_ - static_cast<int32_t>(held_.size()); }
  StatusOr<StateSlot> AcquireSlot() override {
    for (int32_t index = 0; index < num_slots_; ++index) {
      if (held_.try_emplace(index).second) return StateSlot(this, index);
    }
    return ResourceExhausted("no slot");
  }
  StatusOr<std::vector<RowResult>> Step(const Batch& batch) override {
    if (fail_) return Internal("device lost");
    largest_step_ = std::max(largest_step_, batch.num_tokens());
    tokens_run_ += batch.num_tokens();
    std::vector<Tokens> prefixes;  // Up to and with each row.
    for (int32_t i = 0; i < batch.num_sequences(); ++i) {
      Tokens& held = held_.at(batch.slots[i]);
      for (int32_t row = batch.tree_offsets[i]; row < batch.tree_offsets[i + 1]; ++row) {
        held.push_back(batch.token_ids[row]);
        prefixes.push_back(held);
      }
    }
    std::vector<RowResult> results;
    for (const RowRequest& request : batch.requests) {
      const Tokens& prefix = prefixes[request.row];
      RowResult& result = results.emplace_back();
      for (const int32_t token : request.score) result.scores.push_back(Logprob(prefix, token));
      result.top_logprobs = {{Best(prefix), Logprob(prefix, Best(prefix))}};
    }
    return results;
  }
  Status Commit(std::span<const AcceptedPath>) override { return OkStatus(); }
  PrefixMatch RestorePrefix(const StateSlot& slot, std::span<const int32_t> tokens) override {
    Tokens& held = held_.at(slot.index());
    for (const Tokens& kept : kept_) {
      if (kept.size() > held.size() && kept.size() <= tokens.size() &&
          std::equal(kept.begin(), kept.end(), tokens.begin())) {
        held = kept;
      }
    }
    return {static_cast<int32_t>(held.size()), 0};
  }
  void KeepPrefix(const StateSlot& slot, std::span<const int32_t> tokens) override {
    EXPECT_EQ(held_.at(slot.index()), Tokens(tokens.begin(), tokens.end()));
    if (keeps_) kept_.emplace_back(tokens.begin(), tokens.end());
  }

  int32_t largest_step_ = 0;
  int32_t tokens_run_ = 0;
  bool fail_ = false;

 private:
  void ReleaseSlot(int32_t index) override { held_.erase(index); }

  const int32_t num_slots_;
  const bool keeps_;
  std::map<int32_t, Tokens> held_;  // By slot in use.
  std::vector<Tokens> kept_;
};

Tokens Random(size_t count, std::mt19937& rng) {
  Tokens tokens(count);
  for (int32_t& token : tokens) token = std::uniform_int_distribution<int32_t>(0, 19)(rng);
  return tokens;
}

StatusOr<std::vector<std::vector<Likelihood>>> Score(const std::vector<Question>& questions,
                                                     int32_t max_batch_tokens, Engine& engine) {
  std::vector<std::vector<Likelihood>> all;
  LikelihoodOptions options;
  options.max_batch_tokens = max_batch_tokens;
  options.on_scored = [&](size_t question, const std::vector<Likelihood>& likelihoods) {
    EXPECT_EQ(question, all.size());
    all.push_back(likelihoods);
  };
  TREELINE_RETURN_IF_ERROR(ScoreQuestions(questions, options, engine));
  return all;
}

TEST(ScoreQuestions, SumsEveryTokenOfEveryContinuation) {
  std::mt19937 rng(1);
  std::vector<Question> questions;
  const Tokens examples = Random(40, rng);
  for (const size_t length : {1, 2, 31, 70}) {
    for (const bool with_examples : {false, true}) {
      Question& question = questions.emplace_back();
      if (with_examples) question.context = examples;
      const Tokens own = Random(length, rng);
      question.context.insert(question.context.end(), own.begin(), own.end());
      question.continuations = {{3}, {4}, Random(2, rng), Random(9, rng)};
      Tokens another = question.continuations.back();  // But for its last token.
      another.back() = (another.back() + 1) % kVocabSize;
      question.continuations.push_back(another);
      question.continuations.push_back({3, 5});
    }
  }
  for (const int32_t num_slots : {1, 3, 8}) {
    for (const int32_t max_batch_tokens : {1, 4, 25, 512}) {
      for (const bool keeps : {false, true}) {
        PrefixEngine engine(num_slots, keeps);
        const auto scored = Score(questions, max_batch_tokens, engine);
        ASSERT_EQ(scored.status(), OkStatus());
        ASSERT_EQ(scored->size(), questions.size());
        for (size_t q = 0; q < questions.size(); ++q) {
          ASSERT_EQ((*scored)[q].size(), questions[q].continuations.size());
          for (size_t c = 0; c < questions[q].continuations.size(); ++c) {
            Tokens prefix = questions[q].context;
            double expected = 0;
            int32_t best = 0;
            for (const int32_t token : questions[q].continuations[c]) {
              expected += PrefixEngine::Logprob(prefix, token);
              best += token == PrefixEngine::Best(prefix);
              prefix.push_back(token);
            }
            const Likelihood& likelihood = (*scored)[q][c];
            EXPECT_NEAR(likelihood.logprob, expected, 1e-4);
            EXPECT_EQ(likelihood.num_tokens, questions[q].continuations[c].size());
            EXPECT_EQ(likelihood.num_best, best);
          }
        }
        EXPECT_LE(engine.largest_step_, max_batch_tokens);
        EXPECT_EQ(engine.free_slots(), num_slots);
      }
    }
  }
}

TEST(ScoreQuestions, RunsWhatIsCommonOnce) {
  std::mt19937 rng(2);
  const Tokens examples = Random(50, rng);
  std::vector<Question> questions(2);
  for (Question& question : questions) {
    question.context = examples;
    question.context.push_back(static_cast<int32_t>(&question - questions.data()));
    question.context.push_back(9);
    question.continuations = {{1, 2, 3}, {4, 5}, {4, 6}};
  }
  PrefixEngine engine(4, /*keeps=*/true);
  ASSERT_EQ(Score(questions, 512, engine).status(), OkStatus());
  // The examples; of each question its own token, then 9 1 2 and 9 4.
  EXPECT_EQ(engine.tokens_run_, 50 + 2 * (1 + 3 + 2));
}

TEST(ScoreQuestions, OneContinuationNeedsNothingKept) {
  PrefixEngine engine(1, /*keeps=*/true);
  std::mt19937 rng(3);
  const std::vector<Question> questions = {{Random(60, rng), {{1, 2}}}, {Random(60, rng), {{3}}}};
  ASSERT_EQ(Score(questions, 16, engine).status(), OkStatus());
  EXPECT_EQ(engine.tokens_run_, 61 + 60);
}

TEST(ScoreQuestions, RefusesQuestionsThatCannotBeScored) {
  PrefixEngine engine(2, true);
  const Question good = {{1}, {{2}}};
  for (const Question& bad : {Question{{}, {{1}}}, Question{{1}, {}}, Question{{1}, {{2}, {}}},
                              Question{Tokens(kMaxContext, 1), {{2}, {3, 4}}}}) {
    const Status status = Score({good, bad}, 512, engine).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_NE(std::string(status.message()).find("question 1"), std::string::npos) << status;
  }
  EXPECT_EQ(Score({{Tokens(kMaxContext, 1), {{2}}}}, 512, engine).status(), OkStatus());
}

TEST(ScoreQuestions, TheEnginesErrorsComeOutAndSlotsGoBack) {
  PrefixEngine engine(2, true);
  engine.fail_ = true;
  EXPECT_EQ(Score({{{1, 2, 3}, {{1}, {2, 3}}}}, 512, engine).status().code(),
            StatusCode::kInternal);
  EXPECT_EQ(engine.free_slots(), 2);
}

}  // namespace
}  // namespace treeline
