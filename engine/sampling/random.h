// Counter-based randomness: a draw depends on its key alone, never on how many
// were made before. So a seeded request draws the same numbers whatever batch it
// runs in and whether or not it speculates.
#ifndef TREELINE_ENGINE_SAMPLING_RANDOM_H_
#define TREELINE_ENGINE_SAMPLING_RANDOM_H_

#include <array>
#include <cstdint>

namespace treeline {

struct RandomKey {
  uint64_t seed = 0;
  uint32_t choice = 0;    // Index among the n choices of a request.
  uint32_t position = 0;  // Absolute position of the token being drawn.
};

// Philox4x32-10 (Salmon et al., SC 2011): a bijection of the counter for each key.
std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// Uniform in the open interval (0, 1): an odd multiple of 2^-53, so neither end is ever hit.
// `draw` numbers the draws made for one token.
double Uniform(const RandomKey& key, uint32_t draw);

}  // namespace treeline

#endif  // TREELINE_ENGINE_SAMPLING_RANDOM_H_
