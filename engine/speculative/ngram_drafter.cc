#include "engine/speculative/ngram_drafter.h"

#include <algorithm>
#include <utility>

namespace treeline {
namespace {

// Places of the last two tokens that are looked at, the latest first, and used, the best first.
constexpr int32_t kMaxPlaces = 64;
constexpr size_t kMaxPaths = 4;
// Longer matches are all the same.
constexpr int32_t kMaxMatch = 32;

// That the next token is the one which followed a match of so many tokens. Longer matches have
// proven themselves so many times in a row.
float Probability(int32_t match) { return 1.0f - 1.0f / static_cast<float>(match); }

}  // namespace

void NgramDrafter::Append(std::span<const int32_t> tokens) {
  for (const int32_t token : tokens) {
    tokens_.push_back(token);
    const auto last = static_cast<int32_t>(tokens_.size()) - 1;
    previous_.push_back(-1);
    if (last == 0) continue;
    const auto [place, is_new] = latest_.try_emplace(Key(tokens_[last - 1], token), last);
    if (!is_new) previous_[last] = std::exchange(place->second, last);
  }
}

int32_t NgramDrafter::MatchLength(int32_t position) const {
  const auto last = static_cast<int32_t>(tokens_.size()) - 1;
  int32_t length = 0;
  while (length < kMaxMatch && position - length >= 0 &&
         tokens_[position - length] == tokens_[last - length]) {
    ++length;
  }
  return length;
}

void NgramDrafter::Propose(DraftTreeBuilder& tree) const {
  if (tokens_.empty()) return;
  std::vector<std::pair<int32_t, int32_t>> places;  // Match length and position.
  int32_t position = previous_.back();
  for (int32_t i = 0; i < kMaxPlaces && position >= 0; ++i, position = previous_[position]) {
    places.emplace_back(MatchLength(position), position);
  }
  std::stable_sort(places.begin(), places.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  if (places.size() > kMaxPaths) places.resize(kMaxPaths);
  const auto size = static_cast<int32_t>(tokens_.size());
  for (auto [match, place] : places) {
    int32_t node = 0;
    for (int32_t next = place + 1; next < std::min(place + 1 + max_depth_, size); ++next) {
      node = tree.Add(node, tokens_[next], Probability(match));
      if (node < 0) break;
      match = std::min(match + 1, kMaxMatch);
    }
  }
}

}  // namespace treeline
