// Row-wise operations on the CPU: vectorised with Highway, split over a pool.
// Row-invariant: the bits of a row depend on that row alone, not on the rows beside
// it, their number, or the number of threads. Each dot product and sum runs in one
// fixed order.
#ifndef TREELINE_KERNELS_CPU_OPS_H_
#define TREELINE_KERNELS_CPU_OPS_H_

#include <cstdint>
#include <span>

#include "kernels/cpu/thread_pool.h"
#include "kernels/params.h"

namespace treeline::cpu {

void RmsNorm(const RmsNormParams& params, ThreadPool& pool);
void RopeAngles(const RopeAnglesParams& params, ThreadPool& pool);
void RopeQkv(const RopeQkvParams& params, ThreadPool& pool);
void AddBias(const AddBiasParams& params, ThreadPool& pool);
void ResidualSilu(const ResidualSiluParams& params, ThreadPool& pool);

// Rounds every value to the nearest bf16 (ties to even) and back.
void RoundToBf16(std::span<float> values);

}  // namespace treeline::cpu

#endif  // TREELINE_KERNELS_CPU_OPS_H_
