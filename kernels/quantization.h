// The quantised formats of weights and activations, as definitions: what every
// kernel computes with. Integers are exact and scales are applied in one order, so a
// quantised product has the same bits on every machine with fused multiply-adds.
//
//   int8  a row of W [k] is scale * codes, codes in [-127, 127], one fp32 scale a row.
//   int4  32 values of a row are minimum + scale * codes, codes in [0, 15], both fp16.
//   Activations that meet either are quantised like int8 rows, for every token and block of 32 of
//   its values: one scale a token would let its few large values drown the others.
#ifndef TREELINE_KERNELS_QUANTIZATION_H_
#define TREELINE_KERNELS_QUANTIZATION_H_

#include <array>
#include <cstdint>
#include <span>

namespace treeline {

// Fills codes and returns the scale: max |x| / 127. Zeros have scale 0. A row that is not finite
// has scale NaN, so that its products show it.
float QuantizeInt8(std::span<const float> x, int8_t* codes);

inline constexpr int32_t kActivationBlock = 32;

inline constexpr int32_t kInt4Group = 32;
static_assert(kActivationBlock % kInt4Group == 0);

struct Int4Group {
  uint16_t scale = 0, minimum = 0;  // fp16
  std::array<uint8_t, kInt4Group> codes = {};

  float Value(int32_t i) const;
};

// Rounds up to kInt4Group values to the nearest that a group can hold; the scale and minimum
// are those of least squared error among a few ranges tried.
Int4Group QuantizeInt4(std::span<const float> x);

}  // namespace treeline

#endif  // TREELINE_KERNELS_QUANTIZATION_H_
