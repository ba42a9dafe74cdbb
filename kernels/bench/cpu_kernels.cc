// GB/s and FLOP/s of the CPU kernels at the shapes of SmolLM2-135M, beside two
// ceilings measured in the same run: streaming reads of memory, and multiply-adds
// from registers. Run with --benchmark_filter=... for a part.
#include <benchmark/benchmark.h>

#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/bench/ceilings.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/matmul.h"

namespace treeline {
namespace {

constexpr int32_t kHeads = 9, kKvHeads = 3, kHeadDim = 64;

ThreadPool& Pool() {
  static ThreadPool pool(std::max(1u, std::thread::hardware_concurrency()));
  return pool;
}

std::vector<float> RandomValues(size_t n, float scale = 1.0f) {
  static std::mt19937 rng(1);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(n);
  for (float& value : values) value = normal(rng);
  return values;
}

void SetRates(benchmark::State& state, double flops, double bytes) {
  state.counters["FLOP/s"] =
      benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["B/s"] = benchmark::Counter(bytes, benchmark::Counter::kIsIterationInvariantRate,
                                             benchmark::Counter::kIs1024);
}

void CeilingMemoryRead(benchmark::State& state) {
  const std::vector<float> data(size_t{128} << 20, 1.0f);  // 512 MiB, past any cache.
  for (auto _ : state) benchmark::DoNotOptimize(ReadMemory(data, Pool()));
  SetRates(state, 0, static_cast<double>(data.size()) * sizeof(float));
}
BENCHMARK(CeilingMemoryRead)->UseRealTime();

void CeilingMultiplyAdd(benchmark::State& state) {
  double flops = 0;
  for (auto _ : state) flops = MultiplyAddRegisters(Pool());
  SetRates(state, flops, 0);
}
BENCHMARK(CeilingMultiplyAdd)->UseRealTime();

void MatMul(benchmark::State& state, WeightType type, const cpu::MatMulKernel* kernel, int32_t rows,
            int32_t n, int32_t k) {
  cpu::WeightArena arena;
  cpu::PackedMatrix matrix(type, n, k, arena);
  const auto row_values = RandomValues(k);
  for (int32_t row = 0; row < n; ++row) matrix.SetRow(row, row_values);
  const auto x = RandomValues(size_t(rows) * k);
  std::vector<float> y(size_t(rows) * n);
  cpu::MatMulWorkspace workspace;
  for (auto _ : state) {
    cpu::MatMul({x.data(), y.data(), rows, false}, matrix, *kernel, workspace, Pool());
  }
  SetRates(state, 2.0 * rows * n * k, static_cast<double>(matrix.bytes()));
}

// Every kernel that runs here, at the shapes of decoding and of prefill.
void RegisterMatMul() {
  constexpr int32_t kShapes[][3] = {{1, 960, 576},    {1, 3072, 576},  {1, 576, 1536},
                                    {1, 49152, 576},  {8, 3072, 576},  {512, 960, 576},
                                    {512, 3072, 576}, {512, 576, 1536}};
  constexpr std::pair<WeightType, const char*> kTypes[] = {{WeightType::kF32, "fp32"},
                                                           {WeightType::kBF16, "bf16"},
                                                           {WeightType::kInt8, "int8"},
                                                           {WeightType::kInt4, "int4"}};
  for (const auto& [type, type_name] : kTypes) {
    for (const cpu::MatMulKernel* kernel : cpu::MatMulKernels(type)) {
      for (const auto& [rows, n, k] : kShapes) {
        const std::string name = std::string("MatMul/weights:") + type_name +
                                 "/kernel:" + kernel->name + "/rows:" + std::to_string(rows) +
                                 "/n:" + std::to_string(n) + "/k:" + std::to_string(k);
        benchmark::RegisterBenchmark(name.c_str(), MatMul, type, kernel, rows, n, k)->UseRealTime();
      }
    }
  }
}

// One layer's attention of `rows` more tokens after `context`, with bf16 rings where `bf16`. form
// 0: softmax; others: 4 sinks, 32 taps, and 1: groups of 128, hedgehog, joint, decay, a window that
// slides over 128 tokens; 2: one of two groups; 3: a window of 66 groups of 64 and no S.
void Attention(benchmark::State& state) {
  const int32_t rows = state.range(0), context = state.range(1);
  AttentionLayer layer;
  layer.heads = kHeads;
  layer.kv_heads = kKvHeads;
  layer.head_dim = kHeadDim;
  const int64_t form = state.range(2);
  layer.state_type = state.range(3) ? StateType::kBF16 : StateType::kF32;
  if (form > 0) {
    layer.form.sinks = 4;
    layer.form.conv_kernel = 63;
  }
  if (form == 1 || form == 2) {
    layer.form.group_size = 128;
    layer.form.window = form == 1 ? Window::kSliding : Window::kGroup;
    layer.form.window_size = form == 1 ? 128 : 256;
    layer.form.decay = true;
    layer.form.feature_map = FeatureMap::kHedgehog;
    layer.form.denominator = Denominator::kJoint;
  }
  if (form == 3) {
    layer.form.group_size = 64;
    layer.form.window_size = 66 * 64;
  }
  layer.k_ring_rows = layer.form.k_ring_rows(context + rows);
  layer.v_ring_rows = layer.form.v_ring_rows(context + rows);
  const std::vector<float> factor(kHeads, 1.0f), decay(kKvHeads, 0.9f);
  const auto map_q = RandomValues(kHeads * kHeadDim * kHeadDim, 0.1f);
  const auto map_k = RandomValues(kKvHeads * kHeadDim * kHeadDim, 0.1f);
  const auto taps = RandomValues(kHeads * 32, 0.1f);
  layer.linear_factor = factor.data();
  layer.decay = decay.data();
  layer.feature_map_q = map_q.data();
  layer.feature_map_k = map_k.data();
  layer.conv_taps = taps.data();

  const size_t m = layer.feature_dim();
  auto s = RandomValues(kKvHeads * m * kHeadDim), z = RandomValues(kKvHeads * m);
  auto sinks = RandomValues(kKvHeads * 4 * kHeadDim);
  auto ring_k = RandomValues(size_t(kKvHeads) * layer.k_ring_rows * kHeadDim);
  auto ring_v = RandomValues(size_t(kKvHeads) * layer.v_ring_rows * kHeadDim);
  std::vector<int32_t> parents(rows);
  for (int32_t i = 0; i < rows; ++i) parents[i] = i - 1;
  AttentionTree tree;
  tree.state = {s.data(), z.data(), sinks.data(), sinks.data(), ring_k.data(), ring_v.data()};
  tree.length = context;
  tree.num_rows = rows;
  tree.parents = parents.data();
  tree.commit = true;
  const auto q = RandomValues(size_t(rows) * kHeads * kHeadDim);
  const auto kv = RandomValues(size_t(rows) * kKvHeads * kHeadDim);
  std::vector<float> out(q.size());
  AttentionParams params;
  params.layer = &layer;
  params.q = q.data();
  params.k = kv.data();
  params.v = kv.data();
  params.out = out.data();
  params.q_stride = kHeads * kHeadDim;
  params.kv_stride = kKvHeads * kHeadDim;
  params.trees = &tree;
  params.num_trees = 1;
  cpu::AttentionWorkspace workspace(Pool().num_threads());
  for (auto _ : state) cpu::Attention(params, workspace, Pool());
  state.counters["rows/s"] =
      benchmark::Counter(rows, benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(Attention)
    ->ArgNames({"rows", "context", "form", "bf16"})
    ->ArgsProduct({{1, 512}, {0, 2048, 8192}, {0, 1, 2, 3}, {0, 1}})
    ->UseRealTime();

}  // namespace
}  // namespace treeline

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  treeline::RegisterMatMul();
  benchmark::RunSpecifiedBenchmarks();
}
