// Dense products on the GPU: weights as fp32 or bf16, activations fp32 in memory, sums in fp32.
// Where weights are bf16, activations are rounded to bf16 first, however many rows there are.
//
// Products of few rows, bound by reading the weights, are ours (few_rows.h, then weight_stream.h).
// The others are cuBLASLt's, which is looked for when the first DenseProducts is made: the program
// itself does not need it.
#ifndef TREELINE_KERNELS_CUDA_MATMUL_H_
#define TREELINE_KERNELS_CUDA_MATMUL_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "kernels/cuda/device_matrix.h"
#include "kernels/cuda/stream.h"
#include "kernels/params.h"

namespace treeline::cuda {

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
