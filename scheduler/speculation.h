// How many of their drafters' guesses the sequences of a step verify: as many as make
// tokens come fastest, by what the guesses are worth and what a row more costs.
#ifndef TREELINE_SCHEDULER_SPECULATION_H_
#define TREELINE_SCHEDULER_SPECULATION_H_

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
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

// One for 1 sequence, one for 2 to 3, for 4 to 7 ... of them.
template <typename T>
class BySequences {
 public:
  T& operator[](int32_t sequences) { return all_[Index(sequences)]; }
  const T& operator[](int32_t sequences) const { return all_[Index(sequences)]; }

 private:
  static size_t Index(int32_t sequences) {
    return std::bit_width(static_cast<uint32_t>(std::max(sequences, 1))) - 1;
  }
  std::array<T, 32> all_{};
};

// What a step did, and how long it took with all that came before and after it.
struct StepObservation {
  int32_t sequences = 0;      // That decode, one row each,
  int32_t guesses = 0;        // and rows besides.
  int32_t prompt_tokens = 0;  // Such steps tell nothing of guesses.
  int32_t model_asked = 0;    // Sequences about which Engine::Draft was asked.
  double expected = 0;        // Guesses that were thought right, the sum of their probabilities,
  int32_t right = 0;          // and those that were.
  double seconds = 0;
};

// What steps take, and guesses bring, here and now: steps as measured at the start, times how far
// real ones were from that of late. What a guess costs besides its row (a commit of its own,
// attention to a tree) shows there, by the number of sequences and apart from steps without
// guesses. Unmeasured costs stay as they are.
class CostModel {
 public:
  explicit CostModel(StepCosts costs);

  // Of a step of so many decoding sequences, one row each, and of `guesses` rows besides.
  double Seconds(int32_t sequences, int32_t guesses) const;
  // Of Engine::Draft for so many sequences.
  double DraftSeconds(int32_t sequences) const { return measured_.DraftSeconds(sequences); }
  // Of the guesses that are thought right in a step of so many sequences, the part that is: those
  // that seem better than they are are chosen most.
  double BorneOut(int32_t sequences) const;

  // Of all steps, in order.
  void Observe(const StepObservation& step);

 private:
  // Factors on what was measured: of steps without guesses, and with.
  struct Factors {
    double plain = 1, drafting = 1;
    bool has_plain = false, has_drafting = false;
    // Sums over guesses, the old ones fading; from one that was borne out.
    double expected = 1, right = 1;
  };
  void ObservePlain(const StepObservation& step);
  void ObserveDrafting(const StepObservation& step);
  // How far the step was from what was measured.
  double Factor(const StepObservation& step) const;

  const StepCosts measured_;
  BySequences<Factors> factors_;
  // The last step, where it had guesses: the engine may commit them in the next one.
  std::optional<StepObservation> drafting_;
};

// How many guesses of each sequence to verify, and what comes of it.
struct GuessChoice {
  std::vector<int32_t> counts;  // [sequences]
  double tokens_per_second;     // Expected.
};

// probabilities[s]: those that the guesses of sequence s are right, descending; `costs` says how
// far they bear out. Chooses at most `max_guesses` in all, so that the expected tokens per second
// of the step are greatest. `drafting_seconds` were spent on the guesses.
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

// What a scheduler knows about guessing ahead. What does not pay for many sequences may for few.
struct Speculation {
  CostModel costs;
  BySequences<DraftPolicy> model{};      // Engine::Draft.
  BySequences<DraftPolicy> sequences{};  // Their own guesses, from text: the host's time.

  // `choice` counts guesses of Engine::Draft for `num_sequences`; `otherwise` is what their own
  // would come to.
  void ObserveModel(int32_t num_sequences, const GuessChoice& choice, const GuessChoice& otherwise);
  // `num_sequences` have guessed by themselves, for `guessing_seconds` in all; `choice` counts
  // them.
  void ObserveSequences(int32_t num_sequences, double guessing_seconds, const GuessChoice& choice);
};

}  // namespace treeline

#endif  // TREELINE_SCHEDULER_SPECULATION_H_
