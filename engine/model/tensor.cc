#include "engine/model/tensor.h"

#include <cstring>

#include "engine/base/status.h"
#include "engine/model/quantized_blocks.h"
#include "kernels/float_types.h"

namespace treeline {
namespace {

// Converts contiguous stored values. Tensors may lie at any byte: elements are copied, never
// dereferenced in place.
void Convert(TensorType type, const std::byte* source, std::span<float> out) {
  const auto convert = [&]<typename Stored>(auto to_float) {
    for (float& value : out) {
      Stored stored;
      std::memcpy(&stored, source, sizeof(stored));
      source += sizeof(stored);
      value = to_float(stored);
    }
  };
  switch (type) {
    case TensorType::kF32:
      std::memcpy(out.data(), source, out.size_bytes());
      return;
    case TensorType::kF16:
      return convert.operator()<uint16_t>(F16ToFloat);
    case TensorType::kBF16:
      return convert.operator()<uint16_t>(Bf16ToFloat);
    case TensorType::kF64:
      return convert.operator()<double>([](double value) { return static_cast<float>(value); });
    case TensorType::kI8:
    case TensorType::kOther:
      break;
    default:
      return DequantizeBlocks(type, source, out);
  }
  TREELINE_CHECK(false, "a type without weights");
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

void CopyToFloat(const TensorView& view, std::span<float> out) {
  TREELINE_CHECK(static_cast<int64_t>(out.size()) == view.num_elements());
  if (out.empty()) return;
  if (view.interleaved_heads == 0) return Convert(view.type, view.bytes.data(), out);
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
}

}  // namespace treeline
