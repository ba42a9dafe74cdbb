// GGUF's quantised weights: blocks of 32 or 256 that share scales, as ggml lays them out
// (ggml-common.h). Every value is one product and at most one difference of exact terms, so the
// result is the same on every machine: bit for bit that of ggml's own Python package.
#ifndef TREELINE_ENGINE_MODEL_QUANTIZED_BLOCKS_H_
#define TREELINE_ENGINE_MODEL_QUANTIZED_BLOCKS_H_

#include <cstddef>
#include <span>

#include "engine/model/tensor.h"

namespace treeline {

struct BlockShape {
  int weights;  // In a block.
  int bytes;
};
// REQUIRES: IsQuantized(type).
BlockShape BlockShapeOf(TensorType type);

// Weights of contiguous blocks. REQUIRES: IsQuantized(type); out is whole blocks.
void DequantizeBlocks(TensorType type, const std::byte* blocks, std::span<float> out);

}  // namespace treeline

#endif  // TREELINE_ENGINE_MODEL_QUANTIZED_BLOCKS_H_
