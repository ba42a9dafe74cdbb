// Tokens in the order of their logits, as integers.
#ifndef TREELINE_KERNELS_CUDA_TOKEN_RANK_CUH_
#define TREELINE_KERNELS_CUDA_TOKEN_RANK_CUH_

#include <cmath>
#include <cstdint>

namespace treeline::cuda {

// Unsigned integers in the order of logits; NaN is above all.
constexpr uint32_t kInfinityKey = 0xff800000u, kMinusInfinityKey = 0x007fffffu;
__device__ inline uint32_t KeyOf(float logit) {
  if (std::isnan(logit)) return 0xffffffffu;
  const uint32_t bits = __float_as_uint(logit == 0 ? 0.0f : logit);  // -0 equals 0.
  return bits >> 31 != 0 ? ~bits : bits | 1u << 31;
}
__device__ inline float LogitOf(uint32_t key) {
  return __uint_as_float(key >> 31 != 0 ? key & ~(1u << 31) : ~key);
}

// A token's rank in its row: the better, the larger. Of equal logits the lower ID is better.
using TokenRank = unsigned long long;
__device__ inline TokenRank RankOf(int id, float logit) {
  return TokenRank{KeyOf(logit)} << 32 | ~static_cast<unsigned>(id);
}
__device__ inline int IdOf(TokenRank rank) {
  return static_cast<int>(~static_cast<unsigned>(rank));
}
__device__ inline float LogitOfRank(TokenRank rank) {
  return LogitOf(static_cast<uint32_t>(rank >> 32));
}
__device__ inline bool IsFinite(TokenRank rank) {
  const uint32_t key = static_cast<uint32_t>(rank >> 32);
  return key > kMinusInfinityKey && key < kInfinityKey;
}

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_TOKEN_RANK_CUH_
