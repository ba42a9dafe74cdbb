// Which kernel multiplies fastest on this machine: told by trying, not by belief.
#ifndef TREELINE_KERNELS_CPU_MATMUL_CHOICE_H_
#define TREELINE_KERNELS_CPU_MATMUL_CHOICE_H_

#include <vector>

#include "kernels/cpu/matmul_kernel.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/params.h"

namespace treeline::cpu {

struct MatMulSpeed {
  const MatMulKernel* kernel;
  double decode_seconds;   // One row.
  double prefill_seconds;  // 64 rows.
  double prefill_flops;    // A second.
};

// Times each supported kernel that takes weights of `type` on a small product, fastest first: by
// the sum of both times, each beside the best. A kernel that computes with more digits stays before
// one that is less than a tenth faster. One whose products are not those of the portable kernel is
// left out: better slow than wrong on a CPU that nobody tried. Takes some milliseconds.
// REQUIRES: matmul_kernel.h has a kernel for the type on every CPU, which it does.
std::vector<MatMulSpeed> RankMatMulKernels(WeightType type, ThreadPool& pool);

}  // namespace treeline::cpu

#endif  // TREELINE_KERNELS_CPU_MATMUL_CHOICE_H_
