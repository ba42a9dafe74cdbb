#include "engine/sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "engine/sampling/random.h"
#include "kernels/cpu/vocabulary.h"

namespace treeline {
namespace {

constexpr float kLargest = std::numeric_limits<float>::max();
constexpr double kTypicalEpsilon = 0.09, kTypicalDelta = 0.3;

// The values of block `block` in a row of `size`: [first, second).
std::pair<size_t, size_t> BlockRange(size_t block, size_t size) {
  return {block * kVocabularyBlock, std::min((block + 1) * kVocabularyBlock, size)};
}

bool Alters(const RowRequest& request) {
  return request.sampling->AltersLogits() || !request.banned.empty();
}

}  // namespace

Status DamagedLogits() {
  return Internal("logits are not finite: the model's weights or its state are damaged");
}

void Sampler::Row::Set(std::span<const float> values) {
  logits = values;
  const int32_t size = static_cast<int32_t>(values.size());
  maxima.resize(VocabularyBlocks(size));
  cpu::BlockMaxima({values.data(), maxima.data(), size});
  best = -std::numeric_limits<float>::infinity();
  for (const float maximum : maxima) {
    if (!(maximum <= best)) best = maximum;  // Also where it is NaN.
    if (std::isnan(best)) return;
  }
}

int32_t Sampler::Row::BestId() const {
  const size_t block = std::find(maxima.begin(), maxima.end(), best) - maxima.begin();
  const auto first = logits.begin() + block * kVocabularyBlock;
  return static_cast<int32_t>(std::find(first, logits.end(), best) - logits.begin());
}

StatusOr<RowResult> Sampler::Sample(std::span<const float> logits, const RowRequest& request) {
  raw_.Set(logits);
  if (!std::isfinite(raw_.best)) return DamagedLogits();
  const double log_sum = raw_.best + std::log(Weigh(raw_, 1, /*keep_weights=*/false));
  const auto logprob = [&](int32_t token) { return static_cast<float>(logits[token] - log_sum); };

  RowResult result;
  for (const int32_t token : request.score) result.scores.push_back(logprob(token));
  if (request.top_logprobs > 0) {
    SelectBest(raw_, request.top_logprobs);
    std::sort(candidates_.begin(), candidates_.end(), Better);
    for (const Candidate& candidate : candidates_) {
      result.top_logprobs.emplace_back(candidate.id, logprob(candidate.id));
    }
  }
  if (request.sampling != nullptr) {
    TREELINE_ASSIGN_OR_RETURN(result.token, Draw(request));
    result.logprob = logprob(result.token);
    if (!request.guesses.empty()) result.typical = Typical(Process(request), request);
  }
  return result;
}

const Sampler::Row& Sampler::Process(const RowRequest& request) {
  if (!Alters(request)) return raw_;
  const SamplingParams& params = *request.sampling;
  adjusted_.assign(raw_.logits.begin(), raw_.logits.end());
  AddLogitBias(params.logit_bias, adjusted_);
  BanTokens(request.banned, adjusted_);
  generated_.assign(request.generated.begin(), request.generated.end());
  generated_.insert(generated_.end(), request.drafted.begin(), request.drafted.end());
  penalties_.Apply(params, request.prompt, generated_, adjusted_);
  processed_.Set(adjusted_);
  return processed_;
}

std::vector<bool> Sampler::Typical(const Row& row, const RowRequest& request) {
  std::vector<bool> typical;
  const float temperature = request.sampling->temperature;
  if (temperature == 0) {
    const int32_t best = row.BestId();
    for (const int32_t guess : request.guesses) typical.push_back(guess == best);
    return typical;
  }
  const double total = Weigh(row, temperature, /*keep_weights=*/true);
  double entropy = std::log(total);
  for (const float weight : weights_) {
    if (weight > 0) entropy -= weight / total * std::log(weight);
  }
  const double threshold = std::min(kTypicalEpsilon, kTypicalDelta * std::exp(-entropy));
  for (const int32_t guess : request.guesses)
    typical.push_back(weights_[guess] > threshold * total);
  return typical;
}

StatusOr<int32_t> Sampler::Draw(const RowRequest& request) {
  const SamplingParams& params = *request.sampling;
  const Row& row = Process(request);
  if (!std::isfinite(row.best)) {
    return Internal("no token can be drawn: bans and penalties leave none with a finite logit");
  }
  if (params.temperature == 0) return row.BestId();

  const int32_t size = static_cast<int32_t>(row.logits.size());
  if (params.top_k > 0 && params.top_k < size) {
    SelectBest(row, params.top_k);
    double total = 0;
    for (Candidate& candidate : candidates_) {
      candidate.weight = std::exp((double{candidate.logit} - row.best) / params.temperature);
      total += candidate.weight;
    }
    KeepTopP(params.top_p, total);
    std::erase_if(candidates_, [&](const Candidate& c) { return c.weight < params.min_p; });
    return DrawCandidate(request.random);
  }

  const double total = Weigh(row, params.temperature, /*keep_weights=*/true);
  // Tokens lighter than this have together less than 1 - top_p of the total, so the set that
  // top_p wants lies within the others; min_p wants none of its lighter ones either.
  const double light = (1 - double{params.top_p}) * total / size;
  const double bound = std::max<double>(light, params.min_p);
  if (bound == 0) return DrawWeighed(request.random, total);
  SelectHeavy(row, bound);
  KeepTopP(params.top_p, total);
  return DrawCandidate(request.random);
}

double Sampler::Weigh(const Row& row, float temperature, bool keep_weights) {
  weight_sums_.resize(row.maxima.size());
  if (keep_weights) weights_.resize(row.logits.size());
  BlockWeightsParams params;
  params.x = row.logits.data();
  params.max = row.best;
  params.scale = std::min(1 / temperature, kLargest);  // Of a tiny temperature it is infinite.
  params.weights = keep_weights ? weights_.data() : nullptr;
  params.sums = weight_sums_.data();
  params.n = static_cast<int32_t>(row.logits.size());
  cpu::BlockWeights(params);
  return std::accumulate(weight_sums_.begin(), weight_sums_.end(), 0.0);
}

void Sampler::SelectBest(const Row& row, size_t count) {
  // As many blocks as tokens are wanted have a token at least this good: so has every token
  // wanted. -infinity never counts.
  float bound = -kLargest;
  if (count <= row.maxima.size()) {
    bounds_ = row.maxima;
    std::nth_element(bounds_.begin(), bounds_.begin() + (count - 1), bounds_.end(),
                     std::greater<>());
    bound = std::max(bound, bounds_[count - 1]);
  }
  candidates_.clear();
  for (size_t block = 0; block < row.maxima.size(); ++block) {
    if (row.maxima[block] < bound) continue;
    const auto [begin, end] = BlockRange(block, row.logits.size());
    for (size_t id = begin; id < end; ++id) {
      if (row.logits[id] >= bound) {
        candidates_.push_back({static_cast<int32_t>(id), row.logits[id], 0});
      }
    }
  }
  KeepBest(static_cast<double>(count), [](const Candidate&) { return 1.0; });
}

void Sampler::SelectHeavy(const Row& row, double weight) {
  candidates_.clear();
  for (size_t block = 0; block < weight_sums_.size(); ++block) {
    if (weight_sums_[block] < weight) continue;
    const auto [begin, end] = BlockRange(block, row.logits.size());
    for (size_t id = begin; id < end; ++id) {
      if (weights_[id] >= weight) {
        candidates_.push_back({static_cast<int32_t>(id), row.logits[id], weights_[id]});
      }
    }
  }
}

template <typename Mass>
void Sampler::KeepBest(double target, const Mass& mass) {
  // Quickselect by mass: [0, begin) of ranked_ is better than [begin, end), which is better
  // than the rest and holds the last one kept.
  constexpr size_t kFew = 32;
  ranked_ = candidates_;
  size_t begin = 0, end = ranked_.size();
  double kept = 0;  // Mass of [0, begin).
  while (end - begin > kFew) {
    // The middle one of three has a better one and a worse one, so both parts are smaller.
    Candidate three[] = {ranked_[begin], ranked_[begin + (end - begin) / 2], ranked_[end - 1]};
    std::sort(std::begin(three), std::end(three), Better);
    const Candidate pivot = three[1];
    size_t middle = begin;
    double upper = 0;
    // Without branches: where the pivot is a good one, they could not be predicted.
    for (size_t i = begin; i < end; ++i) {
      const Candidate candidate = ranked_[i];
      const bool in_upper = !Better(pivot, candidate);
      ranked_[i] = ranked_[middle];
      ranked_[middle] = candidate;
      middle += in_upper;
      upper += in_upper ? mass(candidate) : 0;
    }
    if (kept + upper < target) {
      kept += upper;
      begin = middle;
    } else {
      end = middle;
    }
  }
  std::sort(ranked_.begin() + begin, ranked_.begin() + end, Better);
  while (begin < end && kept < target) kept += mass(ranked_[begin++]);
  if (begin == ranked_.size()) return;
  const Candidate last = ranked_[begin - 1];
  std::erase_if(candidates_, [&](const Candidate& c) { return Better(last, c); });
}

void Sampler::KeepTopP(double top_p, double total) {
  if (top_p == 1) return;
  KeepBest(top_p * total, [](const Candidate& c) { return c.weight; });
}

int32_t Sampler::DrawCandidate(const RandomKey& key) const {
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

int32_t Sampler::DrawWeighed(const RandomKey& key, double total) const {
  const double target = Uniform(key, 0) * total;
  double sum = 0;  // As in Weigh: it ends at exactly `total`.
  size_t block = 0;
  while (sum + weight_sums_[block] <= target) sum += weight_sums_[block++];

  // Within the block weights are added in another order than in its sum, so rounding may leave
  // the target just out of reach: then its last token is meant.
  int32_t token = -1;
  const auto [begin, end] = BlockRange(block, weights_.size());
  for (size_t id = begin; id < end && sum <= target; ++id) {
    if (weights_[id] == 0) continue;
    token = static_cast<int32_t>(id);
    sum += weights_[id];
  }
  return token;
}

}  // namespace treeline
