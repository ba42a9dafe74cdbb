// Tasks of multiple choice and cloze tests, read from JSON lines, with the prompts of
// lm-evaluation-harness; docs/evaluation.md lists them and says where they differ.
#ifndef TREELINE_ENGINE_EVAL_TASKS_H_
#define TREELINE_ENGINE_EVAL_TASKS_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/status.h"
#include "engine/eval/likelihood.h"
#include "engine/text/tokenizer.h"

namespace treeline {

// One question of a task. Where there is one choice, the answer is right if every token of it is
// the model's first choice; else the most probable choice is the answer.
struct TaskItem {
  std::string context;
  std::vector<std::string> choices;  // Each follows the context behind a blank.
  int32_t gold = 0;
};

std::vector<std::string> TaskNames();

// The items of task `name` in `lines`, a record a line. INVALID_ARGUMENT naming `file`, the line
// and the field.
StatusOr<std::vector<TaskItem>> ReadTask(const std::string& name, std::string_view lines,
                                         const std::string& file);

// At most `limit` items (0: all), spread evenly over the list.
std::vector<TaskItem> Spread(std::vector<TaskItem> items, int32_t limit);

// An item in tokens. Context and choice are split where the tokens of the context alone end, as the
// harness does; no BOS. INVALID_ARGUMENT where a choice has no tokens of its own.
StatusOr<Question> ToQuestion(const TaskItem& item, const Tokenizer& tokenizer);

// Sums over items.
struct TaskResult {
  int64_t items = 0;
  int64_t correct = 0;
  int64_t correct_by_length = 0;  // Log-probabilities divided by the choices' characters.
  double gold_logprob = 0;        // Of the right choices.

  void Add(const TaskItem& item, const std::vector<Likelihood>& likelihoods);
};

// Of a share p of n items: sqrt(p (1 - p) / (n - 1)); 0 for one item.
double StandardError(double share, int64_t items);

}  // namespace treeline

#endif  // TREELINE_ENGINE_EVAL_TASKS_H_
