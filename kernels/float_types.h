// Conversions between fp32 and the 16-bit floating types that checkpoints and rings are
// stored in, by bit pattern; a 16-bit value travels as uint16_t. Pure functions.
#ifndef TREELINE_KERNELS_FLOAT_TYPES_H_
#define TREELINE_KERNELS_FLOAT_TYPES_H_

#include <bit>
#include <cstdint>

namespace treeline {

// Exact: bf16 is the upper half of fp32.
inline float Bf16ToFloat(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

// Rounds to nearest, ties to even; what is too large becomes infinity, a NaN stays a (quiet) NaN.
inline uint16_t FloatToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  // Rounding could carry a NaN's payload away and leave infinity.
  if (is_nan) return static_cast<uint16_t>((bits >> 16) | 0x0040u);
  const uint32_t last_kept_bit = (bits >> 16) & 1;
  return static_cast<uint16_t>((bits + 0x7fffu + last_kept_bit) >> 16);
}

// Exact, subnormals, infinities and NaNs included.
inline float F16ToFloat(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1f;
  const uint32_t mantissa = bits & 0x3ff;
  uint32_t magnitude;
  if (exponent == 0) {  // Zero or subnormal: mantissa * 2^-24, normal in fp32.
    magnitude = std::bit_cast<uint32_t>(static_cast<float>(mantissa) * 0x1p-24f);
  } else if (exponent == 0x1f) {  // Infinity or NaN.
    magnitude = 0x7f800000u | mantissa << 13;
  } else {
    constexpr uint32_t kBiasDifference = 127 - 15;
    magnitude = (exponent + kBiasDifference) << 23 | mantissa << 13;
  }
  return std::bit_cast<float>(sign | magnitude);
}

// Rounds to nearest, ties to even, subnormals included; what is too large becomes infinity, a NaN
// stays a (quiet) NaN.
inline uint16_t FloatToF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // >= 65520.
  if (magnitude < 0x38800000u) {  // Below 2^-14: a multiple of 2^-24, which adding 0.5 rounds to.
    const float rounded = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(rounded) - 0x3f000000u));
  }
  const uint32_t last_kept_bit = (magnitude >> 13) & 1;
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + last_kept_bit) >> 13));
}

}  // namespace treeline

#endif  // TREELINE_KERNELS_FLOAT_TYPES_H_
