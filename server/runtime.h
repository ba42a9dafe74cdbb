// A loaded model and what answers requests with it: engine, tokenizer, template,
// scheduler and service, each owned here and torn down in order.
#ifndef TREELINE_SERVER_RUNTIME_H_
#define TREELINE_SERVER_RUNTIME_H_

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/status.h"
#include "engine/engine.h"
#include "engine/sampling/params.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "proto/config.pb.h"
#include "scheduler/observer.h"
#include "scheduler/scheduler.h"
#include "server/generation_service.h"

namespace treeline {

// What is read from a model's folder.
struct LoadedModel {
  std::string name;  // Its ModelName.
  std::string device;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<Tokenizer> tokenizer;
  std::optional<ChatTemplate> chat_template;
  SamplingParams sampling_defaults;
  std::vector<int32_t> eos_token_ids;
};

// What clients call the model where --served-model-name does not say: its folder's name, or its
// file's without ".gguf"; with an adapter, which makes it another model, the adapter's.
std::string ModelName(const EngineConfig& config);

class Runtime {
 public:
  struct Options {
    std::vector<std::string> served_model_names;  // Empty: the model's own.
    Scheduler::Options scheduling;  // Its eos_token_ids are the model's, its step_costs measured.
    bool draft_where_it_pays = false;  // Else, with max_draft_nodes, wherever there are guesses.
    Duration request_timeout{0};       // 0: none.
    Duration stall_timeout = std::chrono::seconds(60);
  };

  // Starts the scheduler's thread. `observer` outlives the runtime.
  static StatusOr<std::unique_ptr<Runtime>> Create(const Options& options, LoadedModel model,
                                                   SchedulerObserver& observer);

  GenerationService& service() { return *service_; }
  Scheduler& scheduler() { return *scheduler_; }
  const LoadedModel& model() const { return model_; }

 private:
  explicit Runtime(LoadedModel model) : model_(std::move(model)) {}

  // Each uses those above it.
  const LoadedModel model_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<GenerationService> service_;
};

}  // namespace treeline

#endif  // TREELINE_SERVER_RUNTIME_H_
