#include "engine/eval/recall.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <vector>

namespace treeline {
namespace {

class RecallTest : public testing::Test {
 protected:
  void SetUp() override {
    auto tokenizer = Tokenizer::Load("tests/testdata/checkpoints/softmax");
    ASSERT_TRUE(tokenizer.ok());
    tokenizer_ = *std::move(tokenizer);
    // Ordinary text without a line break, which only probes have.
    text_.resize(20000);
    for (size_t i = 0; i < text_.size(); ++i) text_[i] = 200 + static_cast<int32_t>(i * i % 61);
  }
  std::vector<RecallProbe> Make(int32_t probes, int32_t max_context, uint64_t seed = 0) {
    auto made = MakeRecallProbes(text_, *tokenizer_, {probes, max_context, seed});
    EXPECT_EQ(made.status(), OkStatus());
    return made.ok() ? *std::move(made) : std::vector<RecallProbe>();
  }
  std::string Text(const std::vector<int32_t>& tokens) { return tokenizer_->Decode(tokens, false); }

  std::unique_ptr<Tokenizer> tokenizer_;
  std::vector<int32_t> text_;
};

TEST_F(RecallTest, AsksForTheWordThatWasStatedSoManyTokensBefore) {
  std::set<std::string> answers;
  for (const RecallProbe& probe : Make(8, 8192)) {
    if (probe.kind != "kv") continue;
    ASSERT_EQ(probe.question.continuations.size(), 1u);
    const std::string context = Text(probe.question.context);
    const std::string answer = Text(probe.question.continuations[0]);
    answers.insert(answer);
    const std::string question = context.substr(context.rfind("\nThe secret word of"));
    const std::string statement = question + answer + ".\n";
    EXPECT_TRUE(question.ends_with(" is")) << question;
    const size_t stated = context.find(statement);
    if (probe.distance == 0) {
      EXPECT_EQ(stated, std::string::npos);
      continue;
    }
    ASSERT_NE(stated, std::string::npos);
    const auto tokens = [&](const std::string& part) {
      return static_cast<int32_t>(tokenizer_->Encode(part, false, false)->size());
    };
    // Text before, the statement, the distance, the question.
    EXPECT_EQ(static_cast<int32_t>(probe.question.context.size()),
              64 + tokens(statement) + probe.distance + tokens(question));
  }
  EXPECT_GE(answers.size(), 4u);
}

TEST_F(RecallTest, ShowsThePassageAgain) {
  for (const RecallProbe& probe : Make(4, 8192)) {
    if (probe.kind != "copy") continue;
    const std::vector<int32_t>& context = probe.question.context;
    const std::vector<int32_t>& answer = probe.question.continuations[0];
    ASSERT_EQ(answer.size(), 32u);
    if (probe.distance == 0) {
      EXPECT_EQ(context.size(), 64u + 256 + 16);
      continue;
    }
    ASSERT_EQ(context.size(), 64u + 48 + probe.distance + 16);
    EXPECT_TRUE(std::equal(context.end() - 16, context.end(), context.begin() + 64));
    EXPECT_TRUE(std::equal(answer.begin(), answer.end(), context.begin() + 64 + 16));
  }
}

TEST_F(RecallTest, LongerDistancesBeginAsShorterOnes) {
  std::map<std::string, const RecallProbe*> last;
  const auto probes = Make(1, 8192);
  for (const RecallProbe& probe : probes) {
    const RecallProbe*& previous = last[probe.kind];
    if (previous != nullptr && previous->distance > 0) {
      const auto& shorter = previous->question.context;
      EXPECT_GT(probe.distance, previous->distance);
      EXPECT_TRUE(std::equal(shorter.begin(), shorter.begin() + 64 + previous->distance,
                             probe.question.context.begin()));
    }
    previous = &probe;
  }
  EXPECT_EQ(last["kv"]->distance, 7936);
  EXPECT_EQ(last["copy"]->distance, 7936);
}

TEST_F(RecallTest, TheSeedDecides) {
  const auto contexts = [&](uint64_t seed) {
    std::vector<std::vector<int32_t>> all;
    for (const RecallProbe& probe : Make(3, 1024, seed)) all.push_back(probe.question.context);
    return all;
  };
  EXPECT_EQ(contexts(1), contexts(1));
  EXPECT_NE(contexts(1), contexts(2));
}

TEST_F(RecallTest, KeepsToTheContext) {
  for (const RecallProbe& probe : Make(2, 2048)) {
    EXPECT_LE(probe.distance, 1024);
    EXPECT_LE(probe.question.context.size() + probe.question.continuations[0].size(), 2048u);
  }
  EXPECT_EQ(MakeRecallProbes(text_, *tokenizer_, {1, 300, 0}).status().code(),
            StatusCode::kInvalidArgument);
  text_.resize(5000);
  EXPECT_EQ(MakeRecallProbes(text_, *tokenizer_, {1, 8192, 0}).status().code(),
            StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace treeline
