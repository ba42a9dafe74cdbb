// The quantised formats of weights and activations, as definitions: what every
// kernel computes with. Integers are exact and scales are applied in one order, so a
// quantised product has the same bits on every machine with fused multiply-adds.
//
//   int8         32 values of a row of W are scale * codes, codes in [-127, 127], scale fp16.
//   int4         32 values of a row of W are minimum + scale * codes, codes in [0, 15], both fp16.
//   activations  meet either quantised like int8, with a fp32 scale for every token and 32 of its
//                values: one scale a token would let its few large values drown the others.
#ifndef TREELINE_KERNELS_QUANTIZATION_H_
#define TREELINE_KERNELS_QUANTIZATION_H_

#include <array>
#include <cstdint>
#include <span>

namespace treeline {

// Values that share a scale.
inline constexpr int32_t kQuantGroup = 32;

// Below this, activations are as good as zero, and 127 over them would not be finite.
inline constexpr float kSmallestActivation = 1e-30f;

// Of activations: fills codes and returns the scale, max |x| / 127; 0 where all are below
// kSmallestActivation. What is not finite gives scale NaN, so that its products show it.
float QuantizeActivations(std::span<const float> x, int8_t* codes);

struct Int8Group {
  uint16_t scale = 0;  // fp16
  std::array<int8_t, kQuantGroup> codes = {};

  float Value(int32_t i) const;
};

// Rounds up to kQuantGroup values to multiples of one scale. Values that are not finite, or whose
// scale fp16 cannot hold, make a group that is not finite.
Int8Group QuantizeInt8(std::span<const float> x);

struct Int4Group {
  uint16_t scale = 0, minimum = 0;  // fp16
  std::array<uint8_t, kQuantGroup> codes = {};

  float Value(int32_t i) const;
};

// Rounds up to kQuantGroup values to the nearest that a group can hold; the scale and minimum
// are those of least squared error among a few ranges tried. Not finite where x is not, as above.
Int4Group QuantizeInt4(std::span<const float> x);

}  // namespace treeline

#endif  // TREELINE_KERNELS_QUANTIZATION_H_
