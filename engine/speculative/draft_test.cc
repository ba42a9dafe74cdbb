#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "engine/base/json.h"
#include "engine/speculative/draft_choices.h"
#include "engine/speculative/draft_tree_builder.h"
#include "engine/speculative/head_guesses.h"
#include "engine/speculative/ngram_drafter.h"
#include "engine/speculative/token_pairs.h"

namespace treeline {
namespace {

using Tokens = std::vector<int32_t>;

TEST(DraftTreeBuilder, TakesTheMostProbablePaths) {
  DraftTreeBuilder builder(7, 8);
  const int32_t a = builder.Add(0, 10, 0.6f);
  const int32_t b = builder.Add(0, 20, 0.3f);
  builder.Add(a, 11, 0.9f);  // 0.54
  builder.Add(b, 21, 0.5f);  // 0.15
  builder.Add(a, 12, 0.1f);  // 0.06
  const TokenTree tree = builder.Build(3);
  EXPECT_EQ(tree.tokens(), Tokens({7, 10, 20, 11}));
  EXPECT_EQ(tree.parents(), Tokens({-1, 0, 0, 1}));
  EXPECT_EQ(builder.Build(0).tokens(), Tokens({7}));
  EXPECT_EQ(builder.Build(100).size(), 6);
}

TEST(DraftTreeBuilder, AGuessMadeTwiceIsOneNodeWithTheHigherProbability) {
  DraftTreeBuilder builder(7, 8);
  const int32_t a = builder.Add(0, 10, 0.2f);
  EXPECT_EQ(builder.Add(0, 10, 0.8f), a);
  EXPECT_EQ(builder.Add(0, 10, 0.1f), a);
  EXPECT_EQ(builder.num_guesses(), 1);
  EXPECT_FLOAT_EQ(builder.PathProbabilities()[0], 0.8f);
}

TEST(DraftTreeBuilder, NothingLiesBelowTheLastDepth) {
  DraftTreeBuilder builder(7, 1);
  const int32_t a = builder.Add(0, 10, 0.9f);
  EXPECT_EQ(builder.Add(a, 11, 0.9f), -1);
  EXPECT_EQ(DraftTreeBuilder(7, 0).Add(0, 10, 0.9f), -1);
}

// A drafter's logs and exps may round to a little more than 1.
TEST(DraftTreeBuilder, RoundingMakesNoGuessMoreProbableThanTheOneBeforeIt) {
  DraftTreeBuilder builder(7, 8);
  const int32_t node = builder.Add(0, 10, 0.5f);
  builder.Add(node, 20, std::nextafter(1.0f, 2.0f));
  EXPECT_EQ(builder.PathProbabilities(), std::vector<float>({0.5f, 0.5f}));
  EXPECT_EQ(builder.Build(1).tokens(), Tokens({7, 10}));
}

// Any number of guesses of any tree: a valid tree of at most 64 nodes, made of the best.
TEST(DraftTreeBuilder, AnyTreeIsValid) {
  std::mt19937 rng(3);
  for (int round = 0; round < 200; ++round) {
    DraftTreeBuilder builder(0, 30);
    Tokens nodes = {0};
    for (int i = 0; i < 150; ++i) {
      const int32_t node = builder.Add(nodes[rng() % nodes.size()], static_cast<int32_t>(rng() % 3),
                                       static_cast<float>(rng() % 11) / 10);
      if (node >= 0) nodes.push_back(node);
    }
    const int32_t wanted = static_cast<int32_t>(rng() % 100);
    const TokenTree tree = builder.Build(wanted);  // Create refuses what is not closed.
    EXPECT_EQ(tree.size(), 1 + std::min({wanted, builder.num_guesses(), 63}));
  }
}

TEST(HeadGuesses, TheLikeliestPathsOfAllCombinations) {
  std::mt19937 rng(4);
  for (int round = 0; round < 50; ++round) {
    // Three heads of a few guesses each, and every path of them by brute force.
    HeadGuesses heads(1 + rng() % 3);
    for (auto& head : heads) {
      float left = 1;
      for (uint32_t i = 0; i <= rng() % 5; ++i) {
        const float probability = left * static_cast<float>(1 + rng() % 9) / 10;
        left -= probability;
        head.emplace_back(static_cast<int32_t>(100 + i), std::log(probability));
      }
      std::sort(head.begin(), head.end(),
                [](const auto& a, const auto& b) { return a.second > b.second; });
    }
    std::vector<float> expected, level = {1.0f};
    for (const auto& head : heads) {
      std::vector<float> next;
      for (const float above : level) {
        for (const auto& [token, logprob] : head) next.push_back(above * std::exp(logprob));
      }
      expected.insert(expected.end(), next.begin(), next.end());
      level = next;
    }
    std::sort(expected.begin(), expected.end(), std::greater<>());
    const size_t count = 1 + rng() % 20;
    expected.resize(std::min(expected.size(), count));

    DraftTreeBuilder tree(7, 8);
    tree.Add(LikeliestPaths(heads, static_cast<int32_t>(count)));
    const std::vector<float> actual = tree.PathProbabilities();
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t i = 0; i < actual.size(); ++i) EXPECT_NEAR(actual[i], expected[i], 1e-5) << i;
  }
}

TEST(HeadGuesses, StayWithinTheDepth) {
  DraftTreeBuilder tree(7, 2);
  tree.Add(LikeliestPaths({{{1, -0.1f}}, {{2, -0.1f}}, {{3, -0.1f}}, {{4, -0.1f}}}, 10));
  EXPECT_EQ(tree.Build(10).tokens(), Tokens({7, 1, 2}));
  EXPECT_TRUE(LikeliestPaths({}, 10).empty());
}

float Score(const TokenPairs& pairs, int32_t first, int32_t second) {
  std::pair<int32_t, float> token = {second, 0.0f};
  pairs.AddScores(first, {&token, 1});
  return token.second;
}

TEST(TokenPairs, HaveTheScoresOfPairsThatWereSeen) {
  const TokenPairs pairs = *TokenPairs::Create({0, 2, 2, 3}, {0, 2, 1}, {1, 2, -3}, "file");
  EXPECT_EQ(pairs.vocab(), 3);
  const float expected[3][3] = {{1, 0, 2}, {0, 0, 0}, {0, -3, 0}};
  for (int32_t first = 0; first < 3; ++first) {
    for (int32_t second = 0; second < 3; ++second) {
      EXPECT_EQ(Score(pairs, first, second), expected[first][second]) << first << " " << second;
    }
  }
}

TEST(TokenPairs, AddManyScoresAtOnce) {
  std::mt19937 rng(6);
  constexpr int32_t kVocab = 90;
  // One first token for each number of pairs, so that searches end anywhere.
  std::vector<int32_t> starts = {0}, seconds;
  std::vector<float> scores;
  std::map<std::pair<int32_t, int32_t>, float> expected;
  for (int32_t first = 0; first < kVocab; ++first) {
    std::set<int32_t> row;
    while (static_cast<int32_t>(row.size()) < first) row.insert(rng() % kVocab);
    for (const int32_t second : row) {
      seconds.push_back(second);
      scores.push_back(static_cast<float>(1 + rng() % 100));
      expected[{first, second}] = scores.back();
    }
    starts.push_back(static_cast<int32_t>(seconds.size()));
  }
  const TokenPairs pairs = *TokenPairs::Create(starts, seconds, scores, "test");
  for (int32_t first = 0; first < kVocab; ++first) {
    std::vector<std::pair<int32_t, float>> tokens;
    for (int32_t second = 0; second < kVocab; ++second) tokens.emplace_back(second, 0.5f);
    std::shuffle(tokens.begin(), tokens.end(), rng);
    tokens.resize(rng() % kVocab);
    pairs.AddScores(first, tokens);
    for (const auto& [second, sum] : tokens) {
      EXPECT_EQ(sum, 0.5f + expected[std::pair(first, second)]) << first << " " << second;
    }
  }
}

TEST(TokenPairs, RefuseWhatIsNotInOrder) {
  const struct {
    std::vector<int32_t> starts, seconds;
    std::vector<float> scores;
    const char* message;
  } kCases[] = {
      {{}, {}, {}, "one after the other"},
      {{1, 2}, {0, 0}, {1, 1}, "one after the other"},
      {{0, 2, 1, 2}, {0, 1}, {1, 1}, "one after the other"},
      {{0, 1, 3}, {0, 1}, {1, 1}, "one after the other"},
      {{0, 1}, {0}, {1, 1}, "one after the other"},
      {{0, 0, 2}, {1, 1}, {1, 1}, "tokens that follow token 1: 1 comes after 1"},
      {{0, 1, 1}, {2}, {1}, "tokens that follow token 0: 2 comes after -1; they must ascend"},
      {{0, 1, 1}, {-1}, {1}, "tokens that follow token 0: -1"},
      {{0, 1}, {0}, {NAN}, "the score of tokens 0 and 0 is not finite"},
  };
  for (const auto& c : kCases) {
    const auto pairs = TokenPairs::Create(c.starts, c.seconds, c.scores, "file");
    EXPECT_EQ(pairs.status().code(), StatusCode::kInvalidArgument) << c.message;
    EXPECT_EQ(Message(pairs.status()).find("file: "), 0u) << pairs.status();
    EXPECT_NE(Message(pairs.status()).find(c.message), std::string::npos) << pairs.status();
  }
}

// Every path by brute force: a head's guesses share its probability anew after each token.
TEST(HeadGuesses, PairsSayWhichGoTogether) {
  std::mt19937 rng(5);
  constexpr int32_t kVocab = 6;
  for (int round = 0; round < 50; ++round) {
    std::vector<int32_t> starts = {0}, seconds;
    std::vector<float> scores;
    for (int32_t first = 0; first < kVocab; ++first) {
      for (int32_t second = 0; second < kVocab; ++second) {
        if (rng() % 2 == 0) continue;
        seconds.push_back(second);
        scores.push_back(static_cast<float>(rng() % 40) / 10);
      }
      starts.push_back(static_cast<int32_t>(seconds.size()));
    }
    const TokenPairs pairs = *TokenPairs::Create(starts, seconds, scores, "test");
    HeadGuesses heads(1 + rng() % 3);
    for (auto& head : heads) {
      float left = 1;
      for (int32_t token = 0; token < kVocab; ++token) {
        const float probability = left * static_cast<float>(1 + rng() % 5) / 10;
        left -= probability;
        head.emplace_back(token, std::log(probability));
      }
      std::sort(head.begin(), head.end(),
                [](const auto& a, const auto& b) { return a.second > b.second; });
    }
    const int32_t known = static_cast<int32_t>(rng() % (kVocab + 1)) - 1;
    std::vector<std::pair<double, int32_t>> level = {{1.0, known}};
    std::vector<double> expected;
    for (const auto& head : heads) {
      std::vector<std::pair<double, int32_t>> next;
      for (const auto& [above, before] : level) {
        double together = 0, weighted = 0;
        const auto weight = [&, before = before](const std::pair<int32_t, float>& guess) {
          const float score = before < 0 ? 0 : Score(pairs, before, guess.first);
          return std::exp(double{guess.second} + score);
        };
        for (const auto& guess : head) {
          together += std::exp(double{guess.second});
          weighted += weight(guess);
        }
        for (const auto& guess : head) {
          next.emplace_back(above * weight(guess) / weighted * together, guess.first);
        }
      }
      for (const auto& [probability, token] : next) expected.push_back(probability);
      level = next;
    }
    std::sort(expected.begin(), expected.end(), std::greater<>());
    const size_t count = std::min<size_t>(expected.size(), 1 + rng() % 20);

    DraftTreeBuilder tree(7, 8);
    tree.Add(LikeliestPaths(heads, static_cast<int32_t>(count), known, &pairs));
    const std::vector<float> actual = tree.PathProbabilities();
    ASSERT_EQ(actual.size(), count);
    for (size_t i = 0; i < count; ++i) EXPECT_NEAR(actual[i], expected[i], 1e-5) << i;
  }
}

TEST(DraftChoices, McSim7b63IsTheTreeThatIsPublished) {
  const DraftChoices tree = DraftChoices::Load("mc_sim_7b_63").value();
  ASSERT_EQ(tree.choices().size(), 63u);
  EXPECT_EQ(tree.num_heads(), 4);
  // Nodes by depth, and the 42 leaves of them: the candidates that its authors speak of.
  std::vector<int> nodes(4), leaves(4);
  std::vector<bool> is_leaf(63, true);
  for (const auto& choice : tree.choices()) {
    if (choice.parent >= 0) is_leaf[choice.parent] = false;
  }
  for (size_t i = 0; i < 63; ++i) {
    ++nodes[tree.choices()[i].head];
    leaves[tree.choices()[i].head] += is_leaf[i];
  }
  EXPECT_EQ(nodes, std::vector<int>({10, 28, 23, 2}));
  EXPECT_EQ(leaves, std::vector<int>({0, 18, 22, 2}));
}

TEST(DraftChoices, RefusesWhatIsNoTree) {
  const struct {
    const char* paths;
    const char* message;
  } kCases[] = {
      {"[]", "a list of 1 to 63 paths"},
      {"{}", "a list of 1 to 63 paths"},
      {"[0]", "path 0 is 0; a path is a list of ranks"},
      {"[[]]", "path 0 is []"},
      {"[[0], [10]]", "path 1 is [10]"},
      {"[[-1]]", "path 0 is [-1]"},
      {"[[0.5]]", "path 0 is [0.5]"},
      {"[[0], [1, 0], [1]]", "path 1, [1,0], stands before the one that it continues"},
      {"[[0], [1], [0]]", "path 2, [0], stands there twice"},
  };
  for (const auto& c : kCases) {
    const auto tree = DraftChoices::Parse(*ParseJson(c.paths, "test"), "tree.json");
    EXPECT_EQ(tree.status().code(), StatusCode::kInvalidArgument) << c.paths;
    EXPECT_NE(Message(tree.status()).find(c.message), std::string::npos) << tree.status();
    EXPECT_EQ(Message(tree.status()).find("tree.json: "), 0u) << tree.status();
  }
  Json many = Json::array();
  for (int i = 0; i < 64; ++i) many.push_back(Json(std::vector<int>(i + 1, 0)));
  EXPECT_FALSE(DraftChoices::Parse(many, "tree.json").ok());
  many.erase(63);
  EXPECT_TRUE(DraftChoices::Parse(many, "tree.json").ok());
  EXPECT_EQ(DraftChoices::Load("no/such.json").status().code(), StatusCode::kNotFound);
}

TEST(ChosenPaths, TakesTheRanksThatTheTreeNames) {
  const HeadGuesses heads = {{{10, std::log(0.5f)}, {11, std::log(0.25f)}}, {{20, 0.0f}}};
  const DraftChoices tree =
      DraftChoices::Parse(*ParseJson("[[1], [0], [0, 0], [1, 0], [2], [2, 0], [0, 0, 0]]", "test"),
                          "test")
          .value();
  // Nobody guesses [2], what would follow it, nor a third token.
  const Guesses all = {{-1, 11, 0.25f}, {-1, 10, 0.5f}, {1, 20, 1.0f}, {0, 20, 1.0f}};
  EXPECT_EQ(ChosenPaths(heads, tree, 63), all);
  EXPECT_EQ(ChosenPaths(heads, tree, 3), Guesses(all.begin(), all.begin() + 3));
  EXPECT_TRUE(ChosenPaths({}, tree, 63).empty());
}

// A prefix of the list is a tree, whatever its length.
TEST(ChosenPaths, AnyBudgetIsATree) {
  HeadGuesses heads(4);
  for (auto& head : heads) {
    for (int32_t rank = 0; rank < kGuessesPerHead; ++rank) head.emplace_back(rank, -1.0f - rank);
  }
  const DraftChoices tree = DraftChoices::Load("mc_sim_7b_63").value();
  for (int32_t count = 0; count <= 63; ++count) {
    DraftTreeBuilder builder(7, 4);
    builder.Add(ChosenPaths(heads, tree, count));
    EXPECT_EQ(builder.num_guesses(), count);
  }
}

Tokens GuessAfter(const Tokens& tokens, int32_t max_depth = 8) {
  NgramDrafter drafter(max_depth);
  drafter.Append(tokens);
  DraftTreeBuilder builder(tokens.back(), max_depth);
  drafter.Propose(0, builder);
  return builder.Build(63).tokens();
}

TEST(NgramDrafter, WhatFollowedBeforeMayFollowAgain) {
  EXPECT_EQ(GuessAfter({1, 2, 3, 4, 5, 9, 1, 2}), Tokens({2, 3, 4, 5, 9, 1, 2}));
  EXPECT_EQ(GuessAfter({1, 2, 3, 4, 5, 9, 1, 2}, 2), Tokens({2, 3, 4}));
}

TEST(NgramDrafter, OneTokenInCommonIsNoMatch) {
  EXPECT_EQ(GuessAfter({1, 2, 3, 4, 2}), Tokens({2}));
  EXPECT_EQ(GuessAfter({1}), Tokens({1}));
}

TEST(NgramDrafter, SeveralPlacesMakeATreeAndTheLongestMatchLeads) {
  NgramDrafter drafter(4);
  drafter.Append(Tokens{8, 1, 2, 30, 31, 9, 1, 2, 40, 41, 8, 1, 2});
  DraftTreeBuilder builder(2, 4);
  drafter.Propose(0, builder);
  EXPECT_EQ(builder.Build(1).tokens(), Tokens({2, 30}));  // After 8, 1, 2.
  const Tokens tokens = builder.Build(63).tokens();
  EXPECT_NE(std::find(tokens.begin(), tokens.end(), 40), tokens.end());
}

TEST(NgramDrafter, GoesOnIntoARepetition) {
  EXPECT_EQ(GuessAfter({5, 6, 5, 6, 5, 6}, 4).size(), 5u);
}

// A guess of someone else's makes a pair with the token before it, which may have been there
// before.
TEST(NgramDrafter, FollowsWhatOthersGuess) {
  NgramDrafter drafter(4);
  drafter.Append(Tokens{1, 2, 3, 4, 9, 1});
  DraftTreeBuilder builder(1, 4);
  drafter.Propose(0, builder);
  EXPECT_EQ(builder.num_guesses(), 0);  // 9, 1 is new.
  builder.Add({{-1, 2, 0.5f}, {-1, 5, 0.4f}});
  drafter.Propose(1, builder);
  EXPECT_EQ(builder.Build(63).tokens(), Tokens({1, 2, 5, 3, 4, 9}));
}

TEST(NgramDrafter, FollowsNoImprobableGuess) {
  NgramDrafter drafter(4);
  drafter.Append(Tokens{1, 2, 3, 4, 9, 1});
  DraftTreeBuilder builder(1, 4);
  builder.Add({{-1, 2, 0.001f}});
  drafter.Propose(1, builder);
  EXPECT_EQ(builder.num_guesses(), 1);
}

// By definition: the continuation of the longest earlier match of at least two tokens, the latest
// of equals, leads the tree.
TEST(NgramDrafter, FindsTheLongestMatch) {
  std::mt19937 rng(9);
  for (int round = 0; round < 300; ++round) {
    Tokens tokens;
    for (int i = 0; i < 60; ++i) tokens.push_back(static_cast<int32_t>(rng() % 4));
    const int32_t last = 59;
    int32_t best = 1, next = -1;
    for (int32_t p = last - 1; p >= 1; --p) {
      int32_t length = 0;
      while (length < 32 && p - length >= 0 && tokens[p - length] == tokens[last - length])
        ++length;
      if (length > best) best = length, next = tokens[p + 1];
    }
    const Tokens guess = GuessAfter(tokens, 1);
    if (next < 0) {
      EXPECT_EQ(guess.size(), 1u);
    } else {
      ASSERT_GE(guess.size(), 2u);
      EXPECT_EQ(guess[1], next);
    }
  }
}

}  // namespace
}  // namespace treeline
