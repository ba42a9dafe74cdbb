#include "kernels/cpu/token_drawer.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <utility>

#include "kernels/cpu/vocabulary.h"

namespace treeline::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLargest = std::numeric_limits<float>::max();

// The values of block `block` in a row of `size`: [first, second).
std::pair<size_t, size_t> BlockRange(size_t block, size_t size) {
  return {block * kVocabularyBlock, std::min((block + 1) * kVocabularyBlock, size)};
}

}  // namespace

void ApplyChanges(std::span<const LogitChange> changes, std::span<float> logits) {
  for (const LogitChange& change : changes) {
    float& logit = logits[change.id];
    logit += change.bias;
    logit = logit > 0 ? logit / change.penalty : logit * change.penalty;
    logit -= change.decrease;
  }
}

void TokenDrawer::Row::Set(std::span<const float> values) {
  logits = values;
  const int32_t size = static_cast<int32_t>(values.size());
  maxima.resize(VocabularyBlocks(size));
  BlockMaxima({values.data(), maxima.data(), size});
  best = -std::numeric_limits<float>::infinity();
  for (const float maximum : maxima) {
    if (!(maximum <= best)) best = maximum;  // Also where it is NaN.
    if (std::isnan(best)) return;
  }
}

int32_t TokenDrawer::Row::BestId() const {
  const size_t block = std::find(maxima.begin(), maxima.end(), best) - maxima.begin();
  const auto first = logits.begin() + block * kVocabularyBlock;
  return static_cast<int32_t>(std::find(first, logits.end(), best) - logits.begin());
}

DrawnToken TokenDrawer::Draw(std::span<const float> logits, const TokenDraw& draw) {
  raw_.Set(logits);
  if (!std::isfinite(raw_.best)) return {-1, std::numeric_limits<float>::quiet_NaN()};
  const double log_sum = raw_.best + std::log(Weigh(raw_, 1, /*keep_weights=*/false));
  const Row& row = Changed(draw);
  if (!std::isfinite(row.best)) return {-1, -kInfinity};
  const int32_t id = DrawFrom(row, draw);
  return {id, static_cast<float>(logits[id] - log_sum)};
}

const TokenDrawer::Row& TokenDrawer::Changed(const TokenDraw& draw) {
  if (draw.num_changes == 0) return raw_;
  changed_logits_.assign(raw_.logits.begin(), raw_.logits.end());
  ApplyChanges({draw.changes, static_cast<size_t>(draw.num_changes)}, changed_logits_);
  changed_.Set(changed_logits_);
  return changed_;
}

int32_t TokenDrawer::DrawFrom(const Row& row, const TokenDraw& draw) {
  if (draw.temperature == 0) return row.BestId();

  const int32_t size = static_cast<int32_t>(row.logits.size());
  if (draw.top_k > 0 && draw.top_k < size) {
    SelectBest(row, draw.top_k);
    double total = 0;
    for (Candidate& candidate : candidates_) {
      candidate.weight = std::exp((double{candidate.logit} - row.best) / draw.temperature);
      total += candidate.weight;
    }
    KeepTopP(draw.top_p, total);
    std::erase_if(candidates_, [&](const Candidate& c) { return c.weight < draw.min_p; });
    return DrawCandidate(draw.uniform);
  }

  const double total = Weigh(row, draw.temperature, /*keep_weights=*/true);
  // Tokens lighter than this have together less than 1 - top_p of the total, so the set that
  // top_p wants lies within the others; min_p wants none of its lighter ones either.
  const double light = (1 - double{draw.top_p}) * total / size;
  const double bound = std::max<double>(light, draw.min_p);
  if (bound == 0) return DrawWeighed(draw.uniform, total);
  SelectHeavy(row, bound);
  KeepTopP(draw.top_p, total);
  return DrawCandidate(draw.uniform);
}

double TokenDrawer::Weigh(const Row& row, float temperature, bool keep_weights) {
  weight_sums_.resize(row.maxima.size());
  if (keep_weights) weights_.resize(row.logits.size());
  BlockWeightsParams params;
  params.x = row.logits.data();
  params.max = row.best;
  params.scale = std::min(1 / temperature, kLargest);  // Of a tiny temperature it is infinite.
  params.weights = keep_weights ? weights_.data() : nullptr;
  params.sums = weight_sums_.data();
  params.n = static_cast<int32_t>(row.logits.size());
  BlockWeights(params);
  return std::accumulate(weight_sums_.begin(), weight_sums_.end(), 0.0);
}

void TokenDrawer::SelectBest(const Row& row, size_t count) {
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

void TokenDrawer::SelectHeavy(const Row& row, double weight) {
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
void TokenDrawer::KeepBest(double target, const Mass& mass) {
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

void TokenDrawer::KeepTopP(double top_p, double total) {
  if (top_p == 1) return;
  KeepBest(top_p * total, [](const Candidate& c) { return c.weight; });
}

int32_t TokenDrawer::DrawCandidate(double uniform) const {
  double total = 0;
  for (const Candidate& candidate : candidates_) total += candidate.weight;

  // The running sum ends at exactly `total`, which is above the target.
  const double target = uniform * total;
  double sum = 0;
  size_t at = 0;
  while ((sum += candidates_[at].weight) <= target) ++at;
  return candidates_[at].id;
}

int32_t TokenDrawer::DrawWeighed(double uniform, double total) const {
  const double target = uniform * total;
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

}  // namespace treeline::cpu
