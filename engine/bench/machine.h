// What the machine can do at best, measured beside a model: no step reads its weights
// faster than memory is read, no product runs faster than its multiply-adds.
#ifndef TREELINE_ENGINE_BENCH_MACHINE_H_
#define TREELINE_ENGINE_BENCH_MACHINE_H_

#include <cstddef>

#include "engine/backend/backend.h"
#include "engine/base/clock.h"
#include "engine/base/status.h"
#include "kernels/cpu/thread_pool.h"

namespace treeline {

struct MachineCeilings {
  double memory_bytes_per_second = 0;     // Reading.
  double fp32_operations_per_second = 0;  // Multiplications and additions, fused.
};

// With all threads of the pool, each the best of a few runs: under a second in all.
// `memory_bytes` are read at a time; they should exceed the caches. RESOURCE_EXHAUSTED where
// they are not to be had.
StatusOr<MachineCeilings> MeasureCeilings(size_t memory_bytes, const Clock& clock,
                                          ThreadPool& pool);

struct DeviceCeilings {
  double copied_bytes_per_second = 0;        // Within its memory; read and written, both counted.
  double product_operations_per_second = 0;  // Of a large product of bf16 weights.
};

// The same of a device that has a timer, which is required.
StatusOr<DeviceCeilings> MeasureDeviceCeilings(size_t memory_bytes, Backend& backend);

}  // namespace treeline

#endif  // TREELINE_ENGINE_BENCH_MACHINE_H_
