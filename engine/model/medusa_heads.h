// Medusa heads (Cai et al., "Medusa", 2024): small residual blocks which guess, from a model's
// last hidden state, the tokens after the next one. Head h, h + SiLU(W h + b) through an output
// matrix, guesses the token h + 2 places on. Or, in the layout of Hydra heads (Ankner et al.,
// "Hydra", 2024) that see one token, all the same one: A x + c + SiLU(W x + b), where x is the
// hidden state and the embedding of the token drawn there, side by side.
#ifndef TREELINE_ENGINE_MODEL_MEDUSA_HEADS_H_
#define TREELINE_ENGINE_MODEL_MEDUSA_HEADS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/base/status.h"
#include "engine/model/weights.h"
#include "engine/speculative/token_pairs.h"

namespace treeline {

class MedusaHeads {
 public:
  // `file`: a safetensors file of Medusa's names, for each head h from 0 `{h}.0.linear.weight`
  // [hidden, hidden] and `{h}.0.linear.bias`, and either for all or for none `{h}.1.weight`
  // [vocab, hidden]: those without share the model's output matrix. Heads that see the token drawn
  // have [hidden, 2 hidden] there, and `{h}.0.res_connection.weight`, A, and `.bias`, of the same
  // shapes. What LoadTokenPairs reads may lie beside them. INVALID_ARGUMENT naming file and tensor.
  static StatusOr<std::unique_ptr<MedusaHeads>> Load(const std::string& file, int32_t hidden,
                                                     int32_t vocab,
                                                     std::optional<WeightType> weight_type,
                                                     Backend& backend);

  int32_t size() const { return size_; }
  bool see_drawn_token() const { return token_blocks_ != nullptr; }
  size_t weight_bytes() const { return weight_bytes_; }

  // Floats of scratch memory that `rows` rows take.
  size_t ScratchFloats(int32_t rows) const {
    return size_t(rows) * hidden_ * (see_drawn_token() ? 3 * size_ + 1 : 2 * size_);
  }
  // The heads' logits [size(), rows, vocab] for normed last hidden states [rows, hidden] and the
  // tokens drawn there [rows], which only heads that see them read, as rows of `embedding`.
  void Run(const float* hidden, std::span<const int32_t> drawn, const Matrix& embedding,
           const Matrix& output, float* scratch, float* logits) const;

 private:
  MedusaHeads(int32_t size, int32_t hidden, int32_t vocab, Backend& backend)
      : size_(size), hidden_(hidden), vocab_(vocab), backend_(backend) {}

  const int32_t size_, hidden_, vocab_;
  Backend& backend_;
  // The hidden state's part of W, of all heads, and after it A's; the drawn token's part, or null.
  std::unique_ptr<Matrix> blocks_, token_blocks_;  // [size * hidden or 2 * size * hidden, hidden]
  DeviceVector biases_;                            // [size, hidden], or [2, size, hidden]
  std::vector<std::unique_ptr<Matrix>> outputs_;   // [size] [vocab, hidden], or none
  size_t weight_bytes_ = 0;
};

// The token pairs that a file of heads may hold: `pairs.starts` [vocab + 1] and `pairs.seconds`
// [pairs], 32-bit integers, and `pairs.scores` [pairs]. None where there are no such tensors.
// INVALID_ARGUMENT naming file and tensor.
StatusOr<std::optional<TokenPairs>> LoadTokenPairs(const std::string& file, int32_t vocab);

}  // namespace treeline

#endif  // TREELINE_ENGINE_MODEL_MEDUSA_HEADS_H_
