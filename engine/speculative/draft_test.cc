#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "engine/speculative/draft_tree_builder.h"
#include "engine/speculative/head_guesses.h"
#include "engine/speculative/ngram_drafter.h"

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
    Propose(heads, static_cast<int32_t>(count), tree);
    const std::vector<float> actual = tree.PathProbabilities();
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t i = 0; i < actual.size(); ++i) EXPECT_NEAR(actual[i], expected[i], 1e-5) << i;
  }
}

TEST(HeadGuesses, StayWithinTheDepth) {
  DraftTreeBuilder tree(7, 2);
  Propose({{{1, -0.1f}}, {{2, -0.1f}}, {{3, -0.1f}}}, 10, tree);
  EXPECT_EQ(tree.Build(10).tokens(), Tokens({7, 1, 2}));
  DraftTreeBuilder none(7, 2);
  Propose({}, 10, none);
  EXPECT_EQ(none.num_guesses(), 0);
}

Tokens Guess(const Tokens& tokens, int32_t max_depth = 8) {
  NgramDrafter drafter(max_depth);
  drafter.Append(tokens);
  DraftTreeBuilder builder(tokens.back(), max_depth);
  drafter.Propose(builder);
  return builder.Build(63).tokens();
}

TEST(NgramDrafter, WhatFollowedBeforeMayFollowAgain) {
  EXPECT_EQ(Guess({1, 2, 3, 4, 5, 9, 1, 2}), Tokens({2, 3, 4, 5, 9, 1, 2}));
  EXPECT_EQ(Guess({1, 2, 3, 4, 5, 9, 1, 2}, 2), Tokens({2, 3, 4}));
}

TEST(NgramDrafter, OneTokenInCommonIsNoMatch) {
  EXPECT_EQ(Guess({1, 2, 3, 4, 2}), Tokens({2}));
  EXPECT_EQ(Guess({1}), Tokens({1}));
}

TEST(NgramDrafter, SeveralPlacesMakeATreeAndTheLongestMatchLeads) {
  NgramDrafter drafter(4);
  drafter.Append(Tokens{8, 1, 2, 30, 31, 9, 1, 2, 40, 41, 8, 1, 2});
  DraftTreeBuilder builder(2, 4);
  drafter.Propose(builder);
  EXPECT_EQ(builder.Build(1).tokens(), Tokens({2, 30}));  // After 8, 1, 2.
  const Tokens tokens = builder.Build(63).tokens();
  EXPECT_NE(std::find(tokens.begin(), tokens.end(), 40), tokens.end());
}

TEST(NgramDrafter, GoesOnIntoARepetition) { EXPECT_EQ(Guess({5, 6, 5, 6, 5, 6}, 4).size(), 5u); }

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
    const Tokens guess = Guess(tokens, 1);
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
