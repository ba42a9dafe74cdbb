#include "engine/model/tensor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "engine/model/quantized_blocks.h"

namespace treeline {
namespace {

template <typename T>
std::vector<float> ToFloat(TensorType type, const std::vector<T>& values) {
  // One byte off: files promise no alignment.
  std::vector<std::byte> bytes(1 + values.size() * sizeof(T));
  std::ranges::copy(std::as_bytes(std::span(values)), bytes.begin() + 1);
  TensorView view{type, {static_cast<int64_t>(values.size())}, std::span(bytes).subspan(1)};
  std::vector<float> out(values.size());
  CopyToFloat(view, out);
  return out;
}

TEST(CopyToFloat, ConvertsEveryFloatingType) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(ToFloat<float>(TensorType::kF32, {1.5f, -0x1p-149f, kInfinity}),
            (std::vector<float>{1.5f, -0x1p-149f, kInfinity}));
  EXPECT_EQ(ToFloat<double>(TensorType::kF64, {1.5, 0.1, -kInfinity}),
            (std::vector<float>{1.5f, 0.1f, -kInfinity}));
  EXPECT_EQ(ToFloat<uint16_t>(TensorType::kF16, {0x3c00, 0x0001, 0xfc00, 0x7bff}),
            (std::vector<float>{1.0f, 0x1p-24f, -kInfinity, 65504.0f}));
  EXPECT_EQ(ToFloat<uint16_t>(TensorType::kBF16, {0x3f80, 0xc000, 0x7f80, 0x0001}),
            (std::vector<float>{1.0f, -2.0f, kInfinity, 0x1p-133f}));
  EXPECT_TRUE(std::isnan(ToFloat<uint16_t>(TensorType::kF16, {0x7e00})[0]));
  EXPECT_TRUE(std::isnan(ToFloat<uint16_t>(TensorType::kBF16, {0x7fc0})[0]));
  EXPECT_TRUE(ToFloat<float>(TensorType::kF32, {}).empty());
}

TEST(CopyToFloat, PutsInterleavedRowsBackInOrder) {
  // Two heads of six rows, each stored as 0, 3, 1, 4, 2, 5.
  const std::vector<float> stored = {0, 3, 1, 4, 2, 5, 10, 13, 11, 14, 12, 15};
  TensorView view{TensorType::kF32, {12, 1}, std::as_bytes(std::span(stored))};
  view.interleaved_heads = 2;
  std::vector<float> values(12);
  CopyToFloat(view, values);
  EXPECT_EQ(values, (std::vector<float>{0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15}));
  view.shape = {12};  // A bias.
  CopyToFloat(view, values);
  EXPECT_EQ(values, (std::vector<float>{0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15}));
  float row;
  view.shape = {12, 1};
  CopyRowToFloat(view, 7, std::span(&row, 1));
  EXPECT_EQ(row, 11);
}

TEST(CopyToFloat, MultipliesRowsOfInt8ByTheirScales) {
  const std::vector<int8_t> stored = {127, -128, 0, 1, -1, 2};
  const std::vector<float> scales = {0.5f, -2.0f};
  TensorView view{TensorType::kI8Rows, {2, 3}, std::as_bytes(std::span(stored))};
  view.row_scales = std::as_bytes(std::span(scales));
  std::vector<float> values(6);
  CopyToFloat(view, values);
  EXPECT_EQ(values, (std::vector<float>{63.5f, -64, 0, -2, 2, -4}));
  EXPECT_EQ(view.stored_bytes(), 6 + 8);
}

TEST(CopyToFloat, AddsLowRankUpdates) {
  // Columns that fill no whole vector, and ones that do and leave some over.
  for (const int64_t columns : {1, 15, 16, 37}) {
    constexpr int64_t kRows = 3, kRank = 2;
    std::vector<float> w(kRows * columns), a(kRank * columns), b(kRows * kRank);
    for (size_t i = 0; i < w.size(); ++i) w[i] = 0.25f * i;
    for (size_t i = 0; i < a.size(); ++i) a[i] = static_cast<float>(i % 7) - 3;
    for (size_t i = 0; i < b.size(); ++i) b[i] = static_cast<float>(i % 5) - 2;
    const auto view = [](const std::vector<float>& values, int64_t rows) {
      const auto count = static_cast<int64_t>(values.size());
      return TensorView{TensorType::kF32, {rows, count / rows}, std::as_bytes(std::span(values))};
    };
    const LowRankUpdate second{view(a, kRank), view(b, kRows), -0.5f, nullptr};
    const LowRankUpdate first{view(a, kRank), view(b, kRows), 2.0f, &second};
    TensorView updated = view(w, kRows);
    updated.update = &first;
    std::vector<float> values(w.size());
    CopyToFloat(updated, values);
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t column = 0; column < columns; ++column) {
        float expected = w[row * columns + column];  // Small integers and quarters: exact.
        for (int64_t r = 0; r < kRank; ++r) {
          expected += 1.5f * b[row * kRank + r] * a[r * columns + column];
        }
        ASSERT_EQ(values[row * columns + column], expected) << row << ", " << column;
      }
    }
  }
}

TEST(CopyRowToFloat, ReadsRowsOfBlocks) {
  // Two rows of one Q8_0 block: scales 0.5 and 2 (fp16), weights -16..15.
  std::vector<std::byte> bytes;
  for (const uint16_t scale : {0x3800, 0x4000}) {
    bytes.push_back(static_cast<std::byte>(scale & 0xff));
    bytes.push_back(static_cast<std::byte>(scale >> 8));
    for (int i = -16; i < 16; ++i) bytes.push_back(static_cast<std::byte>(i));
  }
  const TensorView view{TensorType::kQ80, {2, 32}, bytes};
  std::vector<float> row(32);
  CopyRowToFloat(view, 0, row);
  EXPECT_EQ(row[0], -8.0f);
  EXPECT_EQ(row[31], 7.5f);
  CopyRowToFloat(view, 1, row);
  EXPECT_EQ(row[0], -32.0f);
  EXPECT_EQ(row[31], 30.0f);
}

}  // namespace
}  // namespace treeline
