// Dense products y = x W^T on the CPU, with W repacked once at load.
//
// W [n, k] is stored in panels of kPanel output columns, k-major inside a panel, so
// that one pass over memory serves a single row (decode) and a register tile of
// rows x panel serves many (prefill). Every output is one chain of fused
// multiply-adds over k in order, whatever the tile: row-invariant by construction.
//
// Ladder: (1) dot products along k need a reduction per output and vary with
// unrolling; (2) this, panels + register tiles.
#ifndef TREELINE_KERNELS_CPU_MATMUL_H_
#define TREELINE_KERNELS_CPU_MATMUL_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cpu/thread_pool.h"
#include "kernels/params.h"

namespace treeline::cpu {

class PackedMatrix {
 public:
  static constexpr int32_t kPanel = 32;

  // An [n, k] matrix of zeros.
  PackedMatrix(WeightType type, int32_t n, int32_t k);

  // Fills row `row` of W from k values, rounding to the matrix's type.
  void SetRow(int32_t row, std::span<const float> values);
  // Reads row `row` of W back: embedding lookup.
  void GetRow(int32_t row, std::span<float> values) const;

  WeightType type() const { return type_; }
  int32_t n() const { return n_; }
  int32_t k() const { return k_; }
  size_t bytes() const { return data_.size() * sizeof(data_[0]); }
  // Panel p: [k][kPanel] floats or bf16; columns past n are zero.
  const void* panel(int32_t p) const;

 private:
  size_t ElementOffset(int32_t row) const;  // Of W[row, 0], in elements.

  WeightType type_;
  int32_t n_, k_;
  // 64-byte units, so that panels are aligned to cache lines.
  struct alignas(64) CacheLine {
    std::byte bytes[64];
  };
  std::vector<CacheLine> data_;
};

// params.y: [rows, matrix.n()]; params.x: [rows, matrix.k()].
void MatMul(const MatMulParams& params, const PackedMatrix& matrix, ThreadPool& pool);

}  // namespace treeline::cpu

#endif  // TREELINE_KERNELS_CPU_MATMUL_H_
