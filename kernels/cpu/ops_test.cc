#include "kernels/cpu/ops.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/reference/ops.h"

namespace treeline {
namespace {

std::vector<float> RandomValues(size_t n, std::mt19937& rng, float scale = 1.0f) {
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& value : values) value = scale * normal(rng);
  return values;
}

// Odd dimensions leave a rest after whole vectors; odd row counts, after whole tasks.
constexpr int32_t kDims[] = {1, 7, 16, 33, 576};
constexpr int32_t kRows[] = {1, 9, 20};

TEST(RmsNorm, MatchesTheReference) {
  std::mt19937 rng(1);
  ThreadPool pool(2);
  for (const int32_t dim : kDims) {
    for (const int32_t rows : kRows) {
      const auto x = RandomValues(size_t(rows) * dim, rng, 3.0f), weight = RandomValues(dim, rng);
      std::vector<float> actual(x.size()), expected(x.size());
      cpu::RmsNorm({x.data(), weight.data(), actual.data(), rows, dim, 1e-5f}, pool);
      reference::RmsNorm({x.data(), weight.data(), expected.data(), rows, dim, 1e-5f});
      for (size_t i = 0; i < x.size(); ++i) {
        ASSERT_NEAR(actual[i], expected[i], 2e-6 * (1 + std::abs(expected[i])));
      }
    }
  }
}

class RopeTest : public testing::TestWithParam<int32_t> {};

TEST_P(RopeTest, MatchesTheReferenceFarIntoAContext) {
  std::mt19937 rng(3);
  ThreadPool pool(2);
  const int32_t kHeads = 3, kKvHeads = 2, kHeadDim = GetParam();
  const int32_t kStride = (kHeads + 2 * kKvHeads) * kHeadDim;
  std::vector<float> frequencies;
  for (int i = 0; i < kHeadDim / 2; ++i) {
    frequencies.push_back(std::pow(100000.0f, -2.0f * i / kHeadDim));
  }
  const std::vector<int32_t> positions = {0, 1, 2, 77, 4095, 8191, 100000, 5, 6};
  const auto original = RandomValues(positions.size() * kStride, rng);
  auto actual = original, expected = original;
  const int32_t rows = static_cast<int32_t>(positions.size());
  std::vector<float> angles(rows * kHeadDim), expected_angles = angles;
  cpu::RopeAngles({positions.data(), frequencies.data(), angles.data(), rows, kHeadDim, 1.0f},
                  pool);
  reference::RopeAngles(
      {positions.data(), frequencies.data(), expected_angles.data(), rows, kHeadDim, 1.0f});
  std::vector<float> kv(rows * 2 * kKvHeads * kHeadDim), expected_kv = kv;
  RopeQkvParams params{actual.data(), kv.data(), angles.data(), rows,
                       kHeads,        kKvHeads,  kHeadDim,      StateType::kF32};
  cpu::RopeQkv(params, pool);
  params.qkv = expected.data();
  params.kv = expected_kv.data();
  params.angles = expected_angles.data();
  reference::RopeQkv(params);
  for (size_t i = 0; i < actual.size(); ++i) ASSERT_NEAR(actual[i], expected[i], 1e-6);
  for (size_t i = 0; i < kv.size(); ++i) ASSERT_NEAR(kv[i], expected_kv[i], 1e-6);
  // Position 0 turns nothing.
  for (int i = 0; i < kStride; ++i) EXPECT_EQ(actual[i], original[i]);
  for (int i = 0; i < 2 * kKvHeads * kHeadDim; ++i) {
    EXPECT_EQ(kv[i], original[kHeads * kHeadDim + i]);
  }
  // What a bf16 state takes.
  auto rounded = kv;
  cpu::RoundToBf16(rounded);
  auto again = original;
  params = {again.data(), kv.data(), angles.data(), rows,
            kHeads,       kKvHeads,  kHeadDim,      StateType::kBF16};
  cpu::RopeQkv(params, pool);
  EXPECT_EQ(kv, rounded);
}

// Halves shorter than a vector, of whole vectors, and with a rest.
INSTANTIATE_TEST_SUITE_P(HeadDims, RopeTest, testing::Values(8, 16, 24, 64, 80));

TEST(Rope, ScalesWhatItRotates) {
  ThreadPool pool(1);
  const float frequency = 1.0f;
  const int32_t position = 2;
  std::vector<float> x = {3, 4, 0, 0, 0, 0}, kv(4), angles(2);
  cpu::RopeAngles({&position, &frequency, angles.data(), 1, 2, 1.25f}, pool);
  cpu::RopeQkv({x.data(), kv.data(), angles.data(), 1, 1, 1, 2, StateType::kF32}, pool);
  EXPECT_NEAR(x[0], 1.25 * (3 * std::cos(2.0) - 4 * std::sin(2.0)), 1e-6);
  EXPECT_NEAR(x[1], 1.25 * (4 * std::cos(2.0) + 3 * std::sin(2.0)), 1e-6);
}

TEST(AddBias, AddsTheVectorToEveryRow) {
  std::mt19937 rng(4);
  ThreadPool pool(2);
  for (const int32_t dim : kDims) {
    for (const int32_t rows : kRows) {
      const auto bias = RandomValues(dim, rng);
      auto actual = RandomValues(size_t(rows) * dim, rng);
      auto expected = actual;
      cpu::AddBias({actual.data(), bias.data(), rows, dim}, pool);
      reference::AddBias({expected.data(), bias.data(), rows, dim});
      ASSERT_EQ(actual, expected);
    }
  }
}

TEST(ResidualSilu, AddsEachHeadToItsRowOrToWhatIsItsOwn) {
  std::mt19937 rng(5);
  ThreadPool pool(2);
  for (const int32_t dim : kDims) {
    for (const int32_t rows : kRows) {
      constexpr int32_t kHeads = 3;
      const auto x = RandomValues(size_t(rows) * dim, rng);
      const auto bias = RandomValues(size_t(2) * kHeads * dim, rng);
      const auto gates = RandomValues(size_t(2) * rows * kHeads * dim, rng);
      std::vector<float> actual(size_t(rows) * kHeads * dim), expected(actual.size());
      for (const float* shared : {x.data(), static_cast<const float*>(nullptr)}) {
        ResidualSiluParams params{shared, gates.data(), bias.data(), actual.data(),
                                  rows,   kHeads,       dim};
        cpu::ResidualSilu(params, pool);
        params.y = expected.data();
        reference::ResidualSilu(params);
        for (size_t i = 0; i < actual.size(); ++i) ASSERT_NEAR(actual[i], expected[i], 2e-6) << i;
      }
    }
  }
}

}  // namespace
}  // namespace treeline
