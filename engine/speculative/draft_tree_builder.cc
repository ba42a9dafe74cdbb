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
  for (int32_t i = node + 1; i < static_cast<int32_t>(nodes_.size()); ++i) {
    if (nodes_[i].parent != node || nodes_[i].token != token) continue;
    nodes_[i].probability = std::max(nodes_[i].probability, probability);
    return i;
  }
  nodes_.push_back({token, node, depth, probability});
  return static_cast<int32_t>(nodes_.size()) - 1;
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

std::vector<std::pair<float, int32_t>> DraftTreeBuilder::Ranked() const {
  std::vector<std::pair<float, int32_t>> ranked;
  for (int32_t i = 1; i < static_cast<int32_t>(nodes_.size()); ++i) {
    ranked.emplace_back(PathProbability(i), i);
  }
  std::stable_sort(ranked.begin(), ranked.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  return ranked;
}

std::vector<float> DraftTreeBuilder::PathProbabilities() const {
  std::vector<float> probabilities;
  for (const auto& [probability, node] : Ranked()) probabilities.push_back(probability);
  return probabilities;
}

TokenTree DraftTreeBuilder::Build(int32_t num_guesses) const {
  std::vector<std::pair<float, int32_t>> ranked = Ranked();
  ranked.resize(
      std::min<size_t>({ranked.size(), size_t(num_guesses), size_t{TokenTree::kMaxNodes - 1}}));
  std::vector<int32_t> chosen = {0};
  for (const auto& [probability, node] : ranked) chosen.push_back(node);
  std::sort(chosen.begin(), chosen.end());
  std::vector<int32_t> tokens, parents;
  for (const int32_t node : chosen) {
    const auto parent = std::lower_bound(chosen.begin(), chosen.end(), nodes_[node].parent);
    tokens.push_back(nodes_[node].token);
    parents.push_back(node == 0 ? -1 : static_cast<int32_t>(parent - chosen.begin()));
  }
  return TokenTree::Create(std::move(tokens), std::move(parents)).value();
}

}  // namespace treeline
