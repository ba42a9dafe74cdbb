// A tensor as a checkpoint stores it, and its values as fp32.
#ifndef TREELINE_ENGINE_MODEL_TENSOR_H_
#define TREELINE_ENGINE_MODEL_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace treeline {

// kOther: a type that holds no weights here (integers, booleans, fp8).
enum class TensorType {
  kF64,
  kF32,
  kF16,
  kBF16,
  kI8,
  // int8 times a factor of its row: TensorView::row_scales.
  kI8Rows,
  kOther,
  // Blocks of quantised weights, as GGUF stores them: engine/model/quantized_blocks.h.
  kQ40,
  kQ41,
  kQ50,
  kQ51,
  kQ80,
  kQ2K,
  kQ3K,
  kQ4K,
  kQ5K,
  kQ6K,
};

// True for the types that CopyToFloat takes.
bool HoldsWeights(TensorType type);
bool IsQuantized(TensorType type);

struct LowRankUpdate;

// A tensor's bytes inside a mapped file, row-major, little-endian, at any alignment (formats
// promise none). Valid while what it came from lives, moved or not.
struct TensorView {
  TensorType type = TensorType::kOther;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
  // Above 0: dimension 0 is that many heads, and within a head the file stores the two halves of
  // each rotated pair side by side (0, d/2, 1, d/2 + 1, ...). Reading puts them back in order.
  int32_t interleaved_heads = 0;
  // Of kI8Rows: fp32 [shape[0]].
  std::span<const std::byte> row_scales{};
  // Null, or what reading adds to the values of this matrix.
  const LowRankUpdate* update = nullptr;

  // 1 for a scalar, whose shape is empty.
  int64_t num_elements() const;
  // Bytes in files, those of scales and updates among them.
  int64_t stored_bytes() const;
};

// scale * B A, of which one row at a time is computed, in fp32. A and B are fp64, fp32, fp16, bf16
// or int8 rows, not interleaved and without updates of their own.
struct LowRankUpdate {
  TensorView a;  // [rank, columns]
  TensorView b;  // [rows, rank]
  float scale = 1;
  const LowRankUpdate* next = nullptr;  // Another update of the same matrix.
};

// Copies all values. REQUIRES: out.size() == view.num_elements() and HoldsWeights(view.type).
void CopyToFloat(const TensorView& view, std::span<float> out);

// Copies row `row` of a tensor of at least one dimension. REQUIRES: as above, of the row; the
// bytes of a row are whole (blocks of a quantised tensor never span rows).
void CopyRowToFloat(const TensorView& view, int64_t row, std::span<float> out);

}  // namespace treeline

#endif  // TREELINE_ENGINE_MODEL_TENSOR_H_
