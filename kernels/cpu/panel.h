// What a panel kernel gets: a block of rows of x, one panel of W, and where y goes.
// Plain data: kernels compiled for one instruction set use no inline function of others.
#ifndef TREELINE_KERNELS_CPU_PANEL_H_
#define TREELINE_KERNELS_CPU_PANEL_H_

#include <cstdint>

#include "kernels/quantization.h"

// After a lambda's parameters or before a function's name: its body is compiled where it is called.
#define KERNEL_INLINE __attribute__((always_inline))

namespace treeline::cpu {

// Output columns of a panel.
inline constexpr int32_t kPanelColumns = 32;

// Panels, in rows of 32 words (see PackedMatrix):
//   fp32  k rows
//   bf16  ceil(k / 2) rows
//   int8  for each group of 32 k: 8 rows of codes + 128 (unsigned), then 32 fp16 scales
//   int4  for each group of 32 k: 4 rows of codes, then 32 fp16 scales and 32 fp16 minima.
//         Byte j of a word holds k = j in its low half and k = 4 + j in its high half.
inline constexpr int32_t kInt8ZeroPoint = 128;
inline constexpr int32_t kInt8GroupRows = kQuantGroup / 4;
inline constexpr int32_t kInt8GroupBytes = kInt8GroupRows * kPanelColumns * 4 + kPanelColumns * 2;
inline constexpr int32_t kInt4GroupRows = kQuantGroup / 8;
inline constexpr int32_t kInt4GroupBytes = kInt4GroupRows * kPanelColumns * 4 + kPanelColumns * 4;

// Converted rows of x take a multiple of this.
inline constexpr int32_t kActivationBytes = 64;

struct PanelProduct {
  // [rows], x_stride bytes apart: fp32; or bf16 or int8, padded with zeros to kActivationBytes.
  const void* x;
  int64_t x_stride;
  int32_t rows;
  int32_t k;
  // Of int8 activations, [groups, rows] with groups x_group_stride apart: scales, what takes the
  // zero point of int8 weights away again (-kInt8ZeroPoint * sum of codes), and sums of
  // scale * code.
  const float* x_scales;
  const int32_t* x_zeros;
  const float* x_sums;
  int64_t x_group_stride;
  const void* panel;
  float* y;  // [rows] of `columns` values, y_stride values apart.
  int64_t y_stride;
  int32_t columns;  // Of the panel's 32, those that exist.
  bool accumulate;  // Adds to y.
};

}  // namespace treeline::cpu

#endif  // TREELINE_KERNELS_CPU_PANEL_H_
