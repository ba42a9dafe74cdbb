#include "engine/speculative/draft_tree_builder.h"

#include <algorithm>
#include <utility>

namespace treeline {

DraftTreeBuilder::DraftTreeBuilder(int32_t root, int32_t max_depth)
    : max_depth_(max_depth), nodes_{{root, -1, 0, 1.0f}} {}

int32_t DraftTreeBuilder::Add(int32_t node, int32_t token, float probability) {
  const int32_t depth = nodes_[node].depth + 1;
  if (depth > max_depth_) return -1;
  probability = std::min(1.0f, probability);
  for (int32_t child = nodes_[node].last_child; child >= 0; child = nodes_[child].sibling) {
    if (nodes_[child].token != token) continue;
    nodes_[child].probability = std::max(nodes_[child].probability, probability);
    return child;
  }
  const auto child = static_cast<int32_t>(nodes_.size());
  nodes_.push_back({token, node, depth, probability, /*last_child=*/-1, nodes_[node].last_child});
  nodes_[node].last_child = child;
  return child;
}

void DraftTreeBuilder::Add(const Guesses& guesses) {
  std::vector<int32_t> nodes;  // -1: too deep.
  for (const Guess& guess : guesses) {
    const int32_t parent = guess.parent < 0 ? 0 : nodes[guess.parent];
    nodes.push_back(parent < 0 ? -1 : Add(parent, guess.token, guess.probability));
  }
}

float DraftTreeBuilder::PathProbability(int32_t node) const {
  float probability = 1;
  for (; node > 0; node = nodes_[node].parent) probability *= nodes_[node].probability;
  return probability;
}

std::vector<int32_t> DraftTreeBuilder::PathBackFrom(int32_t node) const {
  std::vector<int32_t> tokens;
  for (; node > 0; node = nodes_[node].parent) tokens.push_back(nodes_[node].token);
  return tokens;
}

std::vector<std::pair<float, int32_t>> DraftTreeBuilder::Ranked(int32_t most) const {
  std::vector<std::pair<float, int32_t>> ranked;
  ranked.reserve(num_guesses());
  for (int32_t i = 1; i <= num_guesses(); ++i) ranked.emplace_back(PathProbability(i), i);
  const auto is_better = [](const auto& a, const auto& b) {
    return a.first > b.first || (a.first == b.first && a.second < b.second);
  };
  if (most < num_guesses()) {
    std::nth_element(ranked.begin(), ranked.begin() + most, ranked.end(), is_better);
    ranked.resize(most);
  }
  std::sort(ranked.begin(), ranked.end(), is_better);
  return ranked;
}

std::vector<float> DraftTreeBuilder::PathProbabilities(int32_t most) const {
  std::vector<float> probabilities;
  for (const auto& [probability, node] : Ranked(most)) probabilities.push_back(probability);
  return probabilities;
}

TokenTree DraftTreeBuilder::Build(int32_t num_guesses) const {
  constexpr int32_t kNotChosen = -1;
  std::vector<int32_t> places(nodes_.size(), kNotChosen);  // [nodes_] in the tree.
  places[0] = 0;
  for (const auto& [probability, node] : Ranked(std::min(num_guesses, TokenTree::kMaxNodes - 1))) {
    places[node] = 0;
  }
  std::vector<int32_t> tokens, parents;
  for (size_t node = 0; node < nodes_.size(); ++node) {
    if (places[node] == kNotChosen) continue;
    places[node] = static_cast<int32_t>(tokens.size());
    tokens.push_back(nodes_[node].token);
    parents.push_back(node == 0 ? -1 : places[nodes_[node].parent]);
  }
  return TokenTree::Create(std::move(tokens), std::move(parents)).value();
}

}  // namespace treeline
