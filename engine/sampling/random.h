// Counter-based randomness: a draw depends on its key alone, never on how many
// were made before. So a seeded request draws the same numbers whatever batch it
// runs in and whether or not it speculates.
#ifndef TREELINE_ENGINE_SAMPLING_RANDOM_H_
#define TREELINE_ENGINE_SAMPLING_RANDOM_H_

#include <cstdint>

namespace treeline {

struct RandomKey {
  uint64_t seed = 0;
  uint32_t choice = 0;    // Index among the n choices of a request.
  uint32_t position = 0;  // Absolute position of the token being drawn.
};

// Uniform in (0, 1), 53 bits, from Philox4x32-10 (Salmon et al., SC 2011). `draw` numbers
// the draws made for one token.
double Uniform(const RandomKey& key, uint32_t draw);

}  // namespace treeline

#endif  // TREELINE_ENGINE_SAMPLING_RANDOM_H_
