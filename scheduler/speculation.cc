#include "scheduler/speculation.h"

#include <algorithm>
#include <utility>

namespace treeline {

namespace {

// Steps without guesses between two with them, where they do not pay: a step that tries them is
// long. And where they fail, at most.
constexpr int32_t kFewestSkipped = 16, kMostSkipped = 256;
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
// Of a step with guesses, times what was expected, that counts.
constexpr double kWorstSurprise = 3;

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

CostModel::CostModel(StepCosts costs) : measured_(std::move(costs)) {}

double CostModel::Seconds(int32_t sequences, int32_t guesses) const {
  const Factors& factors = factors_[sequences];
  return measured_.Seconds(sequences + guesses) * (guesses > 0 ? factors.drafting : factors.plain);
}

double CostModel::BorneOut(int32_t sequences) const {
  const Factors& factors = factors_[sequences];
  return factors.right < factors.expected ? factors.right / factors.expected : 1;
}

double CostModel::Factor(const StepObservation& step) const {
  double expected = measured_.Seconds(step.sequences + step.guesses);
  if (step.model_asked > 0) expected += measured_.DraftSeconds(step.model_asked);
  return step.seconds / expected;
}

void CostModel::Observe(const StepObservation& step) {
  if (!measured_.measured()) return;
  const bool tells = step.sequences > 0 && step.prompt_tokens == 0 && step.seconds > 0 &&
                     measured_.Seconds(step.sequences + step.guesses) > 0;
  const bool is_plain = tells && step.guesses == 0;
  if (std::optional<StepObservation> last = std::exchange(drafting_, std::nullopt)) {
    // What this step took longer than its like is the last one's commit.
    if (is_plain && factors_[step.sequences].has_plain) {
      last->seconds += std::max(0.0, step.seconds - Seconds(step.sequences, 0));
    }
    ObserveDrafting(*last);
  } else if (is_plain) {
    ObservePlain(step);
  }
  if (tells && step.guesses > 0) drafting_ = step;
}

void CostModel::ObservePlain(const StepObservation& step) {
  Factors& factors = factors_[step.sequences];
  const double newest = Factor(step);
  factors.plain += (factors.has_plain ? kNewest : 1) * (newest - factors.plain);
  factors.has_plain = true;
  if (!factors.has_drafting) factors.drafting = factors.plain;
  factors.drafting += kForgetting * (factors.plain - factors.drafting);
  factors.right += kForgetting * (factors.expected - factors.right);
}

void CostModel::ObserveDrafting(const StepObservation& step) {
  Factors& factors = factors_[step.sequences];
  // One that had to find memory or build what the next ones use tells little of them.
  const double newest = std::min(Factor(step), kWorstSurprise * factors.drafting);
  factors.drafting += (factors.has_drafting ? kNewest : 1) * (newest - factors.drafting);
  factors.has_drafting = true;
  factors.expected = (1 - kNewest) * factors.expected + step.expected;
  factors.right = (1 - kNewest) * factors.right + step.right;
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
  const double borne_out = costs.BorneOut(sequences);
  double tokens = sequences;
  const double plain_rate = tokens / (costs.Seconds(sequences, 0) + drafting_seconds);
  double best_rate = kWorthwhile * plain_rate;
  size_t best = 0;
  for (size_t i = 0; i < guesses.size(); ++i) {
    tokens += borne_out * guesses[i].first;
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
  model[num_sequences].Observe(choice.tokens_per_second / without);
}

void Speculation::ObserveSequences(int32_t num_sequences, double guessing_seconds,
                                   const GuessChoice& choice) {
  const double plain_seconds = costs.Seconds(num_sequences, 0);
  const double speedup = choice.tokens_per_second * plain_seconds / num_sequences;
  const bool is_negligible = guessing_seconds < kNegligible * plain_seconds;
  sequences[num_sequences].Observe(is_negligible ? std::max(1.0, speedup) : speedup);
}

}  // namespace treeline
