#include "server/eval.h"

#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/clock.h"
#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/eval/likelihood.h"
#include "engine/eval/perplexity.h"
#include "engine/eval/recall.h"
#include "engine/eval/tasks.h"

namespace treeline {

namespace {

constexpr int32_t kRecallProbes = 32;

class Stopwatch {
 public:
  double seconds() const { return ToSeconds(Clock::Real().Now() - start_); }

 private:
  const TimePoint start_ = Clock::Real().Now();
};

StatusOr<std::vector<int32_t>> ReadTokens(const std::string& file, const Tokenizer& tokenizer) {
  TREELINE_ASSIGN_OR_RETURN(const std::string text, ReadFile(file));
  auto tokens = tokenizer.Encode(text, /*add_special=*/false, /*parse_special=*/false);
  if (!tokens.ok()) return Annotate(tokens.status(), file);
  return tokens;
}

// -- Perplexity.

void Print(const EvalConfig& config, const PerplexityResult& result, double seconds,
           std::ostream& out) {
  if (config.json()) {
    const Json json = {
        {"perplexity", result.Perplexity()},  {"nll_sum", result.negative_log_likelihood},
        {"scored_tokens", result.num_scored}, {"windows", result.num_windows},
        {"context", config.context()},        {"seconds", seconds}};
    out << json.dump() << "\n";
  } else {
    out << fmt::format("perplexity {:.4f} over {} tokens in {} windows of {} ({:.1f} s)\n",
                       result.Perplexity(), result.num_scored, result.num_windows, config.context(),
                       seconds);
  }
}

Status EvalPerplexity(const EvalConfig& config, const LoadedModel& model, std::ostream& out,
                      std::ostream& log) {
  TREELINE_ASSIGN_OR_RETURN(std::vector<int32_t> tokens,
                            ReadTokens(config.perplexity(), *model.tokenizer));
  if (tokens.size() > static_cast<size_t>(config.max_tokens())) tokens.resize(config.max_tokens());
  const Stopwatch watch;
  PerplexityOptions options;
  options.context = config.context();
  options.progress = [&](const PerplexityResult& so_far, int64_t total_windows) {
    log << fmt::format("\r{} of {} windows, perplexity {:.3f}, {:.0f} tokens/s ",
                       so_far.num_windows, total_windows, so_far.Perplexity(),
                       static_cast<double>(so_far.num_scored) / watch.seconds())
        << std::flush;
  };
  const auto result = MeasurePerplexity(tokens, options, *model.engine);
  log << "\n";
  TREELINE_RETURN_IF_ERROR(result.status());
  Print(config, *result, watch.seconds(), out);
  return OkStatus();
}

// -- Tasks.

// A share of the items, and how sure it is.
struct Share {
  Share(int64_t count, int64_t items)
      : value(static_cast<double>(count) / static_cast<double>(items)),
        error(StandardError(value, items)) {}
  std::string Text() const { return fmt::format("{:.4f} +- {:.4f}", value, error); }

  double value;
  double error;
};

void Print(const EvalConfig& config, const TaskResult& result, bool is_choice, double seconds,
           std::ostream& out) {
  const Share correct(result.correct, result.items),
      by_length(result.correct_by_length, result.items);
  const double perplexity = std::exp(-result.gold_logprob / static_cast<double>(result.items));
  Json json = {{"task", config.task()},
               {"items", result.items},
               {"acc", correct.value},
               {"acc_stderr", correct.error},
               {"seconds", seconds}};
  std::string text = fmt::format("{}: accuracy {}", config.task(), correct.Text());
  if (is_choice) {
    json["acc_norm"] = by_length.value;
    json["acc_norm_stderr"] = by_length.error;
    text += ", normalised by length " + by_length.Text();
  } else {
    json["perplexity"] = perplexity;
    text += fmt::format(", perplexity {:.4f}", perplexity);
  }
  text += fmt::format(", {} items ({:.1f} s)", result.items, seconds);
  out << (config.json() ? json.dump() : text) << "\n";
}

Status EvalTask(const EvalConfig& config, const LoadedModel& model, std::ostream& out,
                std::ostream& log) {
  TREELINE_ASSIGN_OR_RETURN(const std::string lines, ReadFile(config.data()));
  TREELINE_ASSIGN_OR_RETURN(std::vector<TaskItem> items,
                            ReadTask(config.task(), lines, config.data()));
  items = Spread(std::move(items), config.limit());
  std::vector<Question> questions;
  for (const TaskItem& item : items) {
    auto question = ToQuestion(item, *model.tokenizer);
    if (!question.ok()) return Annotate(question.status(), config.data());
    questions.push_back(*std::move(question));
  }
  const Stopwatch watch;
  TaskResult result;
  LikelihoodOptions options;
  options.on_scored = [&](size_t i, const std::vector<Likelihood>& likelihoods) {
    result.Add(items[i], likelihoods);
    log << fmt::format("\r{} of {} items, accuracy {:.3f}, {:.1f} items/s ", i + 1, items.size(),
                       Share(result.correct, result.items).value,
                       static_cast<double>(i + 1) / watch.seconds())
        << std::flush;
  };
  const Status status = ScoreQuestions(questions, options, *model.engine);
  log << "\n";
  if (!status.ok()) return Annotate(status, config.data());
  const bool is_choice = items[0].choices.size() > 1;
  Print(config, result, is_choice, watch.seconds(), out);
  return OkStatus();
}

// -- Recall.

struct RecallResult {
  int64_t probes = 0;
  double negative_log_likelihood = 0;  // Sums of the probes' means a token,
  double best = 0;                     // and of the share of tokens that were the first choice.
};
using RecallResults = std::map<std::pair<std::string, int32_t>, RecallResult>;

void Print(const EvalConfig& config, const RecallResults& results, double seconds,
           std::ostream& out) {
  Json rows = Json::array();
  std::string text =
      fmt::format("{:<6}{:>9}{:>8}{:>9}{:>8}\n", "probe", "distance", "probes", "nll", "top-1");
  for (const auto& [key, result] : results) {
    const auto& [kind, distance] = key;
    const auto probes = static_cast<double>(result.probes);
    const double nll = result.negative_log_likelihood / probes, top1 = result.best / probes;
    rows.push_back({{"task", kind},
                    {"distance", distance},
                    {"probes", result.probes},
                    {"nll", nll},
                    {"top1", top1}});
    text +=
        fmt::format("{:<6}{:>9}{:>8}{:>9.4f}{:>8.4f}\n", kind, distance, result.probes, nll, top1);
  }
  const Json json = {{"task", "recall"}, {"recall", rows}, {"seconds", seconds}};
  out << (config.json() ? json.dump() + "\n" : text);
}

Status EvalRecall(const EvalConfig& config, const LoadedModel& model, std::ostream& out,
                  std::ostream& log) {
  TREELINE_ASSIGN_OR_RETURN(const std::vector<int32_t> text,
                            ReadTokens(config.data(), *model.tokenizer));
  RecallOptions making;
  making.probes = config.limit() > 0 ? config.limit() : kRecallProbes;
  making.max_context = model.engine->limits().max_context;
  making.seed = config.seed();
  TREELINE_ASSIGN_OR_RETURN(const std::vector<RecallProbe> probes,
                            MakeRecallProbes(text, *model.tokenizer, making));
  std::vector<Question> questions;
  for (const RecallProbe& probe : probes) questions.push_back(probe.question);
  const Stopwatch watch;
  RecallResults results;
  LikelihoodOptions options;
  options.on_scored = [&](size_t i, const std::vector<Likelihood>& likelihoods) {
    const Likelihood& answer = likelihoods[0];
    RecallResult& result = results[{probes[i].kind, probes[i].distance}];
    ++result.probes;
    result.negative_log_likelihood -= answer.logprob / answer.num_tokens;
    result.best += static_cast<double>(answer.num_best) / answer.num_tokens;
    log << fmt::format("\r{} of {} probes, {:.1f} s ", i + 1, probes.size(), watch.seconds())
        << std::flush;
  };
  const Status status = ScoreQuestions(questions, options, *model.engine);
  log << "\n";
  TREELINE_RETURN_IF_ERROR(status);
  Print(config, results, watch.seconds(), out);
  return OkStatus();
}

}  // namespace

Status Eval(const EvalConfig& config, LoadedModel model, std::ostream& out, std::ostream& log) {
  if (config.has_perplexity() && config.has_task()) {
    return InvalidArgument("--task takes the place of --perplexity; give one of them");
  }
  if (config.has_perplexity()) return EvalPerplexity(config, model, out, log);
  if (!config.has_data()) return InvalidArgument("--data FILE is needed with --task");
  return config.task() == "recall" ? EvalRecall(config, model, out, log)
                                   : EvalTask(config, model, out, log);
}

}  // namespace treeline
