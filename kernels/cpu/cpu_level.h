// How much of the CPU the kernels use: everything it has, unless a test wants to see what
// a lesser one would compute.
#ifndef TREELINE_KERNELS_CPU_CPU_LEVEL_H_
#define TREELINE_KERNELS_CPU_CPU_LEVEL_H_

#include <string>

namespace treeline::cpu {

// Each includes those before it.
enum class CpuLevel {
  kPortable,  // What every CPU of the architecture has.
  kAvx2,      // With FMA and half-precision conversions.
  kAvxVnni,   // AVX2 and 8-bit dot products.
  kAvx512,
  kAvx512Dot,  // AVX-512 and its 8-bit and bf16 dot products.
  kAmx,
};

// From now on no kernel uses more. To be called before any kernel runs.
void LimitCpuLevel(CpuLevel level);

// True unless LimitCpuLevel forbids it; what the CPU has is not looked at.
bool MayUse(CpuLevel level);

// The instruction set in use: "AVX3" (AVX-512), "AVX2", ...
std::string TargetName();

}  // namespace treeline::cpu

#endif  // TREELINE_KERNELS_CPU_CPU_LEVEL_H_
