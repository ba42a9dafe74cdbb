// Time of one row of a 49,152-token vocabulary, by what the request asks for. The argument is the
// spread of the logits in tenths: 2 is nearly flat, 30 is peaked as a trained model's are.
#include <benchmark/benchmark.h>

#include <random>
#include <vector>

#include "engine/sampling/sampler.h"

namespace treeline {
namespace {

std::vector<float> RandomLogits(float scale) {
  constexpr int kVocabSize = 49'152;
  std::mt19937 bits(1);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> logits(kVocabSize);
  for (float& logit : logits) logit = normal(bits);
  return logits;
}

void SampleRow(benchmark::State& state, const SamplingParams& params, int32_t top_logprobs) {
  const std::vector<float> logits = RandomLogits(0.1f * static_cast<float>(state.range(0)));
  Sampler sampler;
  RowRequest request{.sampling = &params, .top_logprobs = top_logprobs};
  for (auto _ : state) {
    ++request.random.position;
    benchmark::DoNotOptimize(sampler.Sample(logits, request));
  }
}

const SamplingParams kGreedy{.temperature = 0};
const SamplingParams kBiased{.temperature = 0, .logit_bias = {{7, 5.0f}}};
const SamplingParams kTemperature{.temperature = 0.7f};
const SamplingParams kMinP{.temperature = 0.7f, .min_p = 0.05f};
const SamplingParams kTopK{.temperature = 0.7f, .top_k = 50};
const SamplingParams kTopP{.temperature = 0.7f, .top_p = 0.95f};
const SamplingParams kTopKTopP{.temperature = 0.7f, .top_p = 0.95f, .top_k = 50};
const SamplingParams kLargeTopK{.temperature = 0.7f, .top_k = 5000};

#define SAMPLE_ROW(name, ...) \
  BENCHMARK_CAPTURE(SampleRow, name, __VA_ARGS__)->ArgName("spread")->Arg(2)->Arg(30)
SAMPLE_ROW(Greedy, kGreedy, 0);
SAMPLE_ROW(GreedyWithBias, kBiased, 0);
SAMPLE_ROW(Temperature, kTemperature, 0);
SAMPLE_ROW(MinP, kMinP, 0);
SAMPLE_ROW(TopK50, kTopK, 0);
SAMPLE_ROW(TopP95, kTopP, 0);
SAMPLE_ROW(TopK50TopP95, kTopKTopP, 0);
SAMPLE_ROW(TopK5000, kLargeTopK, 0);
SAMPLE_ROW(TopK50TopP95Logprobs20, kTopKTopP, 20);

}  // namespace
}  // namespace treeline
