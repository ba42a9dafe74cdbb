#include "engine/model/tensor.h"

#include <cstring>
#include <vector>

#include "engine/base/status.h"
#include "engine/model/quantized_blocks.h"
#include "kernels/float_types.h"

namespace treeline {
namespace {

// Calls visit<Stored>(to_float) with the C++ type of a stored element; false for blocks of
// quantised weights.
template <typename Visit>
bool VisitStored(TensorType type, Visit visit) {
  switch (type) {
    case TensorType::kF64:
      visit.template operator()<double>([](double value) { return static_cast<float>(value); });
      return true;
    case TensorType::kF32:
      visit.template operator()<float>([](float value) { return value; });
      return true;
    case TensorType::kF16:
      visit.template operator()<uint16_t>(F16ToFloat);
      return true;
    case TensorType::kBF16:
      visit.template operator()<uint16_t>(Bf16ToFloat);
      return true;
    case TensorType::kI8Rows:
      visit.template operator()<int8_t>([](int8_t value) { return static_cast<float>(value); });
      return true;
    case TensorType::kI8:
    case TensorType::kOther:
      TREELINE_CHECK(false, "a type without weights");
      return false;
    default:
      return false;
  }
}

// Converts contiguous stored values, but for the scales of rows. Tensors may lie at any byte:
// elements are copied, never dereferenced in place.
void Convert(TensorType type, const std::byte* source, std::span<float> out) {
  const bool converted = VisitStored(type, [&]<typename Stored>(auto to_float) {
    for (float& value : out) {
      Stored stored;
      std::memcpy(&stored, source, sizeof(stored));
      source += sizeof(stored);
      value = to_float(stored);
    }
  });
  if (!converted) DequantizeBlocks(type, source, out);
}

float RowScale(const TensorView& view, int64_t row) {
  float scale;
  std::memcpy(&scale, view.row_scales.data() + row * sizeof(scale), sizeof(scale));
  return scale;
}

// out += coefficients A, `kColumns` columns at a time: their sums stay in registers.
template <int64_t kColumns, typename Stored, typename ToFloat>
int64_t AddColumns(const std::byte* a, std::span<const float> coefficients, ToFloat to_float,
                   int64_t column, std::span<float> out) {
  const auto columns = static_cast<int64_t>(out.size());
  for (; column + kColumns <= columns; column += kColumns) {
    float sums[kColumns] = {};
    const std::byte* source = a + column * sizeof(Stored);
    for (const float coefficient : coefficients) {
      Stored stored[kColumns];
      std::memcpy(stored, source, sizeof(stored));
      for (int64_t i = 0; i < kColumns; ++i) sums[i] += coefficient * to_float(stored[i]);
      source += columns * sizeof(Stored);
    }
    for (int64_t i = 0; i < kColumns; ++i) out[column + i] += sums[i];
  }
  return column;
}

// Adds row `row` of scale * B A.
void AddUpdate(const LowRankUpdate& update, int64_t row, std::span<float> out) {
  std::vector<float> coefficients(update.b.shape[1]);
  CopyRowToFloat(update.b, row, coefficients);
  for (size_t r = 0; r < coefficients.size(); ++r) {
    coefficients[r] *= update.scale;
    if (update.a.type == TensorType::kI8Rows) coefficients[r] *= RowScale(update.a, r);
  }
  const std::byte* a = update.a.bytes.data();
  const bool added = VisitStored(update.a.type, [&]<typename Stored>(auto to_float) {
    const int64_t done = AddColumns<16, Stored>(a, coefficients, to_float, 0, out);
    AddColumns<1, Stored>(a, coefficients, to_float, done, out);
  });
  TREELINE_CHECK(added, "an update in blocks");
}

// Where the file keeps row `row`.
int64_t StoredRow(const TensorView& view, int64_t row) {
  if (view.interleaved_heads == 0) return row;
  const int64_t head_rows = view.shape[0] / view.interleaved_heads, half = head_rows / 2;
  const int64_t first = row / head_rows * head_rows, i = row % head_rows;
  return first + i % half * 2 + i / half;
}

}  // namespace

bool IsQuantized(TensorType type) { return type >= TensorType::kQ40; }

bool HoldsWeights(TensorType type) { return type != TensorType::kI8 && type != TensorType::kOther; }

int64_t TensorView::num_elements() const {
  int64_t count = 1;
  for (const int64_t dimension : shape) count *= dimension;
  return count;
}

int64_t TensorView::stored_bytes() const {
  size_t total = bytes.size() + row_scales.size();
  for (const LowRankUpdate* u = update; u != nullptr; u = u->next) {
    total += u->a.stored_bytes() + u->b.stored_bytes();
  }
  return static_cast<int64_t>(total);
}

void CopyToFloat(const TensorView& view, std::span<float> out) {
  TREELINE_CHECK(static_cast<int64_t>(out.size()) == view.num_elements());
  if (out.empty()) return;
  if (view.interleaved_heads == 0 && view.type != TensorType::kI8Rows && view.update == nullptr) {
    return Convert(view.type, view.bytes.data(), out);
  }
  const size_t row_size = out.size() / view.shape[0];
  for (int64_t row = 0; row < view.shape[0]; ++row) {
    CopyRowToFloat(view, row, out.subspan(row * row_size, row_size));
  }
}

void CopyRowToFloat(const TensorView& view, int64_t row, std::span<float> out) {
  TREELINE_CHECK(row >= 0 && row < view.shape[0] &&
                 static_cast<int64_t>(out.size()) * view.shape[0] == view.num_elements());
  const size_t row_bytes = view.bytes.size() / view.shape[0];
  Convert(view.type, view.bytes.data() + StoredRow(view, row) * row_bytes, out);
  if (view.type == TensorType::kI8Rows) {
    const float scale = RowScale(view, row);
    for (float& value : out) value *= scale;
  }
  for (const LowRankUpdate* u = view.update; u != nullptr; u = u->next) AddUpdate(*u, row, out);
}

}  // namespace treeline
