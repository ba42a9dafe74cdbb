#include "kernels/cpu/cpu_level.h"

#include <hwy/highway.h>

namespace treeline::cpu {
namespace {

CpuLevel limit = CpuLevel::kAmx;

}  // namespace

void LimitCpuLevel(CpuLevel level) {
  limit = level;
  int64_t disabled = 0;
  if (level < CpuLevel::kAvx512) disabled |= HWY_AVX3;
  if (level < CpuLevel::kAvx2) disabled |= HWY_AVX2;
  hwy::DisableTargets(disabled);
}

bool MayUse(CpuLevel level) { return level <= limit; }

std::string TargetName() {
  // Of the targets built and present, the best has the lowest bit.
  const int64_t targets = HWY_TARGETS & hwy::SupportedTargets();
  return hwy::TargetName(targets & -targets);
}

}  // namespace treeline::cpu
