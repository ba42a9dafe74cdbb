// The work behind a benchmark's yardsticks: what a machine can do at best. Each call
// does a fixed amount of it on every thread of the pool; the caller holds the clock.
#ifndef TREELINE_KERNELS_BENCH_CEILINGS_H_
#define TREELINE_KERNELS_BENCH_CEILINGS_H_

#include <span>

#include "kernels/cpu/thread_pool.h"

namespace treeline {

// Reads all of `data` once. To measure memory, give more than the caches hold, filled with
// anything but fresh zero pages. Returns the sum, which keeps the reads from being optimised away.
float ReadMemory(std::span<const float> data, ThreadPool& pool);

// fp32 fused multiply-adds (where the machine has them) on registers alone, for a few
// milliseconds. Returns the floating-point operations done, two a multiply-add.
double MultiplyAddRegisters(ThreadPool& pool);

}  // namespace treeline

#endif  // TREELINE_KERNELS_BENCH_CEILINGS_H_
