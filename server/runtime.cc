#include "server/runtime.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <filesystem>
#include <utility>

#include "scheduler/step_costs.h"

namespace treeline {

namespace {

// Guesses are seldom right more often than this.
constexpr double kWorthwhile = 0.8;

std::vector<std::string> NamesOf(const Runtime::Options& options, const LoadedModel& model) {
  if (options.served_model_names.empty()) return {model.name};
  return options.served_model_names;
}

// Who guesses ahead, for people.
std::string Guessers(const Scheduler::Options& scheduling, const Engine& engine) {
  const int32_t heads = engine.limits().num_draft_heads;
  std::vector<std::string> names;
  if (scheduling.drafters.ngram) names.push_back("n-grams");
  const double milliseconds = 1e3 * scheduling.step_costs.DraftSeconds(1);
  if (heads > 0)
    names.push_back(fmt::format("{} Medusa heads ({:.1f} ms a step)", heads, milliseconds));
  if (engine.limits().draft_model) {
    names.push_back(fmt::format("a draft model ({:.1f} ms a step)", milliseconds));
  }
  return fmt::format("{}", fmt::join(names, " and "));
}

// Measures what rows cost, and decides whether guessing ahead can pay.
Status PrepareDrafting(const Runtime::Options& options, Engine& engine,
                       Scheduler::Options* scheduling) {
  if (scheduling->max_draft_nodes == 0) return OkStatus();
  TREELINE_ASSIGN_OR_RETURN(scheduling->step_costs,
                            MeasureStepCosts(engine, Clock::Real(), scheduling->max_draft_nodes));
  const StepCosts& costs = scheduling->step_costs;
  const int32_t most = scheduling->max_draft_nodes;
  const std::string measured = fmt::format(
      "a step of 1, {} and {} rows takes {:.1f}, {:.1f} and {:.1f} ms", (most + 1) / 2, most,
      1e3 * costs.Seconds(1), 1e3 * costs.Seconds((most + 1) / 2), 1e3 * costs.Seconds(most));
  // As many tokens as rows come out of a step at best.
  bool pays = false;
  for (int32_t rows = 2; rows <= most; ++rows) {
    pays = pays || costs.Seconds(rows) < kWorthwhile * rows * costs.Seconds(1);
  }
  if (options.draft_where_it_pays && !pays) {
    scheduling->max_draft_nodes = 0;
    spdlog::info("speculation: off, since {}: guesses would have to be right nearly always",
                 measured);
  } else {
    spdlog::info("speculation: guesses by {} in trees of up to {} nodes; {}",
                 Guessers(*scheduling, engine), most, measured);
  }
  return OkStatus();
}

}  // namespace

std::string ModelName(const EngineConfig& config) {
  const std::string& model = config.has_adapter() ? config.adapter() : config.model();
  std::filesystem::path path = std::filesystem::path(model).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();  // "models/x/"
  return (path.extension() == ".gguf" ? path.stem() : path.filename()).string();
}

StatusOr<std::unique_ptr<Runtime>> Runtime::Create(const Options& options, LoadedModel model,
                                                   SchedulerObserver& observer) {
  std::unique_ptr<Runtime> runtime(new Runtime(std::move(model)));
  const LoadedModel& loaded = runtime->model_;

  Scheduler::Options scheduling = options.scheduling;
  scheduling.eos_token_ids = loaded.eos_token_ids;
  TREELINE_RETURN_IF_ERROR(PrepareDrafting(options, *loaded.engine, &scheduling));
  TREELINE_ASSIGN_OR_RETURN(
      runtime->scheduler_,
      Scheduler::Create(scheduling, *loaded.engine, *loaded.tokenizer, Clock::Real(), observer));

  const EngineLimits limits = loaded.engine->limits();
  GenerationService::Options serving;
  serving.model_names = NamesOf(options, loaded);
  serving.vocab_size = limits.vocab_size;
  serving.max_context = limits.max_context;
  serving.request_timeout = options.request_timeout;
  serving.stall_timeout = options.stall_timeout;
  const ChatTemplate* chat_template =
      loaded.chat_template.has_value() ? &*loaded.chat_template : nullptr;
  runtime->service_ = std::make_unique<GenerationService>(
      serving, *loaded.tokenizer, chat_template, *runtime->scheduler_, Clock::Real(), observer);
  runtime->scheduler_->Start();
  return runtime;
}

}  // namespace treeline
