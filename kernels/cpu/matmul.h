// Dense products y = x W^T on the CPU: rows of x are converted to what a kernel takes, then
// blocks of rows meet panels of W on all threads.
#ifndef TREELINE_KERNELS_CPU_MATMUL_H_
#define TREELINE_KERNELS_CPU_MATMUL_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/aligned_buffer.h"
#include "kernels/cpu/matmul_kernel.h"
#include "kernels/cpu/packed_matrix.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/params.h"

namespace treeline::cpu {

// Memory for converted activations, reused from call to call.
struct MatMulWorkspace {
  AlignedBuffer<std::byte> x;
  AlignedBuffer<float> normed, scales, sums;
  AlignedBuffer<int32_t> zeros;
};

// params.y: [rows, matrix.n()]; params.x: [rows, matrix.k()].
// REQUIRES: the kernel is supported here and takes the matrix's type.
void MatMul(const MatMulParams& params, const PackedMatrix& matrix, const MatMulKernel& kernel,
            MatMulWorkspace& workspace, ThreadPool& pool);

// params.y: [rows, gate.n()]; params.x: [rows, gate.k()]. gate and up have one shape.
void GatedMatMul(const GatedMatMulParams& params, const PackedMatrix& gate, const PackedMatrix& up,
                 const MatMulKernel& kernel, MatMulWorkspace& workspace, ThreadPool& pool);

}  // namespace treeline::cpu

#endif  // TREELINE_KERNELS_CPU_MATMUL_H_
