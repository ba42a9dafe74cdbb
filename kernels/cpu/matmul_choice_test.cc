#include "kernels/cpu/matmul_choice.h"

#include <gtest/gtest.h>

#include <set>

namespace treeline::cpu {
namespace {

TEST(RankMatMulKernels, TimesEverySupportedKernelThatTakesTheType) {
  ThreadPool pool(2);
  for (const WeightType type :
       {WeightType::kF32, WeightType::kBF16, WeightType::kInt8, WeightType::kInt4}) {
    std::set<const MatMulKernel*> ranked;
    for (const MatMulSpeed& speed : RankMatMulKernels(type, pool)) {
      EXPECT_TRUE(speed.kernel->Takes(type) && speed.kernel->is_supported());
      EXPECT_GT(speed.decode_seconds, 0);
      EXPECT_GT(speed.prefill_flops, 0);
      ranked.insert(speed.kernel);
    }
    const std::vector<const MatMulKernel*> kernels = MatMulKernels(type);
    // All agree on this machine; one that does not would be missing.
    EXPECT_EQ(ranked, std::set<const MatMulKernel*>(kernels.begin(), kernels.end()));
  }
}

}  // namespace
}  // namespace treeline::cpu
