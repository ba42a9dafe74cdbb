#include "kernels/quantization.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/float_types.h"

namespace treeline {
namespace {

constexpr float kMaxCode = 15;
constexpr uint16_t kF16Nan = 0x7e00;
constexpr float kLargestInt4 = 32768;  // Minima beside it are still finite in fp16.

bool IsFinite(std::span<const float> x) {
  return std::all_of(x.begin(), x.end(), [](float value) { return std::isfinite(value); });
}

float Largest(std::span<const float> x) {
  float largest = 0;
  for (const float value : x) largest = std::max(largest, std::abs(value));
  return largest;
}

// The nearest codes for a given range.
double Round(std::span<const float> x, float minimum, float scale, Int4Group& group) {
  group.scale = FloatToF16(scale);
  group.minimum = FloatToF16(minimum);
  const float s = F16ToFloat(group.scale), m = F16ToFloat(group.minimum);
  const float inverse = s > 0 ? 1 / s : 0;
  double error = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const float code = std::nearbyint(std::clamp((x[i] - m) * inverse, 0.0f, kMaxCode));
    group.codes[i] = static_cast<uint8_t>(code);
    const double difference = x[i] - (m + s * code);
    error += difference * difference;
  }
  return error;
}

// Minimum and scale of least squares for the codes that a group has.
void Fit(std::span<const float> x, const Int4Group& group, float& minimum, float& scale) {
  const double n = static_cast<double>(x.size());
  double codes = 0, squares = 0, values = 0, products = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double code = group.codes[i];
    codes += code;
    squares += code * code;
    values += x[i];
    products += code * x[i];
  }
  const double determinant = n * squares - codes * codes;
  if (determinant <= 0) return;  // All codes are equal: any scale fits.
  scale = static_cast<float>((n * products - codes * values) / determinant);
  minimum = static_cast<float>((values - scale * codes) / n);
}

}  // namespace

float QuantizeActivations(std::span<const float> x, int8_t* codes) {
  const float largest = Largest(x);
  if (!IsFinite(x) || largest < kSmallestActivation) {
    std::fill_n(codes, x.size(), int8_t{0});
    return IsFinite(x) ? 0.0f : std::numeric_limits<float>::quiet_NaN();
  }
  const float inverse = 127.0f / largest;
  for (size_t i = 0; i < x.size(); ++i) {
    codes[i] = static_cast<int8_t>(std::nearbyint(x[i] * inverse));
  }
  return largest * (1.0f / 127);
}

float Int8Group::Value(int32_t i) const { return F16ToFloat(scale) * static_cast<float>(codes[i]); }

Int8Group QuantizeInt8(std::span<const float> x) {
  Int8Group group;
  if (!IsFinite(x)) {
    group.scale = kF16Nan;
    return group;
  }
  group.scale = FloatToF16(Largest(x) / 127.0f);
  // Codes go with the scale as it is stored: its rounding costs nothing.
  const float scale = F16ToFloat(group.scale), inverse = scale > 0 ? 1 / scale : 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const float code = std::nearbyint(std::clamp(x[i] * inverse, -127.0f, 127.0f));
    group.codes[i] = static_cast<int8_t>(code);
  }
  return group;
}

float Int4Group::Value(int32_t i) const {
  return std::fma(F16ToFloat(scale), static_cast<float>(codes[i]), F16ToFloat(minimum));
}

Int4Group QuantizeInt4(std::span<const float> x) {
  Int4Group best, tried;
  if (!IsFinite(x) || Largest(x) > kLargestInt4) {
    best.scale = best.minimum = kF16Nan;
    return best;
  }
  const auto [low, high] = std::minmax_element(x.begin(), x.end());
  double best_error = std::numeric_limits<double>::infinity();
  // Giving up a little of the range makes every step finer.
  for (const float shrink : {1.0f, 0.95f, 0.9f, 0.85f}) {
    const float middle = 0.5f * (*low + *high);
    float minimum = middle + shrink * (*low - middle);
    float scale = shrink * (*high - *low) / kMaxCode;
    for (int pass = 0; pass < 2; ++pass) {
      const double error = Round(x, minimum, scale, tried);
      if (error < best_error) {
        best_error = error;
        best = tried;
      }
      Fit(x, tried, minimum, scale);
    }
    if (best_error == 0) break;
  }
  return best;
}

}  // namespace treeline
