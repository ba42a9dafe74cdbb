// Medusa heads (Cai et al., "Medusa", 2024): small residual blocks which guess, from a model's
// last hidden state, the tokens after the next one. Head h, h + SiLU(W h + b) through an output
// matrix, guesses the token h + 2 places on.
#ifndef TREELINE_ENGINE_MODEL_MEDUSA_HEADS_H_
#define TREELINE_ENGINE_MODEL_MEDUSA_HEADS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
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
  // [vocab, hidden]: those without share the model's output matrix. What LoadTokenPairs reads may
  // lie beside them. INVALID_ARGUMENT naming file and tensor.
  static StatusOr<std::unique_ptr<MedusaHeads>> Load(const std::string& file, int32_t hidden,
                                                     int32_t vocab,
                                                     std::optional<WeightType> weight_type,
                                                     Backend& backend);

  int32_t size() const { return size_; }
  size_t weight_bytes() const { return weight_bytes_; }

  // Floats of scratch memory that `rows` rows take.
  size_t ScratchFloats(int32_t rows) const { return size_t{2} * rows * size_ * hidden_; }
  // The heads' logits [size(), rows, vocab] for normed last hidden states [rows, hidden].
  void Run(const float* hidden, int32_t rows, const Matrix& output, float* scratch,
           float* logits) const;

 private:
  MedusaHeads(int32_t size, int32_t hidden, int32_t vocab, Backend& backend)
      : size_(size), hidden_(hidden), vocab_(vocab), backend_(backend) {}

  const int32_t size_, hidden_, vocab_;
  Backend& backend_;
  std::unique_ptr<Matrix> blocks_;                // [size * hidden, hidden]
  DeviceVector biases_;                           // [size, hidden]
  std::vector<std::unique_ptr<Matrix>> outputs_;  // [size] [vocab, hidden], or none
  size_t weight_bytes_ = 0;
};

// The token pairs that a file of heads may hold: `pairs.starts` [vocab + 1] and `pairs.seconds`
// [pairs], 32-bit integers, and `pairs.scores` [pairs]. None where there are no such tensors.
// INVALID_ARGUMENT naming file and tensor.
StatusOr<std::optional<TokenPairs>> LoadTokenPairs(const std::string& file, int32_t vocab);

}  // namespace treeline

#endif  // TREELINE_ENGINE_MODEL_MEDUSA_HEADS_H_
