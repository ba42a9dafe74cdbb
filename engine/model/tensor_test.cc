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
