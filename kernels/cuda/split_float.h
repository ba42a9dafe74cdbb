// An fp32 as two numbers of 16 bits that lose nothing: a bf16, which is the nearest or next to it,
// and what the float's bits are beyond. Where S is split, each KV head's has [feature_dim,
// head_dim] of the one, which is all that attention reads, and behind it as many of the other.
#ifndef TREELINE_KERNELS_CUDA_SPLIT_FLOAT_H_
#define TREELINE_KERNELS_CUDA_SPLIT_FLOAT_H_

#include <cstdint>

#ifdef __CUDACC__
#define TREELINE_HOST_DEVICE __host__ __device__
#else
#define TREELINE_HOST_DEVICE
#endif

namespace treeline::cuda {

using SplitHigh = uint16_t;
using SplitLow = uint16_t;

struct Split {
  SplitHigh high;
  SplitLow low;
};

// By a float's bits.
TREELINE_HOST_DEVICE inline Split SplitBits(uint32_t bits) {
  const auto high = static_cast<SplitHigh>((bits + 0x8000u) >> 16);
  return {high, static_cast<SplitLow>(bits)};
}
TREELINE_HOST_DEVICE inline uint32_t JoinBits(Split split) {
  // The high half was rounded up where the low one's first bit is set.
  const uint32_t high = split.high - (split.low >> 15);
  return high << 16 | split.low;
}

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_SPLIT_FLOAT_H_
