#include "kernels/cpu/matmul_choice.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <random>

#include "kernels/cpu/matmul.h"
#include "kernels/cpu/packed_matrix.h"

namespace treeline::cpu {
namespace {

constexpr int32_t kN = 768, kK = 768, kPrefillRows = 64;

std::vector<float> RandomValues(size_t n) {
  std::mt19937 rng(1);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> values(n);
  for (float& value : values) value = uniform(rng);
  return values;
}

// The shortest of many runs: what else the machine does only ever adds.
template <class Function>
double BestSeconds(const Function& function) {
  using Clock = std::chrono::steady_clock;
  constexpr int kRuns = 100;
  constexpr double kEnough = 0.01;  // Of a slow kernel, few runs tell.
  double best = std::numeric_limits<double>::infinity(), total = 0;
  for (int run = 0; run < kRuns && total < kEnough; ++run) {
    const auto start = Clock::now();
    function();
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    best = std::min(best, seconds);
    total += seconds;
  }
  return best;
}

// Sums of kK products of magnitude 1, whose operands one kernel may round to bf16.
bool Agree(const std::vector<float>& a, const std::vector<float>& b) {
  constexpr float kTolerance = 0.5f;
  return std::equal(a.begin(), a.end(), b.begin(),
                    [](float x, float y) { return std::abs(x - y) < kTolerance; });
}

}  // namespace

std::vector<MatMulSpeed> RankMatMulKernels(WeightType type, ThreadPool& pool) {
  WeightArena arena;
  PackedMatrix matrix(type, kN, kK, arena);
  const std::vector<float> x = RandomValues(size_t(kPrefillRows) * kK);
  for (int32_t row = 0; row < kN; ++row) {
    matrix.SetRow(row, std::span<const float>(x).subspan(row % kPrefillRows * kK, kK));
  }
  std::vector<float> y(size_t(kPrefillRows) * kN);
  MatMulWorkspace workspace;

  std::vector<MatMulSpeed> speeds;
  std::vector<float> expected;  // Of the portable kernel, which is the first.
  double best_decode = std::numeric_limits<double>::infinity(), best_prefill = best_decode;
  for (const MatMulKernel* kernel : MatMulKernels(type)) {
    const auto seconds = [&](int32_t rows) {
      return BestSeconds([&] {
        MatMul({x.data(), y.data(), rows, false}, matrix, *kernel, workspace, pool);
      });
    };
    const double decode = seconds(1), prefill = seconds(kPrefillRows);
    if (expected.empty()) expected = y;
    if (!Agree(y, expected)) continue;
    speeds.push_back({kernel, decode, prefill, 2.0 * kPrefillRows * kN * kK / prefill});
    best_decode = std::min(best_decode, decode);
    best_prefill = std::min(best_prefill, prefill);
  }
  const auto cost = [&](const MatMulSpeed& speed) {
    const bool exact = speed.kernel->activations == ActivationType::kF32;
    return (speed.decode_seconds / best_decode + speed.prefill_seconds / best_prefill) *
           (exact ? 0.9 : 1.0);
  };
  std::stable_sort(speeds.begin(), speeds.end(),
                   [&](const MatMulSpeed& a, const MatMulSpeed& b) { return cost(a) < cost(b); });
  return speeds;
}

}  // namespace treeline::cpu
