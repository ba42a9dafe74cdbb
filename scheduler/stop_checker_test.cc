#include "scheduler/stop_checker.h"

#include <gtest/gtest.h>

#include <random>

namespace treeline {
namespace {

TEST(StopCheckerTest, WithoutStopStringsNothingIsHeld) {
  StopChecker checker({});
  EXPECT_EQ(checker.Push("abc"), "abc");
  EXPECT_EQ(checker.Push(""), "");
  EXPECT_EQ(checker.Flush(), "");
  EXPECT_FALSE(checker.stopped());
}

TEST(StopCheckerTest, TextEndsBeforeTheMatch) {
  StopChecker checker({"END"});
  EXPECT_EQ(checker.Push("one END two"), "one ");
  EXPECT_TRUE(checker.stopped());
  EXPECT_EQ(checker.Push("three"), "");
  EXPECT_EQ(checker.Flush(), "");
}

TEST(StopCheckerTest, HoldsBackWhatMayBecomeAStopString) {
  StopChecker checker({"\n\nUser:"});
  EXPECT_EQ(checker.Push("Hi\n"), "Hi");
  EXPECT_EQ(checker.Push("\nUs"), "");
  EXPECT_EQ(checker.Push("ual"), "\n\nUsual");
  EXPECT_EQ(checker.Push("\n\n"), "");
  EXPECT_EQ(checker.Push("\nUser"), "\n");
  EXPECT_EQ(checker.Push(":x"), "");
  EXPECT_TRUE(checker.stopped());
}

TEST(StopCheckerTest, AnEmptyPieceKeepsWhatIsHeld) {
  StopChecker checker({"ab"});
  EXPECT_EQ(checker.Push("a"), "");
  EXPECT_EQ(checker.Push(""), "");
  EXPECT_EQ(checker.Push("c"), "ac");
}

TEST(StopCheckerTest, FlushGivesTheHeldText) {
  StopChecker checker({"stop"});
  EXPECT_EQ(checker.Push("non-sto"), "non-");
  EXPECT_EQ(checker.Flush(), "sto");
  EXPECT_FALSE(checker.stopped());
}

TEST(StopCheckerTest, OverlappingCandidates) {
  // After "aab" fails at the second b, "ab" of it is still alive in "abc".
  StopChecker checker({"aabx", "abc"});
  EXPECT_EQ(checker.Push("aab"), "");
  EXPECT_EQ(checker.Push("c"), "a");
  EXPECT_TRUE(checker.stopped());
}

TEST(StopCheckerTest, TheMatchThatIsCompleteFirstWins) {
  StopChecker inner({"abcd", "bc"});
  EXPECT_EQ(inner.Push("xabcd"), "xa");
  // Both end at once: the longer takes all its text away.
  for (const std::vector<std::string>& order :
       {std::vector<std::string>{"bc", "abc"}, {"abc", "bc"}}) {
    StopChecker checker(order);
    EXPECT_EQ(checker.Push("xabc"), "x");
  }
}

TEST(StopCheckerTest, SelfOverlappingStopString) {
  StopChecker checker({"aaab"});
  EXPECT_EQ(checker.Push("aaaaa"), "aa");
  EXPECT_EQ(checker.Push("b"), "");
  EXPECT_TRUE(checker.stopped());
}

// The definition by brute force: the text before the match that ends first.
std::string TextBeforeFirstMatch(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    size_t longest = 0;
    for (const std::string& stop : stops) {
      if (stop.size() <= end && text.compare(end - stop.size(), stop.size(), stop) == 0) {
        longest = std::max(longest, stop.size());
      }
    }
    if (longest > 0) return text.substr(0, end - longest);
  }
  return text;
}

TEST(StopCheckerTest, AgreesWithBruteForceHoweverTheTextIsCut) {
  std::mt19937 bits(5);
  const auto random_text = [&](size_t size) {
    std::string text(size, ' ');
    for (char& c : text) c = "ab"[bits() % 2];
    return text;
  };
  int matches = 0;
  for (int round = 0; round < 2000; ++round) {
    std::vector<std::string> stops(1 + bits() % 3);
    for (std::string& stop : stops) stop = random_text(2 + bits() % 6);
    const std::string text = random_text(bits() % 40);
    const std::string expected = TextBeforeFirstMatch(text, stops);

    StopChecker checker(stops);
    std::string shown;
    for (size_t at = 0; at < text.size();) {
      const size_t size = 1 + bits() % 4;
      shown += checker.Push(std::string_view(text).substr(at, size));
      // What was shown is final, so it must never pass the end.
      ASSERT_EQ(shown, expected.substr(0, shown.size()));
      at += size;
    }
    shown += checker.Flush();
    EXPECT_EQ(shown, expected);
    EXPECT_EQ(checker.stopped(), expected.size() < text.size());
    matches += checker.stopped() ? 1 : 0;
  }
  EXPECT_GT(matches, 500);
  EXPECT_LT(matches, 1900);
}

}  // namespace
}  // namespace treeline
