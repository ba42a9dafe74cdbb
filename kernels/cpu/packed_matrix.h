// A weight matrix W [n, k] laid out for products y = x W^T on the CPU.
//
// Panels of 32 output columns (rows of W), k-major inside a panel: one pass over
// memory serves a single row of x (decode) and a register tile of rows x panel serves
// many (prefill). A panel is made of rows of 32 32-bit words, a word being consecutive
// k of one column: 1 fp32, 2 bf16, 4 int8 or 8 int4. That is the order that dot-product
// instructions and matrix tiles of every x86 generation read.
#ifndef TREELINE_KERNELS_CPU_PACKED_MATRIX_H_
#define TREELINE_KERNELS_CPU_PACKED_MATRIX_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "kernels/cpu/panel.h"
#include "kernels/cpu/weight_arena.h"
#include "kernels/params.h"

namespace treeline::cpu {

class PackedMatrix {
 public:
  // An [n, k] matrix of zeros. Throws std::bad_alloc.
  PackedMatrix(WeightType type, int32_t n, int32_t k, WeightArena& arena);

  // Fills row `row` of W from k values, rounding to the matrix's type. Rows of different panels
  // may be set by different threads.
  void SetRow(int32_t row, std::span<const float> values);
  // Reads row `row` of W back: embedding lookup.
  void GetRow(int32_t row, std::span<float> values) const;

  WeightType type() const { return type_; }
  int32_t n() const { return n_; }
  int32_t k() const { return k_; }
  size_t bytes() const { return num_panels() * panel_bytes_; }
  int32_t num_panels() const { return (n_ + kPanelColumns - 1) / kPanelColumns; }
  // Panel p as kernels/cpu/panel.h lays it out; columns past n are zero.
  const std::byte* panel(int32_t p) const;

 private:
  std::byte* panel_of(int32_t row);

  WeightType type_;
  int32_t n_, k_;
  size_t panel_bytes_;
  std::shared_ptr<std::byte> data_;  // Panels are whole cache lines, aligned.
};

}  // namespace treeline::cpu

#endif  // TREELINE_KERNELS_CPU_PACKED_MATRIX_H_
