#include "engine/eval/tasks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace treeline {
namespace {

using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::vector<TaskItem> MustRead(const std::string& task, const std::string& lines) {
  auto items = ReadTask(task, lines, "x.jsonl");
  EXPECT_EQ(items.status(), OkStatus());
  return items.ok() ? *std::move(items) : std::vector<TaskItem>();
}

// The prompts as lm-evaluation-harness's templates give them.
TEST(ReadTask, WritesThePromptsOfTheHarness) {
  const struct {
    const char* task;
    const char* record;
    TaskItem expected;
  } cases[] = {
      {"piqa",
       R"({"id":0,"goal":"To open a jar","choices":["twist the lid.","eat it."],"gold":1})",
       {"Question: To open a jar\nAnswer:", {"twist the lid.", "eat it."}, 1}},
      {"arc_challenge",
       R"({"question":"Which is it?","labels":["A","B","C"],"choices":["x","y","z"],"gold":2})",
       {"Question: Which is it?\nAnswer:", {"x", "y", "z"}, 2}},
      {"copa",
       R"({"premise":"I fell. ","question":"cause","choices":["It was wet.","I ran."],"gold":0})",
       {"I fell because", {"it was wet.", "i ran."}, 0}},
      {"copa",
       R"({"premise":"I fell.","question":"effect","choices":["It hurt.","Éa"],"gold":0,"original":true})",
       {"I fell therefore", {"it hurt.", "Éa"}, 0}},
      {"hellaswag",
       R"({"context":"Roof: A man sits. he","choices":["is up.","falls."],"gold":1})",
       {"Roof: A man sits. he", {"is up.", "falls."}, 1}},
      {"lambada", R"({"text":"He opened the old door"})", {"He opened the old", {"door"}, 0}},
      {"qnli",
       R"({"premise":"Who won?","hypothesis":"Denver did.","label":"not_entailment"})",
       {"Who won?\nDenver did.\nQuestion: Does this response answer the question?\nAnswer:",
        {"yes", "no"},
        1}},
      {"mnli",
       R"({"premise":"It rains.","hypothesis":"It is wet ","label":"neutral"})",
       {"It rains.\nQuestion: It is wet. True, False or Neither?\nAnswer:",
        {"True", "Neither", "False"},
        1}},
  };
  for (const auto& [task, record, expected] : cases) {
    const auto items = MustRead(task, std::string(record) + "\n\n");
    ASSERT_EQ(items.size(), 1u) << task;
    EXPECT_EQ(items[0].context, expected.context);
    EXPECT_EQ(items[0].choices, expected.choices);
    EXPECT_EQ(items[0].gold, expected.gold);
  }
}

TEST(ReadTask, LeavesOutMirroredTwins) {
  const std::string twin =
      R"({"premise":"I fell.","question":"cause","choices":["a","b"],"gold":0,"original":false})";
  EXPECT_TRUE(MustRead("copa", twin).empty());
}

std::string MmluRecord(const std::string& subject, const std::string& split, int question) {
  return fmt::format(
      R"({{"subject":"{}","split":"{}","question":" Is it {}?","choices":["a","b","c","d"],"gold":{}}})"
      "\n",
      subject, split, question, question % 4);
}

TEST(ReadTask, PutsFiveExamplesOfTheSubjectBeforeAnMmluQuestion) {
  std::string lines = MmluRecord("high_school_physics", "validation", 9);
  for (int i = 0; i < 5; ++i) {
    lines += MmluRecord("high_school_physics", "dev", i) + MmluRecord("law", "dev", 50 + i);
  }
  const auto items = MustRead("mmlu", lines);
  ASSERT_EQ(items.size(), 1u);
  EXPECT_THAT(items[0].context,
              StartsWith("The following are multiple choice questions (with answers) about high "
                         "school physics.\n\nIs it 0?\nA. a\nB. b\nC. c\nD. d\nAnswer: A\n\n"
                         "Is it 1?\nA. a\nB. b\nC. c\nD. d\nAnswer: B\n\n"));
  EXPECT_THAT(items[0].context, EndsWith("Answer: A\n\nIs it 9?\nA. a\nB. b\nC. c\nD. d\nAnswer:"));
  EXPECT_THAT(items[0].choices, ElementsAre("A", "B", "C", "D"));
  EXPECT_EQ(items[0].gold, 1);

  const auto few = ReadTask("mmlu", MmluRecord("law", "validation", 0), "x.jsonl");
  EXPECT_THAT(Message(few.status()), HasSubstr("law has 0 examples"));
}

TEST(ReadTask, FindsTheChoicesOfBbh) {
  std::string lines;
  const auto add = [&](const std::string& task, const std::string& input,
                       const std::string& target) {
    lines += fmt::format(R"({{"task":"{}","input":"{}","target":"{}"}})", task, input, target);
    lines += "\n";
  };
  for (const char* target : {"(B)", "(A)", "(B)", "(B)", "neither"}) {
    add("letters", R"(Which?\nOptions:\n(A) one\n(B) two)", target);
  }
  for (const char* target : {"Yes", "No", "No", "Yes"}) {
    add("words", R"(Is it?\nOptions:\n- Yes \n- No)", target);
  }
  for (const char* target : {"7", "8", "9", "8"}) add("counts", "How many?", target);
  for (int i = 0; i < 30; ++i) add("free", "Sort.", std::to_string(i));
  const auto items = MustRead("bbh", lines);
  ASSERT_EQ(items.size(), 3u);  // What is left of three subtasks; one answered outside its options.
  EXPECT_EQ(items[0].context,
            "Q: Which?\nOptions:\n(A) one\n(B) two\nA: (B)\n\n"
            "Q: Which?\nOptions:\n(A) one\n(B) two\nA: (A)\n\n"
            "Q: Which?\nOptions:\n(A) one\n(B) two\nA: (B)\n\n"
            "Q: Which?\nOptions:\n(A) one\n(B) two\nA:");
  EXPECT_THAT(items[0].choices, ElementsAre("(A)", "(B)"));
  EXPECT_EQ(items[0].gold, 1);
  EXPECT_THAT(items[1].choices, ElementsAre("Yes", "No"));
  EXPECT_EQ(items[1].gold, 0);
  EXPECT_THAT(items[2].choices, ElementsAre("7", "8", "9"));
  EXPECT_EQ(items[2].gold, 1);
}

TEST(ReadTask, NamesLineAndField) {
  const std::string good = R"({"goal":"g","choices":["a","b"],"gold":0})";
  const struct {
    const char* record;
    const char* named;
  } cases[] = {
      {R"({"choices":["a","b"],"gold":0})", "goal"},
      {R"({"goal":7,"choices":["a","b"],"gold":0})", "goal"},
      {R"({"goal":"g","choices":["a",1],"gold":0})", "choices"},
      {R"({"goal":"g","choices":[],"gold":0})", "choices"},
      {R"({"goal":"g","choices":["a","b"],"gold":2})", "gold"},
      {R"({"goal":"g","choices":["a","b"],"gold":-1})", "gold"},
      {R"([1])", "object"},
      {R"({"goal":)", "x.jsonl:2"},
  };
  for (const auto& [record, named] : cases) {
    const Status status = ReadTask("piqa", good + "\n" + record, "x.jsonl").status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(Message(status), StartsWith("x.jsonl:2"));
    EXPECT_THAT(Message(status), HasSubstr(named));
  }
  EXPECT_FALSE(ReadTask("piqa", "\n", "x").ok());
  EXPECT_FALSE(ReadTask("lambada", R"({"text":"word"})", "x").ok());
  EXPECT_FALSE(ReadTask("copa", R"({"premise":"","question":"why"})", "x").ok());
  EXPECT_FALSE(ReadTask("mnli", R"({"premise":"","hypothesis":"","label":"maybe"})", "x").ok());
  EXPECT_THAT(Message(ReadTask("squad", good, "x").status()), HasSubstr("piqa"));
}

TEST(Spread, TakesItemsFromTheWholeList) {
  std::vector<TaskItem> items;
  for (int i = 0; i < 10; ++i) items.push_back({std::to_string(i), {"a"}, 0});
  const auto contexts = [&](int32_t limit) {
    std::vector<std::string> chosen;
    for (const TaskItem& item : Spread(items, limit)) chosen.push_back(item.context);
    return chosen;
  };
  EXPECT_THAT(contexts(4), ElementsAre("0", "2", "5", "7"));
  EXPECT_EQ(contexts(0).size(), 10u);
  EXPECT_EQ(contexts(11).size(), 10u);
}

TEST(ToQuestion, SplitsWhereTheContextsTokensEnd) {
  const auto tokenizer = Tokenizer::Load("tests/testdata/checkpoints/softmax");
  ASSERT_TRUE(tokenizer.ok());
  const auto ids = [&](const char* text) { return *(*tokenizer)->Encode(text, false, false); };
  const auto text = [&](const std::vector<int32_t>& tokens) {
    return (*tokenizer)->Decode(tokens, false);
  };
  // " the" is one token: the blank goes with the word, wherever it was written.
  ASSERT_EQ(ids(" the").size(), 1u);
  for (const char* context : {"It is", "It is "}) {
    const auto question = ToQuestion({context, {"the", "on a"}, 0}, **tokenizer);
    ASSERT_EQ(question.status(), OkStatus());
    EXPECT_EQ(question->context, ids("It is"));
    EXPECT_EQ(text(question->context) + text(question->continuations[1]),
              context + std::string(" on a"));
  }
  EXPECT_EQ(ToQuestion({"It is", {"the"}, 0}, **tokenizer)->continuations[0], ids(" the"));
  EXPECT_FALSE(ToQuestion({"", {"the"}, 0}, **tokenizer).ok());
}

Likelihood Of(double logprob, int32_t num_tokens, int32_t num_best) {
  return {logprob, num_tokens, num_best};
}

TEST(TaskResult, CountsTheMostProbableChoiceAndTheMostProbableCharacter) {
  TaskResult result;
  // -6 / 2 characters against -8 / 4.
  result.Add({"", {"ab", "abcd"}, 0}, {Of(-6, 1, 1), Of(-8, 2, 0)});
  EXPECT_EQ(result.correct, 1);
  EXPECT_EQ(result.correct_by_length, 0);
  // Characters, not bytes: -6 / 2 against -7 / 2.
  result.Add({"", {"ab", "éé"}, 0}, {Of(-6, 1, 0), Of(-7, 2, 0)});
  EXPECT_EQ(result.correct, 2);
  EXPECT_EQ(result.correct_by_length, 1);
  EXPECT_EQ(result.items, 2);
  EXPECT_EQ(result.gold_logprob, -12);
}

TEST(TaskResult, AClozeIsRightIfEveryTokenIsTheFirstChoice) {
  TaskResult result;
  result.Add({"", {"word"}, 0}, {Of(-1, 2, 2)});
  result.Add({"", {"word"}, 0}, {Of(-1, 2, 1)});
  EXPECT_EQ(result.correct, 1);
  EXPECT_EQ(result.gold_logprob, -2);
}

TEST(StandardError, IsThatOfAShare) {
  EXPECT_DOUBLE_EQ(StandardError(0.2, 101), 0.04);
  EXPECT_EQ(StandardError(1, 50), 0);
  EXPECT_EQ(StandardError(0, 1), 0);
}

}  // namespace
}  // namespace treeline
