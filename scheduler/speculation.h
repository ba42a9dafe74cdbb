// How many of their drafters' guesses the sequences of a step verify: as many as make
// tokens come fastest, by what the guesses are worth and what a row more costs.
#ifndef TREELINE_SCHEDULER_SPECULATION_H_
#define TREELINE_SCHEDULER_SPECULATION_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace treeline {

// What a step takes by the number of its rows, and what Engine::Draft takes by the number of
// sequences it guesses for, as measured when the server started. Only ratios count.
class StepCosts {
 public:
  struct Point {
    int32_t rows;
    double seconds;
  };
  // Rows ascend from 1. Without points a row more costs nothing, and drafting costs nothing.
  explicit StepCosts(std::vector<Point> steps = {}, std::vector<Point> drafts = {})
      : steps_(std::move(steps)), drafts_(std::move(drafts)) {}

  // On the straight line between two points, or on from the last two.
  double Seconds(int32_t rows) const;
  double DraftSeconds(int32_t sequences) const;
  bool measured() const { return !steps_.empty(); }

 private:
  std::vector<Point> steps_, drafts_;
};

// What steps take here and now: as measured at the start, times how far real steps were from
// that of late. What a guess costs besides its row (a commit of its own, attention to a tree) shows
// there, by the number of sequences and apart from steps without guesses. Unmeasured costs stay
// as they are.
class CostModel {
 public:
  explicit CostModel(StepCosts costs);

  // Of a step of so many decoding sequences, one row each, and of `guesses` rows besides.
  double Seconds(int32_t sequences, int32_t guesses) const;
  // Of Engine::Draft for so many sequences.
  double DraftSeconds(int32_t sequences) const { return measured_.DraftSeconds(sequences); }

  // A step took so long, with all that came before and after it; Engine::Draft was asked about
  // `model_asked` of the sequences.
  void Observe(int32_t sequences, int32_t guesses, int32_t model_asked, double seconds);

 private:
  // Factors on what was measured: of steps without guesses, and with.
  struct Factors {
    double plain = 1, drafting = 1;
    bool has_plain = false, has_drafting = false;
  };
  // Of 1, 2 to 3, 4 to 7 ... sequences.
  static size_t Bucket(int32_t sequences);

  const StepCosts measured_;
  std::array<Factors, 32> factors_;
};

// How many guesses of each sequence to verify, and what comes of it.
struct GuessChoice {
  std::vector<int32_t> counts;  // [sequences]
  double tokens_per_second;     // Expected.
};

// probabilities[s]: those that the guesses of sequence s are right, descending. Chooses at most
// `max_guesses` in all, so that the expected tokens per second of the step are greatest.
// `drafting_seconds` were spent on the guesses.
GuessChoice ChooseGuesses(std::span<const std::vector<float>> probabilities, int32_t max_guesses,
                          const CostModel& costs, double drafting_seconds = 0);

// When to have guesses made, which takes time: in every step while they make tokens faster, else in
// one of ever so many more, to see whether they would, or who makes them works again.
class DraftPolicy {
 public:
  // Whether to ask in this step.
  bool Ask();
  // It was asked, and could answer or, as where memory is short, could not: the longer this goes
  // on, the longer it is left alone.
  void Answered(bool succeeded);
  // It has guessed: tokens come so many times as fast as without.
  void Observe(double speedup);

 private:
  double gain_ = 0;       // Of recent speedups over 1, the old ones fading.
  int32_t skipped_ = 0;   // Steps since it was asked.
  int32_t patience_ = 0;  // Steps that it is left alone for while it does not pay,
  int32_t pause_ = 0;     // and after a failure.
};

// What a scheduler knows about guessing ahead.
struct Speculation {
  CostModel costs;
  DraftPolicy model{};      // Engine::Draft.
  DraftPolicy sequences{};  // Their own guesses, from text: the host's time.

  // `choice` counts guesses of Engine::Draft for `num_sequences`; `otherwise` is what their own
  // would come to.
  void ObserveModel(int32_t num_sequences, const GuessChoice& choice, const GuessChoice& otherwise);
  // `num_sequences` have guessed by themselves, for `guessing_seconds` in all; `choice` counts
  // them.
  void ObserveSequences(int32_t num_sequences, double guessing_seconds, const GuessChoice& choice);
};

}  // namespace treeline

#endif  // TREELINE_SCHEDULER_SPECULATION_H_
