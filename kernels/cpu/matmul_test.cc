#include "kernels/cpu/matmul.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/float_types.h"
#include "kernels/quantization.h"
#include "kernels/reference/ops.h"

namespace treeline {
namespace {

constexpr WeightType kTypes[] = {WeightType::kF32, WeightType::kBF16, WeightType::kInt8,
                                 WeightType::kInt4};

std::vector<float> RandomValues(size_t n, std::mt19937& rng) {
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& value : values) value = normal(rng);
  return values;
}

template <class Function>
void ForEachGroup(std::span<float> row, const Function& function) {
  for (size_t begin = 0; begin < row.size(); begin += kQuantGroup) {
    function(row.subspan(begin, std::min<size_t>(kQuantGroup, row.size() - begin)));
  }
}

// What a row of k weights becomes when it is held as `type`: kernels/quantization.h.
void RoundWeights(WeightType type, std::span<float> row) {
  switch (type) {
    case WeightType::kF32:
      return;
    case WeightType::kBF16:
      for (float& w : row) w = Bf16ToFloat(FloatToBf16(w));
      return;
    case WeightType::kInt8:
      ForEachGroup(row, [](std::span<float> part) {
        const Int8Group group = QuantizeInt8(part);
        for (size_t i = 0; i < part.size(); ++i) part[i] = group.Value(static_cast<int32_t>(i));
      });
      return;
    case WeightType::kInt4:
      ForEachGroup(row, [](std::span<float> part) {
        const Int4Group group = QuantizeInt4(part);
        for (size_t i = 0; i < part.size(); ++i) part[i] = group.Value(static_cast<int32_t>(i));
      });
      return;
  }
}

void RoundActivations(cpu::ActivationType type, std::span<float> row) {
  if (type == cpu::ActivationType::kBF16) RoundWeights(WeightType::kBF16, row);
  if (type != cpu::ActivationType::kInt8) return;
  ForEachGroup(row, [](std::span<float> part) {
    std::vector<int8_t> codes(part.size());
    const float scale = QuantizeActivations(part, codes.data());
    for (size_t i = 0; i < part.size(); ++i) part[i] = scale * codes[i];
  });
}

struct Shape {
  int32_t rows, n, k;
};

class MatMulTest : public testing::TestWithParam<Shape> {
 protected:
  // A matrix of random weights, which become what it holds after rounding.
  cpu::PackedMatrix Pack(WeightType type, std::vector<float>& weight) {
    const auto [rows, n, k] = GetParam();
    cpu::PackedMatrix matrix(type, n, k, arena_);
    for (int32_t row = 0; row < n; ++row) {
      const auto values = std::span<float>(weight).subspan(size_t(row) * k, k);
      matrix.SetRow(row, values);
      RoundWeights(type, values);
    }
    return matrix;
  }

  std::vector<float> Run(const cpu::PackedMatrix& matrix, const cpu::MatMulKernel& kernel,
                         const std::vector<float>& x, std::vector<float> y, bool accumulate,
                         ThreadPool& pool) {
    const int32_t rows = static_cast<int32_t>(x.size()) / matrix.k();
    cpu::MatMul({x.data(), y.data(), rows, accumulate}, matrix, kernel, workspace_, pool);
    return y;
  }

  cpu::WeightArena arena_;
  cpu::MatMulWorkspace workspace_;
  ThreadPool pool_{2}, one_thread_{1}, three_threads_{3};
};

TEST_P(MatMulTest, EveryKernelMatchesTheReference) {
  const auto [rows, n, k] = GetParam();
  std::mt19937 rng(n + k);
  for (const WeightType type : kTypes) {
    std::vector<float> weight = RandomValues(size_t(n) * k, rng);
    const cpu::PackedMatrix matrix = Pack(type, weight);
    for (const cpu::MatMulKernel* kernel : cpu::MatMulKernels(type)) {
      SCOPED_TRACE(std::string(kernel->name) + ", type " + std::to_string(int(type)));
      const std::vector<float> x = RandomValues(size_t(rows) * k, rng);
      std::vector<float> rounded = x;
      for (int32_t row = 0; row < rows; ++row) {
        RoundActivations(kernel->activations,
                         std::span<float>(rounded).subspan(size_t(row) * k, k));
      }
      for (const bool accumulate : {false, true}) {
        std::vector<float> expected = RandomValues(size_t(rows) * n, rng);
        const std::vector<float> actual = Run(matrix, *kernel, x, expected, accumulate, pool_);
        reference::MatMul({rounded.data(), expected.data(), rows, accumulate}, weight.data(), n, k);
        // One chain of k additions of terms of variance 1.
        const double tolerance = 1e-6 * k + 1e-6;
        for (size_t i = 0; i < actual.size(); ++i) {
          ASSERT_NEAR(actual[i], expected[i], tolerance) << "element " << i;
        }
      }
    }
  }
}

TEST_P(MatMulTest, ARowsBitsDependOnThatRowAlone) {
  const auto [rows, n, k] = GetParam();
  std::mt19937 rng(n + k);
  for (const WeightType type : kTypes) {
    std::vector<float> weight = RandomValues(size_t(n) * k, rng);
    const cpu::PackedMatrix matrix = Pack(type, weight);
    const std::vector<float> x = RandomValues(size_t(rows) * k, rng);
    for (const cpu::MatMulKernel* kernel : cpu::MatMulKernels(type)) {
      const std::vector<float> together =
          Run(matrix, *kernel, x, std::vector<float>(size_t(rows) * n), false, three_threads_);
      for (int32_t row = 0; row < rows; ++row) {
        const std::vector<float> x_row(x.begin() + size_t(row) * k,
                                       x.begin() + size_t(row + 1) * k);
        const std::vector<float> alone =
            Run(matrix, *kernel, x_row, std::vector<float>(n), false, one_thread_);
        const std::vector<float> same_row(together.begin() + size_t(row) * n,
                                          together.begin() + size_t(row + 1) * n);
        ASSERT_EQ(alone, same_row) << kernel->name << ", row " << row;
      }
    }
  }
}

TEST_P(MatMulTest, TheGatedProductMatchesTheReference) {
  const auto [rows, n, k] = GetParam();
  std::mt19937 rng(n + k);
  std::vector<float> gate_weight = RandomValues(size_t(n) * k, rng);
  std::vector<float> up_weight = RandomValues(size_t(n) * k, rng);
  for (float& w : gate_weight) w /= std::sqrt(static_cast<float>(k));
  const cpu::PackedMatrix gate = Pack(WeightType::kF32, gate_weight);
  const cpu::PackedMatrix up = Pack(WeightType::kF32, up_weight);
  const std::vector<float> x = RandomValues(size_t(rows) * k, rng);
  std::vector<float> gate_bias = RandomValues(n, rng);
  const std::vector<float> up_bias = RandomValues(n, rng);
  gate_bias[0] = -200;  // silu of it is a tiny negative number, not NaN.
  for (const bool has_biases : {false, true}) {
    GatedMatMulParams params;
    params.x = x.data();
    params.rows = rows;
    if (has_biases) {
      params.gate_bias = gate_bias.data();
      params.up_bias = up_bias.data();
    }
    std::vector<float> actual(size_t(rows) * n), expected(size_t(rows) * n);
    params.y = actual.data();
    cpu::GatedMatMul(params, gate, up, cpu::kFp32Kernel, workspace_, pool_);
    params.y = expected.data();
    reference::GatedMatMul(params, gate_weight.data(), up_weight.data(), n, k);
    for (size_t i = 0; i < actual.size(); ++i) {
      ASSERT_NEAR(actual[i], expected[i], 1e-6 * (k + 1) * (1 + std::abs(expected[i]))) << i;
    }
  }
}

TEST_P(MatMulTest, AllInt8KernelsGiveTheSameBits) {
  const auto [rows, n, k] = GetParam();
  std::mt19937 rng(n + k);
  std::vector<float> weight = RandomValues(size_t(n) * k, rng);
  const cpu::PackedMatrix matrix = Pack(WeightType::kInt8, weight);
  const std::vector<float> x = RandomValues(size_t(rows) * k, rng);
  const std::vector<float> zeros(size_t(rows) * n);
  const std::vector<float> portable = Run(matrix, cpu::kInt8Kernel, x, zeros, false, pool_);
  for (const cpu::MatMulKernel* kernel : cpu::MatMulKernels(WeightType::kInt8)) {
    EXPECT_EQ(Run(matrix, *kernel, x, zeros, false, pool_), portable) << kernel->name;
  }
}

TEST_P(MatMulTest, RowsReadBackAsStored) {
  const auto [rows, n, k] = GetParam();
  std::mt19937 rng(n);
  for (const WeightType type : kTypes) {
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

// Odd sizes on every side of the tiles, panels, groups and blocks of rows.
INSTANTIATE_TEST_SUITE_P(Shapes, MatMulTest,
                         testing::Values(Shape{1, 1, 1}, Shape{1, 31, 7}, Shape{2, 33, 8},
                                         Shape{5, 64, 17}, Shape{13, 100, 64}, Shape{64, 65, 48},
                                         Shape{97, 96, 33}, Shape{200, 40, 5}, Shape{17, 33, 160},
                                         Shape{3, 32, 130}));

TEST(MatMul, ARowThatIsNotFiniteGivesNan) {
  ThreadPool pool(1);
  cpu::MatMulWorkspace workspace;
  cpu::WeightArena arena;
  cpu::PackedMatrix matrix(WeightType::kInt8, 4, 40, arena);
  const std::vector<float> row(40, 1.0f);
  for (int32_t i = 0; i < 4; ++i) matrix.SetRow(i, row);
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    for (const int32_t place : {3, 39}) {
      std::vector<float> x(80, 1.0f), y(8);
      x[place] = bad;
      for (const cpu::MatMulKernel* kernel : cpu::MatMulKernels(WeightType::kInt8)) {
        cpu::MatMul({x.data(), y.data(), 2, false}, matrix, *kernel, workspace, pool);
        EXPECT_TRUE(std::isnan(y[0])) << kernel->name;
        EXPECT_NEAR(y[4], 40, 40 * 0x1p-10)  // The scale is fp16.
            << kernel->name;
      }
    }
  }
}

}  // namespace
}  // namespace treeline
