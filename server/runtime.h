// A loaded model and what answers requests with it: engine, tokenizer, template,
// scheduler, metrics and service, each owned here and torn down in order.
#ifndef TREELINE_SERVER_RUNTIME_H_
#define TREELINE_SERVER_RUNTIME_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/status.h"
#include "engine/engine.h"
#include "engine/sampling/params.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "scheduler/scheduler.h"
#include "server/generation_service.h"
#include "server/metrics.h"

namespace treeline {

// What is read from a model's folder.
struct LoadedModel {
  std::string name;  // The folder's.
  std::string device;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<Tokenizer> tokenizer;
  std::optional<ChatTemplate> chat_template;
  SamplingParams sampling_defaults;
  std::vector<int32_t> eos_token_ids;
};

class Runtime {
 public:
  struct Options {
    std::vector<std::string> served_model_names;  // Empty: the model's own.
    int32_t max_batch_tokens = 512;
    int32_t max_queued_requests = 256;
    Duration request_timeout{0};  // 0: none.
  };

  // Starts the scheduler's thread.
  static StatusOr<std::unique_ptr<Runtime>> Create(const Options& options, LoadedModel model);

  GenerationService& service() { return *service_; }
  Scheduler& scheduler() { return *scheduler_; }
  Metrics& metrics() { return *metrics_; }
  const LoadedModel& model() const { return model_; }

 private:
  Runtime(const Options& options, LoadedModel model);

  // Each uses those above it.
  const LoadedModel model_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<GenerationService> service_;
};

}  // namespace treeline

#endif  // TREELINE_SERVER_RUNTIME_H_
