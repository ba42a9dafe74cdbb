#include "engine/sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "engine/sampling/random.h"
#include "kernels/cpu/vocabulary.h"

namespace treeline {
namespace {

constexpr double kTypicalEpsilon = 0.09, kTypicalDelta = 0.3;

}  // namespace

Status DamagedLogits() {
  return Internal("logits are not finite: the model's weights or its state are damaged");
}

TokenDraw DrawOf(const RowRequest& request, std::span<const LogitChange> changes) {
  const SamplingParams& params = *request.sampling;
  TokenDraw draw;
  draw.temperature = params.temperature;
  draw.top_k = params.top_k;
  draw.top_p = params.top_p;
  draw.min_p = params.min_p;
  draw.uniform = Uniform(request.random, 0);
  draw.changes = changes.data();
  draw.num_changes = static_cast<int32_t>(changes.size());
  return draw;
}

Status CheckDrawn(const DrawnToken& drawn) {
  if (drawn.id >= 0) return OkStatus();
  if (std::isnan(drawn.logprob)) return DamagedLogits();
  return Internal("no token can be drawn: bans and penalties leave none with a finite logit");
}

StatusOr<RowResult> Sampler::Sample(std::span<const float> logits, const RowRequest& request) {
  RowResult result;
  if (request.sampling != nullptr) {
    TREELINE_RETURN_IF_ERROR(Draw(logits, request, result));
  }
  if (request.sampling == nullptr || !request.score.empty()) {
    const double log_sum = cpu::LogSum(logits.data(), static_cast<int32_t>(logits.size()));
    if (std::isnan(log_sum)) return DamagedLogits();
    for (const int32_t token : request.score) {
      result.scores.push_back(static_cast<float>(logits[token] - log_sum));
    }
  }
  if (request.top_logprobs > 0) result.top_logprobs = Best(logits, request.top_logprobs);
  return result;
}

Status Sampler::Draw(std::span<const float> logits, const RowRequest& request, RowResult& result) {
  const std::vector<LogitChange> changes =
      changes_.Of(request, static_cast<int32_t>(logits.size()));
  const DrawnToken drawn = drawer_.Draw(logits, DrawOf(request, changes));
  TREELINE_RETURN_IF_ERROR(CheckDrawn(drawn));
  result.token = drawn.id;
  result.logprob = drawn.logprob;
  if (!request.guesses.empty()) result.typical = Typical(logits, request, changes);
  return OkStatus();
}

std::vector<std::pair<int32_t, float>> Sampler::Best(std::span<const float> logits, int32_t count) {
  const int32_t size = static_cast<int32_t>(logits.size());
  const int32_t k = std::min(count, size);
  std::vector<int32_t> ids(k);
  std::vector<float> logprobs(k);
  cpu::TopTokens({logits.data(), ids.data(), logprobs.data(), 1, size, k});
  std::vector<std::pair<int32_t, float>> best;
  for (int32_t i = 0; i < k && ids[i] >= 0; ++i) best.emplace_back(ids[i], logprobs[i]);
  return best;
}

std::vector<bool> Sampler::Typical(std::span<const float> logits, const RowRequest& request,
                                   std::span<const LogitChange> changes) {
  changed_.assign(logits.begin(), logits.end());
  cpu::ApplyChanges(changes, changed_);
  const auto best = std::max_element(changed_.begin(), changed_.end());  // The first of equals.
  const float temperature = request.sampling->temperature;
  std::vector<bool> typical;
  if (temperature == 0) {
    for (const int32_t guess : request.guesses) {
      typical.push_back(guess == best - changed_.begin());
    }
    return typical;
  }

  const int32_t size = static_cast<int32_t>(logits.size());
  weights_.resize(size);
  weight_sums_.resize(VocabularyBlocks(size));
  // Of a tiny temperature the inverse is infinite.
  const float scale = std::min(1 / temperature, std::numeric_limits<float>::max());
  cpu::BlockWeights({changed_.data(), *best, scale, weights_.data(), weight_sums_.data(), size});
  const double total = std::accumulate(weight_sums_.begin(), weight_sums_.end(), 0.0);
  double entropy = std::log(total);
  for (const float weight : weights_) {
    if (weight > 0) entropy -= weight / total * std::log(weight);
  }
  const double threshold = std::min(kTypicalEpsilon, kTypicalDelta * std::exp(-entropy));
  for (const int32_t guess : request.guesses) {
    typical.push_back(weights_[guess] > threshold * total);
  }
  return typical;
}

}  // namespace treeline
