// How many of their drafters' guesses the sequences of a step verify: as many as make
// tokens come fastest, by what the guesses are worth and what a row more costs.
#ifndef TREELINE_SCHEDULER_SPECULATION_H_
#define TREELINE_SCHEDULER_SPECULATION_H_

#include <cstdint>
#include <span>
#include <vector>

namespace treeline {

// What a step takes by the number of its rows, as measured when the server started. Only
// ratios count.
class StepCosts {
 public:
  struct Point {
    int32_t rows;
    double seconds;
  };
  // Rows ascend from 1. Without points a row more costs nothing.
  explicit StepCosts(std::vector<Point> points = {}) : points_(std::move(points)) {}

  // On the straight line between two points, or on from the last two.
  double Seconds(int32_t rows) const;

 private:
  std::vector<Point> points_;
};

// probabilities[s]: those that the guesses of sequence s are right, descending. Returns how many
// guesses of each to verify, at most `max_guesses` in all, so that the expected tokens per second
// of the step are greatest; without guesses it has `rows` rows, one a sequence or more.
std::vector<int32_t> ChooseGuesses(std::span<const std::vector<float>> probabilities, int32_t rows,
                                   int32_t max_guesses, const StepCosts& costs);

}  // namespace treeline

#endif  // TREELINE_SCHEDULER_SPECULATION_H_
