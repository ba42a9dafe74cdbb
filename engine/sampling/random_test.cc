#include "engine/sampling/random.h"

#include <gtest/gtest.h>

#include <set>

namespace treeline {
namespace {

using Block = std::array<uint32_t, 4>;

// The known answers that Random123 publishes for philox4x32 with 10 rounds.
TEST(PhiloxTest, GivesThePublishedAnswers) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(Philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(UniformTest, IsAFunctionOfEveryPartOfTheKey) {
  const RandomKey key{.seed = 7, .choice = 1, .position = 20};
  EXPECT_EQ(Uniform(key, 0), Uniform(key, 0));
  const std::set<double> draws = {
      Uniform(key, 0),
      Uniform(key, 1),
      Uniform({.seed = 8, .choice = 1, .position = 20}, 0),
      Uniform({.seed = 7 + (uint64_t{1} << 32), .choice = 1, .position = 20}, 0),
      Uniform({.seed = 7, .choice = 2, .position = 20}, 0),
      Uniform({.seed = 7, .choice = 1, .position = 21}, 0),
      Uniform({.seed = 7, .choice = 20, .position = 1}, 0),
  };
  EXPECT_EQ(draws.size(), 7u);
}

TEST(UniformTest, FillsTheOpenUnitIntervalEvenly) {
  constexpr int kDraws = 100'000;
  constexpr int kBins = 100;
  std::array<int, kBins> counts{};
  for (uint32_t position = 0; position < kDraws; ++position) {
    const double u = Uniform({.seed = 3, .choice = 0, .position = position}, 0);
    ASSERT_GT(u, 0);
    ASSERT_LT(u, 1);
    ++counts[static_cast<int>(u * kBins)];
  }
  double chi_square = 0;
  for (const int count : counts) {
    const double expected = double{kDraws} / kBins;
    chi_square += (count - expected) * (count - expected) / expected;
  }
  EXPECT_LT(chi_square, 148.2);  // 99 degrees of freedom, p = 0.001.
}

}  // namespace
}  // namespace treeline
