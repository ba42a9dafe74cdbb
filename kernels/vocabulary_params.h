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
  int32_t k = 0;  // At least 1, at most kMaxTopTokens.
};
constexpr int32_t kMaxTopTokens = 32;

}  // namespace treeline

#endif  // TREELINE_KERNELS_VOCABULARY_PARAMS_H_
