#include "engine/sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/sampling/random.h"

namespace treeline {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// log(sum(exp(logits))). NaN where a logit is NaN or +infinity, or all are -infinity.
double LogSumExp(std::span<const float> logits) {
  float best = -kInfinity;
  for (const float logit : logits) best = std::max(best, logit);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - best);
  return best + std::log(sum);
}

}  // namespace

StatusOr<RowResult> Sampler::Sample(std::span<const float> logits, const RowRequest& request) {
  const double log_sum = LogSumExp(logits);
  if (!std::isfinite(log_sum)) {
    return Internal("logits are not finite: the model's weights or its state are damaged");
  }
  const auto logprob = [&](int32_t token) { return static_cast<float>(logits[token] - log_sum); };

  RowResult result;
  for (const int32_t token : request.score) result.scores.push_back(logprob(token));
  if (request.top_logprobs > 0) {
    SelectBest(logits, request.top_logprobs);
    for (const Candidate& candidate : candidates_) {
      result.top_logprobs.emplace_back(candidate.id, logprob(candidate.id));
    }
  }
  if (request.sampling != nullptr) {
    TREELINE_ASSIGN_OR_RETURN(result.token, Draw(logits, request));
    result.logprob = logprob(result.token);
  }
  return result;
}

StatusOr<int32_t> Sampler::Draw(std::span<const float> logits, const RowRequest& request) {
  const SamplingParams& params = *request.sampling;
  adjusted_.assign(logits.begin(), logits.end());
  AddLogitBias(params.logit_bias, adjusted_);
  BanTokens(request.banned, adjusted_);
  penalties_.Apply(params, request.prompt, request.generated, adjusted_);

  const auto best = std::max_element(adjusted_.begin(), adjusted_.end());
  if (!std::isfinite(*best)) {
    return Internal("no token can be drawn: bans and penalties leave none with a finite logit");
  }
  if (params.temperature == 0) return static_cast<int32_t>(best - adjusted_.begin());

  if (params.top_k > 0 && params.top_k < static_cast<int32_t>(adjusted_.size())) {
    SelectBest(adjusted_, params.top_k);
  } else {
    SelectAll(adjusted_);
  }
  for (Candidate& candidate : candidates_) {
    candidate.weight = std::exp((double{candidate.logit} - *best) / params.temperature);
  }
  if (params.top_p < 1) KeepTopP(params.top_p);
  if (params.min_p > 0) {
    std::erase_if(candidates_, [&](const Candidate& c) { return c.weight < params.min_p; });
  }
  return DrawCandidate(request.random);
}

void Sampler::SelectBest(std::span<const float> logits, size_t count) {
  // A heap of the best so far with the worst of them in front: a token that cannot enter
  // costs one comparison, and that is nearly every token.
  candidates_.clear();
  for (size_t id = 0; id < logits.size(); ++id) {
    const float bar = candidates_.size() < count ? -kInfinity : candidates_.front().logit;
    if (!(logits[id] > bar)) continue;
    if (candidates_.size() == count) {
      std::pop_heap(candidates_.begin(), candidates_.end(), Better);
      candidates_.pop_back();
    }
    candidates_.push_back({static_cast<int32_t>(id), logits[id], 0});
    std::push_heap(candidates_.begin(), candidates_.end(), Better);
  }
  std::sort_heap(candidates_.begin(), candidates_.end(), Better);
}

void Sampler::SelectAll(std::span<const float> logits) {
  candidates_.clear();
  for (size_t id = 0; id < logits.size(); ++id) {
    if (logits[id] > -kInfinity) candidates_.push_back({static_cast<int32_t>(id), logits[id], 0});
  }
}

void Sampler::KeepTopP(double top_p) {
  double total = 0;
  for (const Candidate& candidate : candidates_) total += candidate.weight;

  // Tokens this light have together less than 1 - top_p of the weight, so the set wanted
  // lies within the others; for a peaked distribution those are few.
  const double light = (1 - top_p) * total / static_cast<double>(candidates_.size());
  std::erase_if(candidates_, [&](const Candidate& c) { return c.weight < light; });

  // Sorts only as far as the mass requires, in blocks of growing size.
  constexpr size_t kFirstBlock = 64;
  double mass = 0;
  size_t kept = 0;
  for (size_t sorted = kFirstBlock; kept < candidates_.size() && mass < top_p * total;
       sorted *= 2) {
    const auto begin = candidates_.begin() + kept;
    const auto end = candidates_.begin() + std::min(sorted, candidates_.size());
    std::nth_element(begin, end, candidates_.end(), Better);
    std::sort(begin, end, Better);
    for (auto it = begin; it != end && mass < top_p * total; ++it, ++kept) mass += it->weight;
  }
  candidates_.resize(kept);
}

int32_t Sampler::DrawCandidate(const RandomKey& key) {
  const auto by_id = [](const Candidate& a, const Candidate& b) { return a.id < b.id; };
  if (!std::is_sorted(candidates_.begin(), candidates_.end(), by_id)) {
    std::sort(candidates_.begin(), candidates_.end(), by_id);
  }
  double total = 0;
  for (const Candidate& candidate : candidates_) total += candidate.weight;

  // The running sum ends at exactly `total`, which is above the target: the loop finds a token.
  const double target = Uniform(key, 0) * total;
  double sum = 0;
  for (const Candidate& candidate : candidates_) {
    sum += candidate.weight;
    if (sum > target) return candidate.id;
  }
  TREELINE_CHECK(false, "no candidate reached {} of {}", target, total);
  return -1;
}

}  // namespace treeline
