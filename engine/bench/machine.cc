#include "engine/bench/machine.h"

#include <algorithm>
#include <new>
#include <vector>

#include "kernels/bench/ceilings.h"

namespace treeline {
namespace {

constexpr int kRuns = 5;

// The best rate of `kRuns` calls of run(), which returns how much it did.
template <typename Run>
double BestRate(const Clock& clock, const Run& run) {
  double best = 0;
  for (int i = 0; i < kRuns; ++i) {
    const TimePoint start = clock.Now();
    const double amount = run();
    best = std::max(best, amount / ToSeconds(clock.Now() - start));
  }
  return best;
}

}  // namespace

StatusOr<MachineCeilings> MeasureCeilings(size_t memory_bytes, const Clock& clock,
                                          ThreadPool& pool) {
  std::vector<float> data;
  try {
    data.assign(memory_bytes / sizeof(float), 1.0f);
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("cannot allocate {} MiB to measure memory with", memory_bytes >> 20);
  }
  MachineCeilings ceilings;
  ceilings.memory_bytes_per_second = BestRate(clock, [&] {
    ReadMemory(data, pool);
    return static_cast<double>(memory_bytes);
  });
  ceilings.fp32_operations_per_second = BestRate(clock, [&] { return MultiplyAddRegisters(pool); });
  return ceilings;
}

}  // namespace treeline
