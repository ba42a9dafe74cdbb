// Dense products on the GPU: weights as fp32 or bf16, activations fp32 in memory, sums in fp32.
// Where weights are bf16, activations are rounded to bf16 first, however many rows there are.
//
// A step of few rows reads every weight once and is bound by that: a kernel of ours. The others
// are cuBLASLt's, which is looked for when the first DenseProducts is made: the program itself
// does not need it.
#ifndef TREELINE_KERNELS_CUDA_MATMUL_H_
#define TREELINE_KERNELS_CUDA_MATMUL_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "kernels/cuda/stream.h"
#include "kernels/params.h"

namespace treeline::cuda {

// W [n, k] in device memory, row-major. Not owned.
struct DeviceMatrix {
  WeightType type = WeightType::kBF16;  // Or kF32.
  int32_t n = 0;
  int32_t k = 0;
  const void* data = nullptr;
};

class DenseProducts {
 public:
  // `stream` must outlive this. Null, and `error` says why, where cuBLASLt is missing.
  static std::unique_ptr<DenseProducts> Create(Stream& stream, std::string& error);
  virtual ~DenseProducts() = default;

  virtual void MatMul(const MatMulParams& params, const DeviceMatrix& matrix) = 0;
  virtual void GatedMatMul(const GatedMatMulParams& params, const DeviceMatrix& gate,
                           const DeviceMatrix& up) = 0;
};

// y[i] = row token_ids[i] of table. token_ids is host memory; y: [token_ids.size(), k].
void Embed(const DeviceMatrix& table, std::span<const int32_t> token_ids, float* y, Stream& stream);

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_MATMUL_H_
