#include "kernels/cpu/matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/float_types.h"
#include "kernels/reference/ops.h"

namespace treeline {
namespace {

std::vector<float> RandomValues(size_t n, std::mt19937& rng) {
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& value : values) value = normal(rng);
  return values;
}

struct Shape {
  int32_t rows, n, k;
};

class MatMulTest : public testing::TestWithParam<Shape> {
 protected:
  // A matrix and the values it holds after rounding.
  cpu::PackedMatrix Pack(WeightType type, std::vector<float>& weight) {
    const auto [rows, n, k] = GetParam();
    if (type == WeightType::kBF16) {
      for (float& w : weight) w = Bf16ToFloat(FloatToBf16(w));
    }
    cpu::PackedMatrix matrix(type, n, k);
    for (int32_t row = 0; row < n; ++row) {
      matrix.SetRow(row, std::span<const float>(weight).subspan(size_t(row) * k, k));
    }
    return matrix;
  }
};

TEST_P(MatMulTest, MatchesTheReference) {
  const auto [rows, n, k] = GetParam();
  std::mt19937 rng(n + k);
  ThreadPool pool(2);
  for (const auto type : {WeightType::kF32, WeightType::kBF16}) {
    for (const bool accumulate : {false, true}) {
      std::vector<float> weight = RandomValues(size_t(n) * k, rng);
      const cpu::PackedMatrix matrix = Pack(type, weight);
      const std::vector<float> x = RandomValues(size_t(rows) * k, rng);
      std::vector<float> actual = RandomValues(size_t(rows) * n, rng), expected = actual;
      cpu::MatMul({x.data(), actual.data(), rows, accumulate}, matrix, pool);
      reference::MatMul({x.data(), expected.data(), rows, accumulate}, weight.data(), n, k);
      // One chain of k additions of terms of variance 1.
      const double tolerance = 1e-6 * k;
      for (size_t i = 0; i < actual.size(); ++i) {
        ASSERT_NEAR(actual[i], expected[i], tolerance) << "element " << i;
      }
    }
  }
}

TEST_P(MatMulTest, ARowsBitsDependOnThatRowAlone) {
  const auto [rows, n, k] = GetParam();
  std::mt19937 rng(n + k);
  std::vector<float> weight = RandomValues(size_t(n) * k, rng);
  const cpu::PackedMatrix matrix = Pack(WeightType::kBF16, weight);
  const std::vector<float> x = RandomValues(size_t(rows) * k, rng);
  std::vector<float> together(size_t(rows) * n), alone(n);
  ThreadPool many(3), one(1);
  cpu::MatMul({x.data(), together.data(), rows, false}, matrix, many);
  for (int32_t row = 0; row < rows; ++row) {
    cpu::MatMul({x.data() + size_t(row) * k, alone.data(), 1, false}, matrix, one);
    const std::vector<float> same_row(together.begin() + size_t(row) * n,
                                      together.begin() + size_t(row + 1) * n);
    ASSERT_EQ(alone, same_row) << "row " << row;
  }
}

TEST_P(MatMulTest, RowsReadBackAsStored) {
  const auto [rows, n, k] = GetParam();
  std::mt19937 rng(n);
  for (const auto type : {WeightType::kF32, WeightType::kBF16}) {
    std::vector<float> weight = RandomValues(size_t(n) * k, rng);
    const cpu::PackedMatrix matrix = Pack(type, weight);
    std::vector<float> row(k);
    for (const int32_t i : {0, n / 2, n - 1}) {
      matrix.GetRow(i, row);
      EXPECT_EQ(row, std::vector<float>(weight.begin() + size_t(i) * k,
                                        weight.begin() + size_t(i + 1) * k));
    }
  }
}

// Odd sizes on every side of the tiles and panels.
INSTANTIATE_TEST_SUITE_P(Shapes, MatMulTest,
                         testing::Values(Shape{1, 1, 1}, Shape{1, 31, 7}, Shape{2, 33, 8},
                                         Shape{5, 64, 17}, Shape{13, 100, 64}, Shape{64, 65, 48},
                                         Shape{97, 96, 33}, Shape{200, 40, 5}));

}  // namespace
}  // namespace treeline
