// The kernels that can multiply by a panel of weights, one for each arithmetic and
// instruction set. A kernel computes every output by one chain over k in order, whatever
// the other rows of x: row-invariant by construction. The int8 kernels do the same integer
// arithmetic and, with fused multiply-adds, give the same bits.
#ifndef TREELINE_KERNELS_CPU_MATMUL_KERNEL_H_
#define TREELINE_KERNELS_CPU_MATMUL_KERNEL_H_

#include <string>
#include <vector>

#include "kernels/cpu/cpu_level.h"
#include "kernels/cpu/panel.h"
#include "kernels/params.h"

namespace treeline::cpu {

// What x is converted to before it meets the weights.
enum class ActivationType { kF32, kBF16, kInt8 };

struct MatMulKernel {
  using Run = void (*)(const PanelProduct& product);

  // "fp32", "bf16-avx512", "int8-avx512vnni": the arithmetic, then what it needs of the CPU.
  const char* name;
  ActivationType activations;
  CpuLevel level;
  bool (*is_supported)();  // By the CPU, whatever MayUse() says.
  // By WeightType; null where the kernel does not take that type.
  Run run[4];

  bool Takes(WeightType type) const { return run[static_cast<int>(type)] != nullptr; }
};

// The kernels that this CPU supports and that take weights of `type`; the portable one first.
std::vector<const MatMulKernel*> MatMulKernels(WeightType type);

// Of one instruction set each; is_supported() tells whether it may be run here.
extern const MatMulKernel kFp32Kernel;
extern const MatMulKernel kInt8Kernel;  // Any CPU.
#if defined(__x86_64__)
extern const MatMulKernel kInt8AvxVnniKernel;
extern const MatMulKernel kInt8Avx512VnniKernel;
extern const MatMulKernel kBf16Avx512Kernel;
extern const MatMulKernel kInt8AmxKernel;
extern const MatMulKernel kBf16AmxKernel;
#endif

}  // namespace treeline::cpu

#endif  // TREELINE_KERNELS_CPU_MATMUL_KERNEL_H_
