#include "scheduler/speculation.h"

#include <algorithm>
#include <utility>

namespace treeline {

double StepCosts::Seconds(int32_t rows) const {
  if (points_.empty()) return 1;
  if (points_.size() == 1) return points_[0].seconds;
  size_t next = 1;
  while (next + 1 < points_.size() && points_[next].rows < rows) ++next;
  const Point &a = points_[next - 1], &b = points_[next];
  return a.seconds + (b.seconds - a.seconds) * (rows - a.rows) / (b.rows - a.rows);
}

std::vector<int32_t> ChooseGuesses(std::span<const std::vector<float>> probabilities, int32_t rows,
                                   int32_t max_guesses, const StepCosts& costs) {
  // A sequence's guesses descend, so the best of all of them are the first of each.
  std::vector<std::pair<float, size_t>> guesses;
  for (size_t s = 0; s < probabilities.size(); ++s) {
    for (const float probability : probabilities[s]) guesses.emplace_back(probability, s);
  }
  std::stable_sort(guesses.begin(), guesses.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  guesses.resize(std::min(guesses.size(), static_cast<size_t>(std::max(0, max_guesses))));

  double tokens = static_cast<double>(probabilities.size());
  double best_rate = tokens / costs.Seconds(rows);
  size_t best = 0;
  for (size_t i = 0; i < guesses.size(); ++i) {
    tokens += guesses[i].first;
    const double rate = tokens / costs.Seconds(rows + static_cast<int32_t>(i) + 1);
    if (rate > best_rate) {
      best_rate = rate;
      best = i + 1;
    }
  }
  std::vector<int32_t> counts(probabilities.size());
  for (size_t i = 0; i < best; ++i) ++counts[guesses[i].second];
  return counts;
}

}  // namespace treeline
