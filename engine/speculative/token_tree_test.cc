#include "engine/speculative/token_tree.h"

#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <vector>

namespace treeline {
namespace {

// The parents of a chain of n nodes.
std::vector<int32_t> ChainParents(int32_t n) {
  std::vector<int32_t> parents(n);
  std::iota(parents.begin(), parents.end(), -1);
  return parents;
}

TEST(TokenTree, KeepsTokensAndParents) {
  const std::vector<int32_t> tokens = {7, 8, 8, 9};
  const std::vector<int32_t> parents = {-1, 0, 0, 1};
  auto tree = TokenTree::Create(tokens, parents);
  ASSERT_TRUE(tree.ok());
  EXPECT_EQ(tree->size(), 4);
  EXPECT_EQ(tree->tokens(), tokens);
  EXPECT_EQ(tree->parents(), parents);
}

TEST(TokenTree, TakesOneToMaxNodes) {
  for (const int32_t n : {1, TokenTree::kMaxNodes}) {
    EXPECT_TRUE(TokenTree::Create(std::vector<int32_t>(n), ChainParents(n)).ok()) << n;
  }
  for (const int32_t n : {0, TokenTree::kMaxNodes + 1}) {
    const auto tree = TokenTree::Create(std::vector<int32_t>(n), ChainParents(n));
    EXPECT_EQ(tree.status().code(), StatusCode::kInvalidArgument) << n;
    EXPECT_NE(Message(tree.status()).find(std::to_string(n) + " nodes"), std::string::npos);
  }
}

TEST(TokenTree, RefusesImpossibleParents) {
  const struct {
    std::vector<int32_t> parents;
    const char* message;
  } kCases[] = {
      {{0}, "node 0 has parent 0"},  // The root has none.
      {{-2}, "node 0 has parent -2"},
      {{-1, -1}, "node 1 has parent -1"},   // A second root.
      {{-1, 1}, "node 1 has parent 1"},     // Its own parent.
      {{-1, 2, 0}, "node 1 has parent 2"},  // A parent after its child.
      {{-1, 0, 1'000'000}, "node 2 has parent 1000000"},
  };
  for (const auto& c : kCases) {
    const auto tree = TokenTree::Create(std::vector<int32_t>(c.parents.size()), c.parents);
    EXPECT_EQ(tree.status().code(), StatusCode::kInvalidArgument) << c.message;
    EXPECT_NE(Message(tree.status()).find(c.message), std::string::npos) << tree.status();
  }
}

TEST(TokenTree, RefusesUnequalLengths) {
  const auto tree = TokenTree::Create({1, 2}, {-1});
  EXPECT_EQ(tree.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(Message(tree.status()).find("2 tokens but 1 parents"), std::string::npos);
}

}  // namespace
}  // namespace treeline
