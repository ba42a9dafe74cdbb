#include "kernels/float_types.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>

namespace treeline {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(F16ToFloat, KnownPatterns) {
  const struct {
    uint16_t bits;
    float value;
  } kCases[] = {
      {0x0000, 0.0f},      {0x3c00, 1.0f},      {0xc000, -2.0f},      {0x3555, 0x1.554p-2f},
      {0x7bff, 65504.0f},  {0x0400, 0x1p-14f},  {0x0001, 0x1p-24f},   {0x03ff, 0x1.ff8p-15f},
      {0x8001, -0x1p-24f}, {0x7c00, kInfinity}, {0xfc00, -kInfinity},
  };
  for (const auto& c : kCases) EXPECT_EQ(F16ToFloat(c.bits), c.value) << c.bits;
  EXPECT_TRUE(std::signbit(F16ToFloat(0x8000)));
  EXPECT_TRUE(std::isnan(F16ToFloat(0x7e00)));
  EXPECT_TRUE(std::isnan(F16ToFloat(0x7c01)));
}

// FNV-1a over the little-endian fp32 bytes of all 65,536 values in order, every NaN as
// 0x7fc00000, of numpy's arange(65536, dtype=uint16).view(float16).astype(float32).
TEST(F16ToFloat, AllPatternsAgreeWithNumpy) {
  uint64_t hash = 0xcbf29ce484222325;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = F16ToFloat(static_cast<uint16_t>(bits));
    const uint32_t word = std::isnan(value) ? 0x7fc00000u : std::bit_cast<uint32_t>(value);
    for (int shift = 0; shift < 32; shift += 8) {
      hash = (hash ^ ((word >> shift) & 0xff)) * 0x100000001b3;
    }
  }
  EXPECT_EQ(hash, 0x1f87f165810ea7c5u);
}

TEST(Bf16, KnownPatterns) {
  const struct {
    uint32_t float_bits;
    uint16_t bf16_bits;
  } kCases[] = {
      {0x00000000, 0x0000}, {0x80000000, 0x8000},
      {0x3f800000, 0x3f80}, {0x3f808000, 0x3f80},  // A tie goes to even: down,
      {0x3f818000, 0x3f82},                        // and up.
      {0x3f808001, 0x3f81}, {0x3f807fff, 0x3f80},
      {0xbf818000, 0xbf82}, {0x00000001, 0x0000},
      {0x00010000, 0x0001},                        // Subnormals.
      {0x7f7f7fff, 0x7f7f}, {0x7f7fffff, 0x7f80},  // The largest fp32 rounds to infinity.
      {0x7f800000, 0x7f80}, {0xff800000, 0xff80},
      {0x7f800001, 0x7fc0},  // A NaN whose payload lies in the lower half only.
      {0xffffffff, 0xffff},
  };
  for (const auto& c : kCases) {
    EXPECT_EQ(FloatToBf16(std::bit_cast<float>(c.float_bits)), c.bf16_bits)
        << std::hex << c.float_bits;
  }
}

TEST(Bf16, EveryPatternSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = Bf16ToFloat(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(Bf16ToFloat(FloatToBf16(value)))) << bits;
    } else {
      EXPECT_EQ(FloatToBf16(value), bits);
    }
  }
}

TEST(Bf16, RoundsToTheNearest) {
  std::mt19937 random(1);
  for (int i = 0; i < 100'000; ++i) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(random()));
    if (!std::isfinite(value)) continue;
    const uint16_t rounded = FloatToBf16(value);
    const double error = std::abs(static_cast<double>(Bf16ToFloat(rounded)) - value);
    if (std::isinf(error)) continue;  // Overflow: KnownPatterns.
    for (const int step : {-1, 1}) {
      const double neighbour = Bf16ToFloat(static_cast<uint16_t>(rounded + step));
      // Not <: the neighbour of zero may be a NaN of the other sign, which is no nearer.
      EXPECT_FALSE(std::abs(neighbour - value) < error) << value;
    }
  }
}

// Every fp16 value comes back, and what lies between two neighbours goes to the nearer, ties to
// the even one.
TEST(FloatToF16, RoundsToTheNearestOfAllValues) {
  for (uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const float value = F16ToFloat(static_cast<uint16_t>(bits));
    ASSERT_EQ(FloatToF16(value), bits);
    ASSERT_EQ(FloatToF16(-value), bits | 0x8000u);
    const float next = bits + 1 < 0x7c00 ? F16ToFloat(static_cast<uint16_t>(bits + 1)) : 65536.0f;
    const float middle = 0.5f * value + 0.5f * next;  // Exact in fp32.
    ASSERT_EQ(FloatToF16(std::nextafter(middle, 0.0f)), bits);
    ASSERT_EQ(FloatToF16(std::nextafter(middle, 1e9f)), bits + 1);
    ASSERT_EQ(FloatToF16(middle), bits + (bits & 1));
  }
  EXPECT_EQ(FloatToF16(std::numeric_limits<float>::infinity()), 0x7c00);
  EXPECT_EQ(FloatToF16(1e30f), 0x7c00);
  EXPECT_TRUE(std::isnan(F16ToFloat(FloatToF16(std::nanf("")))));
}

}  // namespace
}  // namespace treeline
