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
// Less probable guesses are hardly ever verified, nor what follows them.
constexpr float kWorthFollowing = 0.01f;

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

class NgramDrafter::Reversed {
 public:
  // Both must outlive this.
  Reversed(const std::vector<int32_t>& known, const std::vector<int32_t>& guesses_back)
      : known_(known), guesses_back_(guesses_back) {}

  int32_t size() const { return static_cast<int32_t>(known_.size() + guesses_back_.size()); }
  int32_t operator[](int32_t back) const {
    const size_t i = back;
    return i < guesses_back_.size() ? guesses_back_[i]
                                    : known_[known_.size() - 1 - (i - guesses_back_.size())];
  }

 private:
  const std::vector<int32_t>& known_;
  const std::vector<int32_t>& guesses_back_;
};

int32_t NgramDrafter::MatchLength(int32_t position, const Reversed& text) const {
  int32_t length = 0;
  while (length < kMaxMatch && position - length >= 0 && length < text.size() &&
         tokens_[position - length] == text[length]) {
    ++length;
  }
  return length;
}

void NgramDrafter::Propose(int32_t first, DraftTreeBuilder& tree) const {
  const int32_t last = tree.num_guesses();
  for (int32_t node = first; node <= last; ++node) {
    if (tree.PathProbability(node) >= kWorthFollowing) ProposeAfter(node, tree);
  }
}

void NgramDrafter::ProposeAfter(int32_t node, DraftTreeBuilder& tree) const {
  const std::vector<int32_t> path = tree.PathBackFrom(node);
  const Reversed text(tokens_, path);
  if (text.size() < 2) return;
  const auto latest = latest_.find(Key(text[1], text[0]));
  std::vector<std::pair<int32_t, int32_t>> places;  // Match length and position.
  int32_t position = latest == latest_.end() ? -1 : latest->second;
  const auto size = static_cast<int32_t>(tokens_.size());
  if (position == size - 1) position = previous_[position];  // Nothing follows the end.
  for (int32_t i = 0; i < kMaxPlaces && position >= 0; ++i, position = previous_[position]) {
    places.emplace_back(MatchLength(position, text), position);
  }
  std::stable_sort(places.begin(), places.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  if (places.size() > kMaxPaths) places.resize(kMaxPaths);
  for (auto [match, place] : places) {
    int32_t parent = node;
    for (int32_t next = place + 1; next < std::min(place + 1 + max_depth_, size); ++next) {
      parent = tree.Add(parent, tokens_[next], Probability(match));
      if (parent < 0) break;
      match = std::min(match + 1, kMaxMatch);
    }
  }
}

}  // namespace treeline
