#include "kernels/quantization.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/float_types.h"

namespace treeline {
namespace {

TEST(QuantizeActivations, IsWithinHalfAStepOfEveryValue) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(1000);
  for (float& value : x) value = normal(rng);
  x[17] = -5;  // The largest.
  std::vector<int8_t> codes(x.size());
  const float scale = QuantizeActivations(x, codes.data());
  EXPECT_FLOAT_EQ(scale, 5.0f / 127);
  EXPECT_EQ(codes[17], -127);
  for (size_t i = 0; i < x.size(); ++i) {
    EXPECT_NEAR(scale * codes[i], x[i], 0.5001f * scale) << i;
  }
}

TEST(QuantizeActivations, RoundsTiesToEven) {
  const std::vector<float> x = {127, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f};
  std::vector<int8_t> codes(x.size());
  EXPECT_EQ(QuantizeActivations(x, codes.data()), 1.0f);
  EXPECT_EQ(codes, (std::vector<int8_t>{127, 0, 2, 2, 0, -2}));
}

TEST(QuantizeActivations, ZerosAndRowsThatAreNotFinite) {
  std::vector<int8_t> codes(3, 1);
  EXPECT_EQ(QuantizeActivations(std::vector<float>{0, 0, 0}, codes.data()), 0.0f);
  EXPECT_EQ(codes, std::vector<int8_t>(3, 0));
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(std::isnan(QuantizeActivations(std::vector<float>{0, infinity, 1}, codes.data())));
  EXPECT_TRUE(
      std::isnan(QuantizeActivations(std::vector<float>{std::nanf(""), 1, 1}, codes.data())));
}

TEST(QuantizeInt8, IsWithinHalfAStepOfEveryValue) {
  std::mt19937 rng(3);
  std::normal_distribution<float> normal;
  for (const float magnitude : {1.0f, 1e-3f, 100.0f}) {
    std::vector<float> x(kQuantGroup);
    float largest = 0;
    for (float& value : x) {
      value = magnitude * normal(rng);
      largest = std::max(largest, std::abs(value));
    }
    const Int8Group group = QuantizeInt8(x);
    // A scale that fp16 rounds down leaves the largest value up to half a code outside.
    const float scale = F16ToFloat(group.scale);
    EXPECT_NEAR(scale, largest / 127, largest / 127 * 0x1p-10f + 0x1p-25f);
    for (int32_t i = 0; i < kQuantGroup; ++i) {
      EXPECT_NEAR(group.Value(i), x[i], 0.5f * scale + largest * 0x1p-8f) << i;
    }
  }
}

TEST(QuantizeInt8, AShortGroupAndOneTooSmallForItsScale) {
  EXPECT_NEAR(QuantizeInt8(std::vector<float>{-2}).Value(0), -2, 1e-3);
  EXPECT_EQ(QuantizeInt8(std::vector<float>{1e-9f, -1e-9f}).Value(1), 0.0f);
}

TEST(QuantizeInt4, ValuesOnAGridComeBack) {
  std::vector<float> x(kQuantGroup);
  for (int32_t i = 0; i < kQuantGroup; ++i) x[i] = -0.75f + 0.125f * static_cast<float>(i % 16);
  const Int4Group group = QuantizeInt4(x);
  for (int32_t i = 0; i < kQuantGroup; ++i) EXPECT_EQ(group.Value(i), x[i]) << i;
}

TEST(QuantizeInt4, IsNoWorseThanSixteenEqualSteps) {
  std::mt19937 rng(2);
  std::normal_distribution<float> normal;
  for (int trial = 0; trial < 100; ++trial) {
    std::vector<float> x(kQuantGroup);
    for (float& value : x) value = normal(rng);
    const auto [low, high] = std::minmax_element(x.begin(), x.end());
    const float minimum = F16ToFloat(FloatToF16(*low));
    const float step = F16ToFloat(FloatToF16((*high - *low) / 15));
    const Int4Group group = QuantizeInt4(x);
    double error = 0, plain_error = 0;
    for (int32_t i = 0; i < kQuantGroup; ++i) {
      const float plain =
          minimum + step * std::nearbyint(std::clamp((x[i] - minimum) / step, 0.0f, 15.0f));
      error += std::pow(group.Value(i) - x[i], 2);
      plain_error += std::pow(plain - x[i], 2);
    }
    EXPECT_LE(error, plain_error * (1 + 1e-6));
  }
}

TEST(QuantizeInt4, EqualValuesAndShortGroups) {
  const Int4Group constant = QuantizeInt4(std::vector<float>(kQuantGroup, 0.5f));
  for (int32_t i = 0; i < kQuantGroup; ++i) EXPECT_EQ(constant.Value(i), 0.5f);
  const Int4Group single = QuantizeInt4(std::vector<float>{-2});
  EXPECT_EQ(single.Value(0), -2.0f);
}

TEST(QuantizeWeights, WhatIsNotFiniteStaysSo) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {infinity, -infinity, std::nanf("")}) {
    const std::vector<float> x = {1, bad, 2};
    EXPECT_FALSE(std::isfinite(QuantizeInt8(x).Value(0)));
    EXPECT_FALSE(std::isfinite(QuantizeInt4(x).Value(0)));
  }
  EXPECT_FALSE(std::isfinite(QuantizeInt8(std::vector<float>{1e30f}).Value(0)));
  EXPECT_FALSE(std::isfinite(QuantizeInt4(std::vector<float>{1e30f, 0}).Value(0)));
}

}  // namespace
}  // namespace treeline
