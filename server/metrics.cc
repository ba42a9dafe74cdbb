#include "server/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <map>
#include <vector>

#include "server/open_metrics.h"

namespace treeline {

namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;
using prometheus::Labels;
using Buckets = Histogram::BucketBoundaries;

// Seconds to the first token.
const Buckets& FirstTokenBuckets() {
  static const auto& buckets =
      *new Buckets{.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                   1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
  return buckets;
}

// Seconds between tokens.
const Buckets& TokenBuckets() {
  static const auto& buckets = *new Buckets{.01, .025, .05, .075, .1,  .15, .2, .3, .4, .5,
                                            .75, 1,    2.5, 5,    7.5, 10,  20, 40, 80};
  return buckets;
}

// Seconds of a whole request.
const Buckets& RequestBuckets() {
  static const auto& buckets = *new Buckets{.3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                            30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
  return buckets;
}

const Buckets& HttpBuckets() {
  static const auto& buckets =
      *new Buckets{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300};
  return buckets;
}

// 1 8 16 32 ... 16384: tokens of a step.
Buckets StepBuckets() {
  Buckets buckets = {1};
  for (double bound = 8; bound <= 16384; bound *= 2) buckets.push_back(bound);
  return buckets;
}

// 1 2 5 10 20 50 ... 1,000,000: the same for every model, so that replicas add up.
Buckets TokenCountBuckets() {
  Buckets buckets;
  for (double decade = 1; decade < 1e6; decade *= 10) {
    for (const double mantissa : {1, 2, 5}) buckets.push_back(mantissa * decade);
  }
  buckets.push_back(1e6);
  return buckets;
}

const char* OutcomeName(Outcome outcome) {
  switch (outcome) {
    case Outcome::kStop:
      return "stop";
    case Outcome::kLength:
      return "length";
    case Outcome::kAbort:
      return "abort";
    case Outcome::kError:
      return "error";
  }
  return "error";
}

}  // namespace

struct Metrics::Impl {
  explicit Impl(const Options& options)
      : labels{{"model_name", options.model_name}}, token_count_buckets(TokenCountBuckets()) {
    // All outcomes exist from the start: a rate over a series that is not there is no zero.
    for (const Outcome outcome :
         {Outcome::kStop, Outcome::kLength, Outcome::kAbort, Outcome::kError}) {
      request_success.Add({{"finished_reason", OutcomeName(outcome)}});
    }
    prometheus::BuildGauge()
        .Name("treeline_build_info")
        .Help("Always 1; the labels tell the build.")
        .Labels(labels)
        .Register(registry)
        .Add({{"version", options.version}, {"device", options.device}})
        .Set(1);
  }

  Family<Gauge>& GaugeFamily(const std::string& name, const std::string& help) {
    return prometheus::BuildGauge()
        .Name("treeline_" + name)
        .Help(help)
        .Labels(labels)
        .Register(registry);
  }
  Family<Counter>& CounterFamily(const std::string& name, const std::string& help) {
    return prometheus::BuildCounter()
        .Name("treeline_" + name + "_total")
        .Help(help)
        .Labels(labels)
        .Register(registry);
  }
  Family<Histogram>& HistogramFamily(const std::string& name, const std::string& help) {
    return prometheus::BuildHistogram()
        .Name("treeline_" + name)
        .Help(help)
        .Labels(labels)
        .Register(registry);
  }

  prometheus::Registry registry;
  const Labels labels;  // On every series.
  const Buckets token_count_buckets;

  Gauge& running =
      GaugeFamily("num_requests_running", "Requests that hold at least one slot.").Add({});
  Gauge& waiting = GaugeFamily("num_requests_waiting", "Requests waiting for a slot.").Add({});
  Family<Gauge>& waiting_by_reason = GaugeFamily(
      "num_requests_waiting_by_reason",
      "Why requests wait: capacity, for a slot; prompt, with a slot, for prompts before theirs.");
  Gauge& waiting_for_capacity = waiting_by_reason.Add({{"reason", "capacity"}});
  Gauge& waiting_for_prompt = waiting_by_reason.Add({{"reason", "prompt"}});
  Gauge& slots_used = GaugeFamily("state_slots_used", "Sequence states in use.").Add({});
  Gauge& slots_total =
      GaugeFamily("state_slots_total", "Sequence states there are: the cap on concurrency.")
          .Add({});
  Gauge& state_usage =
      GaugeFamily("state_usage_perc", "Share of sequence states in use, 0 to 1.").Add({});

  Counter& prompt_tokens = CounterFamily("prompt_tokens", "Prompt tokens worked through.").Add({});
  Counter& prefix_cache_queries =
      CounterFamily("prefix_cache_queries", "Prompt tokens that were looked for in it.").Add({});
  Counter& prefix_cache_hits =
      CounterFamily("prefix_cache_hits", "Prompt tokens that it spared.").Add({});
  Counter& drafts = CounterFamily("spec_decode_num_drafts", "Draft trees verified.").Add({});
  Counter& draft_tokens =
      CounterFamily("spec_decode_num_draft_tokens", "Guesses in draft trees.").Add({});
  Counter& accepted_tokens =
      CounterFamily("spec_decode_num_accepted_tokens", "Guesses that were right.").Add({});
  Family<Counter>& accepted_per_position =
      CounterFamily("spec_decode_num_accepted_tokens_per_pos",
                    "Guesses that were right, by how far ahead, from 0.");
  Counter& generation_tokens = CounterFamily("generation_tokens", "Tokens generated.").Add({});
  Family<Counter>& request_success =
      CounterFamily("request_success", "Requests that ended, by how.");
  Family<Counter>& rejected =
      CounterFamily("requests_rejected", "Requests refused before any work, by why.");
  Family<Counter>& http_requests =
      CounterFamily("http_requests", "HTTP responses by route, method and status.");
  Family<Counter>& grpc_requests =
      CounterFamily("grpc_requests", "gRPC calls answered, by method and status code.");

  Histogram& time_to_first_token =
      HistogramFamily("time_to_first_token_seconds", "From a request's arrival to its first token.")
          .Add({}, FirstTokenBuckets());
  Histogram& inter_token_latency =
      HistogramFamily("inter_token_latency_seconds", "Between the steps of one choice.")
          .Add({}, TokenBuckets());
  Histogram& time_per_output_token =
      HistogramFamily("request_time_per_output_token_seconds",
                      "A request's mean time per token after the first.")
          .Add({}, TokenBuckets());
  Histogram& end_to_end = HistogramFamily("e2e_request_latency_seconds", "From arrival to end.")
                              .Add({}, RequestBuckets());
  Histogram& queue_time =
      HistogramFamily("request_queue_time_seconds", "From arrival to the first slot.")
          .Add({}, RequestBuckets());
  Histogram& prefill_time =
      HistogramFamily("request_prefill_time_seconds", "From the first slot to the first token.")
          .Add({}, RequestBuckets());
  Histogram& decode_time =
      HistogramFamily("request_decode_time_seconds", "From the first token to the last.")
          .Add({}, RequestBuckets());
  Histogram& inference_time =
      HistogramFamily("request_inference_time_seconds", "From the first slot to the last token.")
          .Add({}, RequestBuckets());
  Histogram& request_prompt_tokens =
      HistogramFamily("request_prompt_tokens", "Prompt tokens of a request.")
          .Add({}, token_count_buckets);
  Histogram& request_generation_tokens =
      HistogramFamily("request_generation_tokens", "Generated tokens of a request.")
          .Add({}, token_count_buckets);
  Histogram& request_max_tokens =
      HistogramFamily("request_params_max_tokens", "max_tokens of a request.")
          .Add({}, token_count_buckets);
  Histogram& iteration_tokens =
      HistogramFamily("iteration_tokens_total", "Tokens of one step, prompts and outputs.")
          .Add({}, StepBuckets());
  Family<Histogram>& http_duration =
      HistogramFamily("http_request_duration_seconds", "From a request's header to its answer.");
  Family<Histogram>& grpc_duration =
      HistogramFamily("grpc_request_duration_seconds", "From a call's message to its end.");
};

Metrics::Metrics(const Options& options) : impl_(std::make_unique<Impl>(options)) {}
Metrics::~Metrics() = default;

void Metrics::OnStep(int32_t prompt_tokens, int32_t generated_tokens,
                     const SchedulerGauges& gauges) {
  impl_->running.Set(gauges.running);
  impl_->waiting.Set(gauges.waiting);
  impl_->waiting_for_capacity.Set(gauges.waiting);
  impl_->waiting_for_prompt.Set(gauges.prefilling);
  impl_->slots_used.Set(gauges.slots_used);
  impl_->slots_total.Set(gauges.slots_total);
  impl_->state_usage.Set(
      gauges.slots_total > 0 ? static_cast<double>(gauges.slots_used) / gauges.slots_total : 0);
  impl_->prompt_tokens.Increment(prompt_tokens);
  impl_->generation_tokens.Increment(generated_tokens);
  if (prompt_tokens + generated_tokens > 0) {
    impl_->iteration_tokens.Observe(prompt_tokens + generated_tokens);
  }
}

void Metrics::OnPromptComputed(int32_t prompt_tokens, int32_t cached_tokens) {
  impl_->prefix_cache_queries.Increment(prompt_tokens);
  impl_->prefix_cache_hits.Increment(cached_tokens);
}

void Metrics::OnDraft(int32_t num_guesses, int32_t num_accepted) {
  impl_->drafts.Increment();
  impl_->draft_tokens.Increment(num_guesses);
  impl_->accepted_tokens.Increment(num_accepted);
  for (int32_t position = 0; position < num_accepted; ++position) {
    impl_->accepted_per_position.Add({{"position", std::to_string(position)}}).Increment();
  }
}

void Metrics::OnFirstToken(Duration since_arrival) {
  impl_->time_to_first_token.Observe(ToSeconds(since_arrival));
}

void Metrics::OnNextTokens(Duration since_previous) {
  impl_->inter_token_latency.Observe(ToSeconds(since_previous));
}

void Metrics::OnFinished(const RequestTimes& times) {
  impl_->request_success.Add({{"finished_reason", OutcomeName(times.outcome)}}).Increment();
  impl_->end_to_end.Observe(ToSeconds(times.end_to_end));
  impl_->queue_time.Observe(ToSeconds(times.queue));
  if (times.prefill) impl_->prefill_time.Observe(ToSeconds(*times.prefill));
  if (times.decode) impl_->decode_time.Observe(ToSeconds(*times.decode));
  if (times.inference) impl_->inference_time.Observe(ToSeconds(*times.inference));
  if (times.decode && times.usage.completion_tokens > 1) {
    impl_->time_per_output_token.Observe(ToSeconds(*times.decode) /
                                         (times.usage.completion_tokens - 1));
  }
  impl_->request_prompt_tokens.Observe(times.usage.prompt_tokens);
  impl_->request_generation_tokens.Observe(times.usage.completion_tokens);
  impl_->request_max_tokens.Observe(times.max_tokens);
}

void Metrics::OnRejected(std::string_view reason) {
  impl_->rejected.Add({{"reason", std::string(reason)}}).Increment();
}

void Metrics::OnHttpResponse(const std::string& handler, const std::string& method, int status,
                             double seconds) {
  impl_->http_requests
      .Add({{"handler", handler}, {"method", method}, {"status", std::to_string(status)}})
      .Increment();
  impl_->http_duration.Add({{"handler", handler}, {"method", method}}, HttpBuckets())
      .Observe(seconds);
}

void Metrics::OnGrpcResponse(const std::string& method, const std::string& code, double seconds) {
  impl_->grpc_requests.Add({{"method", method}, {"code", code}}).Increment();
  impl_->grpc_duration.Add({{"method", method}}, HttpBuckets()).Observe(seconds);
}

std::string Metrics::Text() const {
  return prometheus::TextSerializer().Serialize(impl_->registry.Collect());
}

std::string Metrics::OpenMetrics() const { return OpenMetricsText(impl_->registry.Collect()); }

}  // namespace treeline
