#include "kernels/cpu/packed_matrix.h"

#include <algorithm>
#include <cstring>

#include "kernels/float_types.h"
#include "kernels/quantization.h"

namespace treeline::cpu {
namespace {

constexpr int32_t kWordBytes = 4;
constexpr int32_t kRowBytes = kPanelColumns * kWordBytes;

int32_t CeilDiv(int32_t a, int32_t b) { return (a + b - 1) / b; }

size_t PanelBytes(WeightType type, int32_t k) {
  switch (type) {
    case WeightType::kF32:
      return size_t(k) * kRowBytes;
    case WeightType::kBF16:
      return size_t(CeilDiv(k, 2)) * kRowBytes;
    case WeightType::kInt8:
      return size_t(CeilDiv(k, kQuantGroup)) * kInt8GroupBytes;
    case WeightType::kInt4:
      return size_t(CeilDiv(k, kQuantGroup)) * kInt4GroupBytes;
  }
  return 0;
}

// Element i of a column whose words hold `per_word` elements of Element each.
template <class Element>
size_t Offset(int32_t i, int32_t column) {
  constexpr int32_t per_word = kWordBytes / sizeof(Element);
  return size_t(i / per_word) * kPanelColumns * per_word + size_t(column) * per_word + i % per_word;
}

// The byte that holds code i of a column of an int4 group, and whether its high half does.
size_t Int4Byte(int32_t i, int32_t column) {
  return size_t(i / 8) * kRowBytes + size_t(column) * kWordBytes + i % 4;
}
bool IsHighNibble(int32_t i) { return i % 8 >= 4; }

uint16_t* Int4Scales(std::byte* group) {
  return reinterpret_cast<uint16_t*>(group + kInt4GroupRows * kRowBytes);
}

uint16_t* Int8Scales(std::byte* group) {
  return reinterpret_cast<uint16_t*>(group + kInt8GroupRows * kRowBytes);
}

}  // namespace

PackedMatrix::PackedMatrix(WeightType type, int32_t n, int32_t k, WeightArena& arena)
    : type_(type),
      n_(n),
      k_(k),
      panel_bytes_(PanelBytes(type, k)),
      data_(arena.Allocate(num_panels() * panel_bytes_)) {}

const std::byte* PackedMatrix::panel(int32_t p) const { return data_.get() + p * panel_bytes_; }

std::byte* PackedMatrix::panel_of(int32_t row) {
  return data_.get() + row / kPanelColumns * panel_bytes_;
}

void PackedMatrix::SetRow(int32_t row, std::span<const float> values) {
  std::byte* panel = panel_of(row);
  const int32_t column = row % kPanelColumns;
  switch (type_) {
    case WeightType::kF32: {
      float* out = reinterpret_cast<float*>(panel);
      for (int32_t i = 0; i < k_; ++i) out[Offset<float>(i, column)] = values[i];
      return;
    }
    case WeightType::kBF16: {
      uint16_t* out = reinterpret_cast<uint16_t*>(panel);
      for (int32_t i = 0; i < k_; ++i) out[Offset<uint16_t>(i, column)] = FloatToBf16(values[i]);
      return;
    }
    case WeightType::kInt8:
      for (int32_t begin = 0; begin < k_; begin += kQuantGroup, panel += kInt8GroupBytes) {
        const int32_t count = std::min(kQuantGroup, k_ - begin);
        const Int8Group group = QuantizeInt8(values.subspan(begin, count));
        Int8Scales(panel)[column] = group.scale;
        uint8_t* out = reinterpret_cast<uint8_t*>(panel);
        for (int32_t i = 0; i < count; ++i) {
          out[Offset<uint8_t>(i, column)] = static_cast<uint8_t>(group.codes[i] + kInt8ZeroPoint);
        }
      }
      return;
    case WeightType::kInt4:
      for (int32_t begin = 0; begin < k_; begin += kQuantGroup, panel += kInt4GroupBytes) {
        const int32_t count = std::min(kQuantGroup, k_ - begin);
        const Int4Group group = QuantizeInt4(values.subspan(begin, count));
        uint16_t* scales = Int4Scales(panel);
        scales[column] = group.scale;
        scales[kPanelColumns + column] = group.minimum;
        for (int32_t i = 0; i < count; ++i) {
          std::byte& pair = panel[Int4Byte(i, column)];
          const bool high = IsHighNibble(i);
          pair = (pair & std::byte(high ? 0x0f : 0xf0)) |
                 std::byte(high ? group.codes[i] << 4 : group.codes[i]);
        }
      }
      return;
  }
}

void PackedMatrix::GetRow(int32_t row, std::span<float> values) const {
  const int32_t column = row % kPanelColumns;
  const std::byte* in = panel(row / kPanelColumns);
  switch (type_) {
    case WeightType::kF32:
      for (int32_t i = 0; i < k_; ++i) {
        values[i] = reinterpret_cast<const float*>(in)[Offset<float>(i, column)];
      }
      return;
    case WeightType::kBF16:
      for (int32_t i = 0; i < k_; ++i) {
        values[i] = Bf16ToFloat(reinterpret_cast<const uint16_t*>(in)[Offset<uint16_t>(i, column)]);
      }
      return;
    case WeightType::kInt8:
      for (int32_t begin = 0; begin < k_; begin += kQuantGroup, in += kInt8GroupBytes) {
        Int8Group group;
        group.scale = Int8Scales(const_cast<std::byte*>(in))[column];
        for (int32_t i = 0; i < std::min(kQuantGroup, k_ - begin); ++i) {
          const auto code = std::to_integer<int32_t>(in[Offset<uint8_t>(i, column)]);
          group.codes[i] = static_cast<int8_t>(code - kInt8ZeroPoint);
          values[begin + i] = group.Value(i);
        }
      }
      return;
    case WeightType::kInt4:
      for (int32_t begin = 0; begin < k_; begin += kQuantGroup, in += kInt4GroupBytes) {
        const uint16_t* scales = Int4Scales(const_cast<std::byte*>(in));
        Int4Group group;
        group.scale = scales[column];
        group.minimum = scales[kPanelColumns + column];
        for (int32_t i = 0; i < std::min(kQuantGroup, k_ - begin); ++i) {
          const auto pair = std::to_integer<uint8_t>(in[Int4Byte(i, column)]);
          group.codes[i] = IsHighNibble(i) ? pair >> 4 : pair & 0x0f;
          values[begin + i] = group.Value(i);
        }
      }
      return;
  }
}

}  // namespace treeline::cpu
