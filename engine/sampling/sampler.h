// Answers a RowRequest from one row of logits in host memory: log-probabilities of the model's
// own distribution, and a token drawn from the distribution the request asks for
// (kernels/vocabulary_params.h). The draw depends on the kept tokens, their probabilities and the
// RandomKey alone.
#ifndef TREELINE_ENGINE_SAMPLING_SAMPLER_H_
#define TREELINE_ENGINE_SAMPLING_SAMPLER_H_

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "engine/base/status.h"
#include "engine/batch.h"
#include "engine/sampling/logit_changes.h"
#include "kernels/cpu/token_drawer.h"
#include "kernels/vocabulary_params.h"

namespace treeline {

// INTERNAL: a row has NaN, +infinity or nothing but -infinity.
Status DamagedLogits();

// How request.sampling draws; `changes` are the request's, and must outlast the draw.
// REQUIRES: request.sampling is set.
TokenDraw DrawOf(const RowRequest& request, std::span<const LogitChange> changes);
// Why there is no token, where there is none.
Status CheckDrawn(const DrawnToken& drawn);

// Reusable; one per thread.
class Sampler {
 public:
  // `logits` is the row, [vocab_size]; every token id in `request` lies within. Single logits
  // may be -infinity (no probability). INTERNAL where the row has NaN, +infinity or nothing
  // but -infinity, or where bans and penalties leave no token to draw.
  StatusOr<RowResult> Sample(std::span<const float> logits, const RowRequest& request);

 private:
  // The token and what goes with it.
  Status Draw(std::span<const float> logits, const RowRequest& request, RowResult& result);
  // Best first.
  std::vector<std::pair<int32_t, float>> Best(std::span<const float> logits, int32_t count);
  // Cai et al., "Medusa" (2024), section 3.3: a guess x passes where its probability, with
  // temperature and before any truncation, is above min(epsilon, delta exp(-entropy)), by the
  // released code's 0.09 and 0.3; of temperature 0, the most probable token alone.
  std::vector<bool> Typical(std::span<const float> logits, const RowRequest& request,
                            std::span<const LogitChange> changes);

  LogitChanges changes_;
  cpu::TokenDrawer drawer_;
  std::vector<float> changed_;       // [vocab_size] scratch of Typical,
  std::vector<float> weights_;       // as is this,
  std::vector<double> weight_sums_;  // and this, of its blocks.
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_SAMPLING_SAMPLER_H_
