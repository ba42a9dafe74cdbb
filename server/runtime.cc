#include "server/runtime.h"

#include <utility>

#include "server/version.h"

namespace treeline {

namespace {

std::vector<std::string> NamesOf(const Runtime::Options& options, const LoadedModel& model) {
  if (options.served_model_names.empty()) return {model.name};
  return options.served_model_names;
}

}  // namespace

Runtime::Runtime(const Options& options, LoadedModel model) : model_(std::move(model)) {
  Metrics::Options metrics;
  metrics.model_name = NamesOf(options, model_).front();
  metrics.max_context = model_.engine->limits().max_context;
  metrics.version = kVersion;
  metrics.device = model_.device;
  metrics_ = std::make_unique<Metrics>(metrics);
}

StatusOr<std::unique_ptr<Runtime>> Runtime::Create(const Options& options, LoadedModel model) {
  std::unique_ptr<Runtime> runtime(new Runtime(options, std::move(model)));
  const LoadedModel& loaded = runtime->model_;

  Scheduler::Options scheduling;
  scheduling.max_batch_tokens = options.max_batch_tokens;
  scheduling.max_queued_requests = options.max_queued_requests;
  scheduling.eos_token_ids = loaded.eos_token_ids;
  TREELINE_ASSIGN_OR_RETURN(runtime->scheduler_,
                            Scheduler::Create(scheduling, *loaded.engine, *loaded.tokenizer,
                                              Clock::Real(), *runtime->metrics_));

  const EngineLimits limits = loaded.engine->limits();
  GenerationService::Options serving;
  serving.model_names = NamesOf(options, loaded);
  serving.vocab_size = limits.vocab_size;
  serving.max_context = limits.max_context;
  serving.request_timeout = options.request_timeout;
  const ChatTemplate* chat_template =
      loaded.chat_template.has_value() ? &*loaded.chat_template : nullptr;
  runtime->service_ = std::make_unique<GenerationService>(serving, *loaded.tokenizer, chat_template,
                                                          *runtime->scheduler_, Clock::Real());
  runtime->scheduler_->Start();
  return runtime;
}

}  // namespace treeline
