#include "scheduler/speculation.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace treeline {

namespace {

// Steps without guesses between two with them, where they do not pay: a step that tries them is
// long. And where they fail, at most.
constexpr int32_t kFewestSkipped = 16, kMostSkipped = 128;
constexpr int32_t kLongestPause = 16;
// How much the newest speedup counts; and how badly drafting is thought of at most, so that it is
// back soon where it pays again.
constexpr double kNewest = 0.1;
constexpr double kLeastGain = -0.01;
// Guessing that takes less than this of a step goes on, whatever comes of it: a repetition is
// missed otherwise.
constexpr double kNegligible = 0.02;
// Guesses cost more than a step's time shows, as where an answer comes several tokens at a time:
// only those that promise so many times the tokens are worth it.
constexpr double kWorthwhile = 1.05;
// A step without guesses brings those with guesses so much nearer to what it took itself: in the
// end they are tried again.
constexpr double kForgetting = 0.002;

double Interpolate(const std::vector<StepCosts::Point>& points, int32_t rows) {
  if (points.size() == 1) return points[0].seconds;
  size_t next = 1;
  while (next + 1 < points.size() && points[next].rows < rows) ++next;
  const StepCosts::Point &a = points[next - 1], &b = points[next];
  return a.seconds + (b.seconds - a.seconds) * (rows - a.rows) / (b.rows - a.rows);
}

}  // namespace

double StepCosts::Seconds(int32_t rows) const {
  return steps_.empty() ? 1 : Interpolate(steps_, rows);
}

double StepCosts::DraftSeconds(int32_t sequences) const {
  return drafts_.empty() ? 0 : Interpolate(drafts_, sequences);
}

bool DraftPolicy::Ask() {
  if (skipped_ < std::max(patience_, pause_)) {
    ++skipped_;
    return false;
  }
  skipped_ = 0;
  return true;
}

void DraftPolicy::Observe(double speedup) {
  gain_ = std::max(kLeastGain, (1 - kNewest) * gain_ + kNewest * (speedup - 1));
  if (gain_ >= 0) {
    patience_ = 0;
  } else if (speedup < 1) {
    patience_ = std::clamp(2 * patience_, kFewestSkipped, kMostSkipped);
  }
}

void DraftPolicy::Answered(bool succeeded) {
  pause_ = succeeded ? 0 : std::clamp(2 * pause_, 1, kLongestPause);
}

CostModel::CostModel(StepCosts costs) : measured_(std::move(costs)), factors_{} {}

size_t CostModel::Bucket(int32_t sequences) {
  return std::bit_width(static_cast<uint32_t>(std::max(sequences, 1))) - 1;
}

double CostModel::Seconds(int32_t sequences, int32_t guesses) const {
  const Factors& factors = factors_[Bucket(sequences)];
  return measured_.Seconds(sequences + guesses) * (guesses > 0 ? factors.drafting : factors.plain);
}

void CostModel::Observe(int32_t sequences, int32_t guesses, int32_t model_asked, double seconds) {
  if (!measured_.measured() || sequences < 1 || !(seconds > 0)) return;
  double expected = measured_.Seconds(sequences + guesses);
  if (model_asked > 0) expected += measured_.DraftSeconds(model_asked);
  if (!(expected > 0)) return;
  Factors& factors = factors_[Bucket(sequences)];
  const auto update = [&](double& factor, bool& known) {
    factor = known ? (1 - kNewest) * factor + kNewest * seconds / expected : seconds / expected;
    known = true;
  };
  if (guesses > 0) {
    update(factors.drafting, factors.has_drafting);
    return;
  }
  update(factors.plain, factors.has_plain);
  if (!factors.has_drafting) factors.drafting = factors.plain;
  factors.drafting += kForgetting * (factors.plain - factors.drafting);
}

GuessChoice ChooseGuesses(std::span<const std::vector<float>> probabilities, int32_t max_guesses,
                          const CostModel& costs, double drafting_seconds) {
  // A sequence's guesses descend, so the best of all of them are the first of each.
  std::vector<std::pair<float, size_t>> guesses;
  for (size_t s = 0; s < probabilities.size(); ++s) {
    for (const float probability : probabilities[s]) guesses.emplace_back(probability, s);
  }
  std::stable_sort(guesses.begin(), guesses.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  guesses.resize(std::min(guesses.size(), static_cast<size_t>(std::max(0, max_guesses))));

  const auto sequences = static_cast<int32_t>(probabilities.size());
  double tokens = sequences;
  const double plain_rate = tokens / (costs.Seconds(sequences, 0) + drafting_seconds);
  double best_rate = kWorthwhile * plain_rate;
  size_t best = 0;
  for (size_t i = 0; i < guesses.size(); ++i) {
    tokens += guesses[i].first;
    const double seconds = costs.Seconds(sequences, static_cast<int32_t>(i) + 1) + drafting_seconds;
    const double rate = tokens / seconds;
    if (rate > best_rate) {
      best_rate = rate;
      best = i + 1;
    }
  }
  std::vector<int32_t> counts(probabilities.size());
  for (size_t i = 0; i < best; ++i) ++counts[guesses[i].second];
  return {std::move(counts), best > 0 ? best_rate : plain_rate};
}

void Speculation::ObserveModel(int32_t num_sequences, const GuessChoice& choice,
                               const GuessChoice& otherwise) {
  // Without the model the sequences need not guess either.
  const double plain = num_sequences / costs.Seconds(num_sequences, 0);
  const double without = kWorthwhile * std::max(otherwise.tokens_per_second, plain);
  model.Observe(choice.tokens_per_second / without);
}

void Speculation::ObserveSequences(int32_t num_sequences, double guessing_seconds,
                                   const GuessChoice& choice) {
  const double plain_seconds = costs.Seconds(num_sequences, 0);
  const double speedup = choice.tokens_per_second * plain_seconds / num_sequences;
  const bool is_negligible = guessing_seconds < kNegligible * plain_seconds;
  sequences.Observe(is_negligible ? std::max(1.0, speedup) : speedup);
}

}  // namespace treeline
