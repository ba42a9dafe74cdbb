// What a step of the engine costs in metrics, and what a scrape does.
//
//   bazel run -c opt //server:metrics_benchmark
#include <benchmark/benchmark.h>

#include "server/metrics.h"

namespace treeline {
namespace {

Metrics::Options TestOptions() { return {"m", "1", "cpu"}; }

// A step in which each of so many sequences gets a token.
void BM_Step(benchmark::State& state) {
  Metrics metrics(TestOptions());
  const auto sequences = static_cast<int32_t>(state.range(0));
  for (auto _ : state) {
    for (int32_t i = 0; i < sequences; ++i) metrics.OnNextTokens(std::chrono::milliseconds(9));
    metrics.OnStep(0, sequences,
                   {.running = sequences, .slots_used = sequences, .slots_total = 64});
  }
}
BENCHMARK(BM_Step)->Arg(1)->Arg(16)->Arg(64);

// The same with guesses, four of which are right.
void BM_StepWithDrafts(benchmark::State& state) {
  Metrics metrics(TestOptions());
  const auto sequences = static_cast<int32_t>(state.range(0));
  for (auto _ : state) {
    for (int32_t i = 0; i < sequences; ++i) {
      metrics.OnDraft(16, 4);
      metrics.OnNextTokens(std::chrono::milliseconds(9));
    }
    metrics.OnStep(0, 5 * sequences,
                   {.running = sequences, .slots_used = sequences, .slots_total = 64});
  }
}
BENCHMARK(BM_StepWithDrafts)->Arg(1)->Arg(16)->Arg(64);

void BM_RequestEnds(benchmark::State& state) {
  Metrics metrics(TestOptions());
  RequestTimes times;
  times.usage.completion_tokens = 100;
  times.prefill = times.decode = times.inference = std::chrono::seconds(1);
  for (auto _ : state) {
    metrics.OnFinished(times);
    metrics.OnHttpResponse("/v1/completions", "POST", 200, 1);
  }
}
BENCHMARK(BM_RequestEnds);

void BM_Scrape(benchmark::State& state) {
  Metrics metrics(TestOptions());
  for (auto _ : state) benchmark::DoNotOptimize(metrics.OpenMetrics());
}
BENCHMARK(BM_Scrape);

}  // namespace
}  // namespace treeline
