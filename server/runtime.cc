#include "server/runtime.h"

#include <filesystem>
#include <utility>

namespace treeline {

namespace {

std::vector<std::string> NamesOf(const Runtime::Options& options, const LoadedModel& model) {
  if (options.served_model_names.empty()) return {model.name};
  return options.served_model_names;
}

}  // namespace

std::string ModelName(const std::string& model) {
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
