// Prometheus metrics. Names, types and buckets follow vLLM's with the prefix
// "treeline_", so that a dashboard ports by one rename. Thread-safe.
#ifndef TREELINE_SERVER_METRICS_H_
#define TREELINE_SERVER_METRICS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "scheduler/observer.h"

namespace treeline {

class Metrics : public SchedulerObserver {
 public:
  struct Options {
    std::string model_name;
    std::string version;
    std::string device;
  };
  explicit Metrics(const Options& options);
  ~Metrics() override;

  // From the scheduler.
  void OnStep(int32_t prompt_tokens, int32_t generated_tokens,
              const SchedulerGauges& gauges) override;
  void OnPromptComputed(int32_t prompt_tokens, int32_t cached_tokens) override;
  void OnDraft(int32_t num_guesses, int32_t num_accepted) override;
  void OnFirstToken(Duration since_arrival) override;
  void OnNextTokens(Duration since_previous) override;
  void OnFinished(const RequestTimes& times) override;
  void OnRejected(std::string_view reason) override;

  // From a transport: `handler` is the route, one of a fixed set.
  void OnHttpResponse(const std::string& handler, const std::string& method, int status,
                      double seconds);

  // `code` is gRPC's name for it: "OK".
  void OnGrpcResponse(const std::string& method, const std::string& code, double seconds);

  // Prometheus' text format, version 0.0.4, and the OpenMetrics one, version 1.0.0.
  std::string Text() const;
  std::string OpenMetrics() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace treeline

#endif  // TREELINE_SERVER_METRICS_H_
