#include "engine/sampling/random.h"

namespace treeline {

std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  constexpr int kRounds = 10;
  constexpr uint64_t kMultiplier0 = 0xD2511F53;
  constexpr uint64_t kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9;  // Golden ratio.
  constexpr uint32_t kWeyl1 = 0xBB67AE85;  // sqrt(3) - 1.
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t product0 = kMultiplier0 * counter[0];
    const uint64_t product1 = kMultiplier1 * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(product0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return counter;
}

double Uniform(const RandomKey& key, uint32_t draw) {
  const std::array<uint32_t, 4> bits =
      Philox4x32({key.position, key.choice, draw, 0},
                 {static_cast<uint32_t>(key.seed), static_cast<uint32_t>(key.seed >> 32)});
  const uint64_t high53 = ((uint64_t{bits[0]} << 32) | bits[1]) >> 11;
  return static_cast<double>(high53 | 1) * 0x1p-53;
}

}  // namespace treeline
