#include "kernels/reference/vocabulary.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

namespace treeline::reference {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// NaN where the row is damaged.
double LogSum(const std::vector<float>& logits) {
  double best = -kInfinity, total = 0;
  for (const float logit : logits) {
    if (std::isnan(logit) || logit == kInfinity) return kNan;
    best = std::max<double>(best, logit);
  }
  if (best == -kInfinity) return kNan;
  for (const float logit : logits) total += std::exp(logit - best);
  return best + std::log(total);
}

void Apply(const LogitChange& change, std::vector<float>& logits) {
  float& logit = logits[change.id];
  logit += change.bias;
  logit = logit > 0 ? logit / change.penalty : logit * change.penalty;
  logit -= change.decrease;
}

// Of tokens in `order`, best first, those that may be drawn.
std::vector<int32_t> Kept(std::vector<int32_t> order, const std::vector<double>& weights,
                          const TokenDraw& draw) {
  if (draw.top_k > 0) order.resize(std::min<size_t>(order.size(), draw.top_k));
  if (draw.top_p < 1) {
    double total = 0, mass = 0;
    for (const int32_t id : order) total += weights[id];
    size_t count = 0;
    while (count < order.size() && mass < draw.top_p * total) mass += weights[order[count++]];
    order.resize(count);
  }
  std::erase_if(order, [&](int32_t id) { return weights[id] < draw.min_p; });
  return order;
}

// -1: none can be.
int32_t Drawn(const std::vector<float>& logits, const TokenDraw& draw) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  const double best = logits[order[0]];
  if (!std::isfinite(best)) return -1;
  if (draw.temperature == 0) return order[0];

  std::vector<double> weights(logits.size());
  for (size_t id = 0; id < logits.size(); ++id) {
    weights[id] = std::exp((logits[id] - best) / draw.temperature);
  }
  std::vector<int32_t> kept = Kept(std::move(order), weights, draw);
  std::sort(kept.begin(), kept.end());
  double total = 0, sum = 0;
  for (const int32_t id : kept) total += weights[id];
  for (const int32_t id : kept) {
    sum += weights[id];
    if (sum > draw.uniform * total) return id;
  }
  return -1;
}

}  // namespace

void BlockMaxima(const BlockMaximaParams& params) {
  for (int32_t block = 0; block < VocabularyBlocks(params.n); ++block) {
    params.maxima[block] = -kInfinity;
  }
  for (int32_t i = 0; i < params.n; ++i) {
    float& maximum = params.maxima[i / kVocabularyBlock];
    if (params.x[i] > maximum || std::isnan(params.x[i])) maximum = params.x[i];
  }
}

void BlockWeights(const BlockWeightsParams& params) {
  for (int32_t block = 0; block < VocabularyBlocks(params.n); ++block) params.sums[block] = 0;
  for (int32_t i = 0; i < params.n; ++i) {
    const double weight = std::exp((double{params.x[i]} - params.max) * params.scale);
    if (params.weights != nullptr) params.weights[i] = static_cast<float>(weight);
    params.sums[i / kVocabularyBlock] += weight;
  }
}

void TopTokens(const TopTokensParams& params) {
  for (int32_t row = 0; row < params.rows; ++row) {
    const float* logits = params.logits + int64_t{row} * params.n;
    std::vector<int32_t> order;
    double best = -kInfinity, total = 0;
    bool damaged = false;
    for (int32_t i = 0; i < params.n; ++i) {
      damaged = damaged || std::isnan(logits[i]) || logits[i] == kInfinity;
      best = std::max<double>(best, logits[i]);
      if (logits[i] > -kInfinity) order.push_back(i);
    }
    damaged = damaged || order.empty();
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
    for (int32_t i = 0; i < params.n; ++i) total += std::exp(logits[i] - best);
    for (int32_t rank = 0; rank < params.k; ++rank) {
      const bool is_there = !damaged && rank < static_cast<int32_t>(order.size());
      const int64_t at = int64_t{row} * params.k + rank;
      params.ids[at] = is_there ? order[rank] : -1;
      const double logprob = is_there  ? logits[order[rank]] - best - std::log(total)
                             : damaged ? kNan
                                       : -kInfinity;
      params.logprobs[at] = static_cast<float>(logprob);
    }
  }
}

void DrawTokens(const DrawTokensParams& params) {
  for (int32_t row = 0; row < params.rows; ++row) {
    const float* first = params.logits + int64_t{row} * params.n;
    const std::vector<float> logits(first, first + params.n);
    const TokenDraw& draw = params.draws[row];
    const double log_sum = LogSum(logits);
    if (std::isnan(log_sum)) {
      params.tokens[row] = {-1, kNan};
      continue;
    }
    std::vector<float> changed = logits;
    for (int32_t i = 0; i < draw.num_changes; ++i) Apply(draw.changes[i], changed);
    const int32_t id = Drawn(changed, draw);
    const double logprob = id < 0 ? -kInfinity : logits[id] - log_sum;
    params.tokens[row] = {id, static_cast<float>(logprob)};
  }
}

}  // namespace treeline::reference
