// What every row-wise operation computes: the obvious loops, in double. Fast
// kernels are tested against these; nothing else uses them.
#ifndef TREELINE_KERNELS_REFERENCE_OPS_H_
#define TREELINE_KERNELS_REFERENCE_OPS_H_

#include "kernels/params.h"

namespace treeline::reference {

void RmsNorm(const RmsNormParams& params);
void RopeAngles(const RopeAnglesParams& params);
void RopeQkv(const RopeQkvParams& params);
void AddBias(const AddBiasParams& params);
void ResidualSilu(const ResidualSiluParams& params);
// weight: [n, k].
void MatMul(const MatMulParams& params, const float* weight, int32_t n, int32_t k);
// gate, up: [n, k].
void GatedMatMul(const GatedMatMulParams& params, const float* gate, const float* up, int32_t n,
                 int32_t k);

}  // namespace treeline::reference

#endif  // TREELINE_KERNELS_REFERENCE_OPS_H_
