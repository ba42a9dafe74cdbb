// What sampling does over a row as long as the vocabulary. Rows are looked at in
// blocks: what is known of a block tells whether a search must look into it.
#ifndef TREELINE_KERNELS_VOCABULARY_PARAMS_H_
#define TREELINE_KERNELS_VOCABULARY_PARAMS_H_

#include <cstdint>

namespace treeline {

// Values of a block; the last one may be shorter.
constexpr int32_t kVocabularyBlock = 64;

constexpr int32_t VocabularyBlocks(int32_t n) {
  return (n + kVocabularyBlock - 1) / kVocabularyBlock;
}

// maxima[b] = the largest value of block b; NaN where the block holds a NaN.
struct BlockMaximaParams {
  const float* x = nullptr;  // [n]
  float* maxima = nullptr;   // [VocabularyBlocks(n)]
  int32_t n = 0;
};

// weights[i] = exp((x[i] - max) * scale); sums[b] = their sum over block b.
struct BlockWeightsParams {
  const float* x = nullptr;  // [n] no NaN, none above max
  float max = 0;             // Finite.
  float scale = 1;           // Finite and positive.
  float* weights = nullptr;  // [n], or null: only the sums are wanted
  double* sums = nullptr;    // [VocabularyBlocks(n)]
  int32_t n = 0;
};

// The k largest logits of each row, best first, of equals the lower id: their ids and
// log-probabilities, -1 and -infinity where fewer are above -infinity. A row with NaN or +infinity,
// or with nothing above -infinity, has NaN for its log-probabilities.
struct TopTokensParams {
  const float* logits = nullptr;  // [rows, n]
  int32_t* ids = nullptr;         // [rows, k]
  float* logprobs = nullptr;      // [rows, k]
  int32_t rows = 0;
  int32_t n = 0;
  int32_t k = 0;  // At least 1; on a GPU at most kMaxTopTokens.
};
constexpr int32_t kMaxTopTokens = 32;

// What becomes of one token's logit before a draw: `bias` is added; what is positive then is
// divided by `penalty`, all else multiplied; `decrease` is subtracted. Each in fp32.
struct LogitChange {
  int32_t id = 0;
  float bias = 0;     // -infinity: the token is not drawn.
  float penalty = 1;  // Positive.
  float decrease = 0;
};

// How a token is drawn from a row:
//
//   logits -> changes -> the best token, where temperature is 0
//          -> temperature -> top_k -> top_p (of what top_k left) -> min_p -> draw
//
// Equal logits rank by lower id. Drawn is the first token, by ascending id, where the running sum
// of the kept tokens' probabilities exceeds `uniform` times their total.
struct TokenDraw {
  float temperature = 1;
  int32_t top_k = 0;                     // Keeps so many of the best; 0: all.
  float top_p = 1;                       // Keeps the fewest of the best that have this share.
  float min_p = 0;                       // Keeps what has this part of the best's probability.
  double uniform = 0.5;                  // In (0, 1).
  const LogitChange* changes = nullptr;  // [num_changes] in host memory, a token at most once
  int32_t num_changes = 0;
};

struct DrawnToken {
  int32_t id;
  float logprob;  // Before changes and temperature.
};

// A token from each row. Of a row with NaN or +infinity, or with nothing above -infinity, it is
// {-1, NaN}; where changes leave no finite best logit, {-1, -infinity}.
struct DrawTokensParams {
  const float* logits = nullptr;     // [rows, n]
  const TokenDraw* draws = nullptr;  // [rows] in host memory
  DrawnToken* tokens = nullptr;      // [rows]
  int32_t rows = 0;
  int32_t n = 0;
};

}  // namespace treeline

#endif  // TREELINE_KERNELS_VOCABULARY_PARAMS_H_
