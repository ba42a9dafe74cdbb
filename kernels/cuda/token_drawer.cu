// A row belongs to a team: a cluster of blocks where the GPU has clusters, else one block. Every
// pass over the row goes by contiguous ids a warp, so that a warp reads again what is in its
// multiprocessor's cache.
//
// Weights are fixed-point integers: their sums are exact, whatever their order, and so a draw
// depends neither on the number of blocks nor on what else is drawn. The last token that top_k and
// top_p keep is found by a radix selection on the bits of logits, in an order that integers have;
// the token drawn, by the warps' sums and then within one warp's ids.
#include <algorithm>
#include <bit>
#include <climits>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/token_drawer.h"
#include "kernels/cuda/token_rank.cuh"

namespace treeline::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarp;
constexpr int kBlocksOfMultiprocessor = 2;
constexpr int kDigitBits = 8;
constexpr int kDigits = 1 << kDigitBits;
static_assert(kDigits <= kThreads);

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// A count of tokens, or of units of weight.
using Mass = unsigned long long;

// What the kernel takes of a TokenDraw.
struct RowDraw {
  float scale;  // 1 / temperature; 0: the best token is drawn.
  int top_k;
  float top_p, min_p;
  // Tokens with less than this share of the total have together less than 1 - top_p: none is kept.
  double light;
  double uniform;
  int first_change, num_changes;
  int changed_row;  // Where there are changes.
};

struct DrawStep {
  const float* logits;         // [rows, n]
  const RowDraw* draws;        // [rows]
  const LogitChange* changes;  // Of all rows.
  float* changed;              // [rows that have changes, n]
  DrawnToken* tokens;          // [rows]
  int n;
  // What the best logit weighs: so much that the sum of n has room.
  float unit;
  double log_unit;  // Its logarithm.
};

// A block's shared memory; its team reads it. What is there twice is used in turns: what the last
// turn wrote may still be read.
struct Shared {
  Mass warps[2][kWarps];
  unsigned low[2][kDigits], high[2][kDigits];  // Halves of a histogram's masses.
  Mass histogram[kDigits];                     // The whole row's.
};

// Some tokens, and what each is worth.
struct Measure {
  // Those from the best key to the last one, of which they are those up to an ID.
  uint32_t best_key = 0xffffffffu, last_key = 0;
  int last_id = INT_MAX;
  // exp((logit - best) * scale) in units, where that makes `least` of them.
  float best = 0, scale = 0;
  float unit = 0;
  Mass least = 1;
  bool counts = false;  // Each token is worth 1.

  __device__ Mass Of(float logit) const {
    if (counts) return 1;
    const Mass mass = static_cast<Mass>(expf((logit - best) * scale) * unit);
    return mass >= least ? mass : 0;
  }
  __device__ Mass operator()(int id, float logit) const {
    const uint32_t key = KeyOf(logit);
    const bool is_in = key <= best_key && (key > last_key || (key == last_key && id <= last_id));
    return is_in ? Of(logit) : 0;
  }
};
// All tokens by their weights.
__device__ Measure Weights(float best, float scale, float unit) {
  Measure weights;
  weights.best = best;
  weights.scale = scale;
  weights.unit = unit;
  return weights;
}

__device__ int Lane() { return threadIdx.x % kWarp; }

// Of all lanes, in all lanes.
__device__ Mass WarpMax(Mass value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value = max(value, __shfl_xor_sync(kAllLanes, value, offset));
  }
  return value;
}
__device__ Mass WarpSum(Mass value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, offset);
  }
  return value;
}
// Of a lane and those below it.
__device__ Mass WarpScan(Mass value) {
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const Mass below = __shfl_up_sync(kAllLanes, value, offset);
    if (Lane() >= offset) value += below;
  }
  return value;
}

// The first lane where the sum of lanes up to it exceeds `target`; kWarp where there is none. What
// comes before it is subtracted from `target`.
__device__ int FirstLanePast(Mass& target, Mass value) {
  const Mass sum = WarpScan(value);
  const unsigned past = __ballot_sync(kAllLanes, sum > target);
  if (past == 0) {
    target -= __shfl_sync(kAllLanes, sum, kWarp - 1);
    return kWarp;
  }
  const int lane = __ffs(past) - 1;
  target -= __shfl_sync(kAllLanes, sum - value, lane);
  return lane;
}

// The same of value(i), i in [0, count), by a warp together; count where there is none. Each lane
// adds up a share, and the share that exceeds is looked at again.
template <typename Value>
__device__ int FirstPast(Mass& target, int count, const Value& value) {
  const int share = static_cast<int>(CeilDiv(count, kWarp));
  const int own = Lane() * share;
  Mass sum = 0;
#pragma unroll 1
  for (int i = own; i < min(own + share, count); ++i) sum += value(i);
  const int lane = FirstLanePast(target, sum);
  if (lane == kWarp) return count;
  const int end = min((lane + 1) * share, count);
#pragma unroll 1
  for (int first = lane * share;; first += kWarp) {
    const int i = first + Lane();
    const int at = FirstLanePast(target, i < end ? value(i) : 0);
    if (at < kWarp) return first + at;
  }
}

// The blocks that share a row. All threads of all blocks call a method together; what it returns
// is the same in all of them, but of Find. Calls are not inlined: a kernel that runs once in a step
// finds little of its code in the cache.
template <int kBlocks>
class Team {
 public:
  __device__ Team(const float* row, int n)
      : shared_(*reinterpret_cast<Shared*>(SharedFloats())),
        row_(row),
        n_(n),
        rank_(blockIdx.x % kBlocks),
        span_(static_cast<int>(CeilDiv(CeilDiv(n, kTeamWarps), kWarp)) * kWarp) {}

  __device__ bool is_first_warp() const { return warp() == 0; }
  __device__ bool is_first_thread() const { return is_first_warp() && Lane() == 0; }

  __device__ void Wait() const {
    if constexpr (kBlocks > 1) {
      WaitForCluster();
    } else {
      __syncthreads();
    }
  }

  // Makes `changed` what changes make of the row, and the row.
  __device__ __noinline__ void Change(float* changed, const LogitChange* changes, int num_changes) {
    ForEach([&](int id, float logit) { changed[id] = logit; });
    __syncthreads();
    const int first = First(rank_ * kWarps), end = First((rank_ + 1) * kWarps);
    for (int i = threadIdx.x; i < num_changes; i += kThreads) {
      const LogitChange change = changes[i];
      if (change.id < first || change.id >= end) continue;
      float logit = changed[change.id] + change.bias;
      logit = logit > 0 ? logit / change.penalty : logit * change.penalty;
      // Never rounded only once with the product.
      changed[change.id] = __fsub_rn(logit, change.decrease);
    }
    __syncthreads();
    row_ = changed;
  }
  // The highest rank.
  __device__ __noinline__ Mass Best() {
    Mass best = 0;
    ForEach([&](int id, float logit) { best = max(best, RankOf(id, logit)); });
    return Largest(best);
  }
  __device__ __noinline__ Mass Sum(const Measure& measure) {
    const Measure mass = measure;
    Mass sum = 0;
    ForEach([&](int id, float logit) { sum += mass(id, logit); });
    Publish(WarpSum(sum));
    Mass total = 0;
    for (int i = Lane(); i < kTeamWarps; i += kWarp) total += Published(i);
    return WarpSum(total);
  }
  // The first token by ID where the sum of a measure exceeds `target`, in the lanes of the warp
  // whose ids it is among; -1 in others. REQUIRES: Sum was called last, of this measure, and is
  // above the target.
  __device__ __noinline__ int Find(Mass target, const Measure& measure) const {
    const int holder = FirstPast(target, kTeamWarps, [&](int warp) { return Published(warp); });
    if (holder != warp()) return -1;
    const int first = First(holder);
    return first + FirstPast(target, End(holder) - first,
                             [&](int i) { return measure(first + i, row_[first + i]); });
  }
  // Leaves in the measure as few of its best tokens as have `need` together, which is at least 1;
  // all where they have less.
  __device__ __noinline__ void KeepBest(Mass need, Measure& measure) {
    const Measure mass = measure;
    Mass target = need - 1;
    uint32_t key = 0;  // Of the last one kept, as far as it is known.
#pragma unroll 1
    for (int shift = 32 - kDigitBits; shift >= 0; shift -= kDigitBits) {
      turn_ ^= 1;
      if (threadIdx.x < kDigits) {
        shared_.low[turn_][threadIdx.x] = shared_.high[turn_][threadIdx.x] = 0;
      }
      __syncthreads();
      ForEach([&](int id, float logit) {
        const uint32_t own = KeyOf(logit);
        if ((uint64_t{own ^ key} >> (shift + kDigitBits)) != 0) return;
        const Mass value = mass(id, logit);
        if (value != 0) AddToDigit((own >> shift) % kDigits, value);
      });
      Wait();
      if (threadIdx.x < kDigits) {
        Mass sum = 0;
        for (int rank = 0; rank < kBlocks; ++rank) {
          sum += Of(shared_.low[turn_][threadIdx.x], rank) +
                 (Mass{Of(shared_.high[turn_][threadIdx.x], rank)} << 32);
        }
        shared_.histogram[threadIdx.x] = sum;
      }
      __syncthreads();
      const int from_above =
          FirstPast(target, kDigits, [&](int i) { return shared_.histogram[kDigits - 1 - i]; });
      if (from_above == kDigits) return;
      key |= static_cast<uint32_t>(kDigits - 1 - from_above) << shift;
    }

    // The tokens with this key are worth the same each; what is missing takes some, by ID.
    const Mass each = mass.Of(LogitOf(key));
    const Mass others = target / each;  // Before the last one.
    int last_id = key == mass.last_key ? mass.last_id : INT_MAX;
    if ((others + 1) * each < shared_.histogram[key % kDigits]) {
      Measure equals = mass;
      equals.best_key = key;
      equals.last_key = key;
      equals.last_id = last_id;
      equals.counts = true;
      Sum(equals);
      last_id = static_cast<int>(Largest(Find(others, equals) + 1)) - 1;
    }
    measure.last_key = key;
    measure.last_id = last_id;
  }

 private:
  static constexpr int kTeamWarps = kBlocks * kWarps;

  __device__ int warp() const { return rank_ * kWarps + threadIdx.x / kWarp; }  // Of the team.
  // The ids of a warp: [First, End).
  __device__ int First(int warp) const { return min(warp * span_, n_); }
  __device__ int End(int warp) const { return First(warp + 1); }

  template <typename Visit>
  __device__ void ForEach(const Visit& visit) const {
    constexpr int kBatch = 4;  // Loads on their way at once.
    const int end = End(warp());
#pragma unroll 1
    for (int first = First(warp()) + Lane(); first < end; first += kBatch * kWarp) {
      float logits[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int id = first + i * kWarp;
        logits[i] = id < end ? row_[id] : 0.0f;
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int id = first + i * kWarp;
        if (id < end) visit(id, logits[i]);
      }
    }
  }

  // What block `rank` has where this block has `mine`.
  template <typename T>
  __device__ T Of(const T& mine, int rank) const {
    return *reinterpret_cast<const T*>(OfBlock(reinterpret_cast<const float*>(&mine), rank));
  }
  // Makes a value of each warp known to the team.
  __device__ void Publish(Mass value) {
    turn_ ^= 1;
    if (Lane() == 0) shared_.warps[turn_][threadIdx.x / kWarp] = value;
    Wait();
  }
  __device__ Mass Published(int warp) const {
    return Of(shared_.warps[turn_][warp % kWarps], warp / kWarps);
  }
  __device__ Mass Largest(Mass value) {
    Publish(WarpMax(value));
    Mass largest = 0;
    for (int i = Lane(); i < kTeamWarps; i += kWarp) largest = max(largest, Published(i));
    return WarpMax(largest);
  }

  __device__ void AddToDigit(int digit, Mass mass) {
    // Shared memory has no 64-bit additions: halves are exact when all have added theirs.
    const unsigned low = static_cast<unsigned>(mass);
    const unsigned before = atomicAdd(&shared_.low[turn_][digit], low);
    const unsigned high = static_cast<unsigned>(mass >> 32) + (before + low < before ? 1 : 0);
    if (high != 0) atomicAdd(&shared_.high[turn_][digit], high);
  }

  Shared& shared_;
  const float* row_;
  const int n_;
  const int rank_;
  const int span_;  // Ids of a warp.
  int turn_ = 0;
};

// The token drawn from the team's row, in one warp; -1 in others. best: the row's, finite. total:
// what the measure of a draw without filters was last summed up to; 0 where it was not.
template <int kBlocks>
__device__ int DrawFrom(Team<kBlocks>& team, const DrawStep& step, const RowDraw& draw, Mass best,
                        Mass total) {
  if (draw.scale == 0) return team.is_first_warp() ? IdOf(best) : -1;
  Measure kept = Weights(LogitOfRank(best), draw.scale, step.unit);
  if (draw.top_k > 0 && draw.top_k < step.n) {
    kept.counts = true;
    team.KeepBest(draw.top_k, kept);
    kept.counts = false;
    total = 0;
  }
  if (total == 0) total = team.Sum(kept);
  const Mass least = max(Mass{1}, static_cast<Mass>(draw.min_p * kept.unit));
  if (draw.top_p < 1) {
    const Mass need = static_cast<Mass>(ceil(double{draw.top_p} * static_cast<double>(total)));
    const Mass light = static_cast<Mass>(draw.light * static_cast<double>(total));
    kept.least = max(light, least);
    team.KeepBest(max(Mass{1}, need), kept);
  }
  kept.least = least;
  if (draw.top_p < 1 || draw.min_p > 0) total = team.Sum(kept);
  const Mass target = static_cast<Mass>(draw.uniform * static_cast<double>(total));
  return team.Find(min(target, total - 1), kept);
}

// Grid: a team for each row.
template <int kBlocks>
__global__ void __launch_bounds__(kThreads, kBlocksOfMultiprocessor)
    DrawTokensKernel(DrawStep step) {
  WaitForEarlierKernels();
  const int row = blockIdx.x / kBlocks;
  const float* logits = step.logits + int64_t{row} * step.n;
  const RowDraw draw = step.draws[row];
  DrawnToken& drawn = step.tokens[row];
  Team<kBlocks> team(logits, step.n);

  Mass best = team.Best();
  const bool is_damaged = !IsFinite(best);
  if (!is_damaged) {
    const Measure weights = Weights(LogitOfRank(best), 1, step.unit);
    const Mass total = team.Sum(weights);
    if (draw.num_changes > 0) {
      team.Change(step.changed + int64_t{draw.changed_row} * step.n,
                  step.changes + draw.first_change, draw.num_changes);
      best = team.Best();
    }
    if (IsFinite(best)) {
      const bool is_summed = draw.scale == 1 && draw.num_changes == 0;
      const int id = DrawFrom(team, step, draw, best, is_summed ? total : 0);
      if (id >= 0 && Lane() == 0) {
        const double log_sum = weights.best + log(static_cast<double>(total)) - step.log_unit;
        drawn = {id, static_cast<float>(logits[id] - log_sum)};
      }
    }
  }
  if (!IsFinite(best) && team.is_first_thread()) drawn = {-1, is_damaged ? kNan : -kInfinity};
  team.Wait();  // A block that ends takes its shared memory along.
}

// Without its place among the changes.
RowDraw RowDrawOf(const TokenDraw& draw, int n) {
  RowDraw row{};
  if (draw.temperature > 0) {  // Of a tiny one the inverse is infinite.
    row.scale = std::min(1 / draw.temperature, std::numeric_limits<float>::max());
  }
  row.top_k = draw.top_k;
  row.top_p = draw.top_p;
  row.min_p = draw.min_p;
  row.light = (1 - double{draw.top_p}) / n;
  row.uniform = draw.uniform;
  row.num_changes = draw.num_changes;
  return row;
}

}  // namespace

void TokenDrawer::Draw(const DrawTokensParams& params) {
  std::vector<RowDraw> rows;
  int num_changes = 0, changed_rows = 0;
  for (int32_t row = 0; row < params.rows; ++row) {
    RowDraw& draw = rows.emplace_back(RowDrawOf(params.draws[row], params.n));
    draw.first_change = num_changes;
    draw.changed_row = changed_rows;
    num_changes += draw.num_changes;
    if (draw.num_changes > 0) ++changed_rows;
  }
  DrawStep step{};
  step.logits = params.logits;
  step.tokens = params.tokens;
  step.n = params.n;
  step.unit = std::ldexp(1.0f, 63 - std::bit_width(static_cast<unsigned>(params.n)));
  step.log_unit = std::log(double{step.unit});
  if (changed_rows > 0) step.changed = changed_.Floats(size_t(changed_rows) * params.n);

  const size_t rows_bytes = rows.size() * sizeof(RowDraw);
  const std::byte* uploaded =
      stream_.Upload(rows_bytes + num_changes * sizeof(LogitChange), [&](std::byte* to) {
        std::memcpy(to, rows.data(), rows_bytes);
        auto* changes = reinterpret_cast<LogitChange*>(to + rows_bytes);
        for (int32_t row = 0; row < params.rows; ++row) {
          const TokenDraw& draw = params.draws[row];
          changes = std::copy_n(draw.changes, draw.num_changes, changes);
        }
      });
  if (uploaded == nullptr) return;
  step.draws = reinterpret_cast<const RowDraw*>(uploaded);
  step.changes = reinterpret_cast<const LogitChange*>(uploaded + rows_bytes);
  // As many blocks a row as still run all at once; every GPU with clusters takes 8.
  const auto launch = [&](auto kernel, int blocks) {
    LaunchClusters(stream_, "DrawTokens", kernel, dim3(params.rows * blocks), blocks, kThreads,
                   sizeof(Shared), step);
  };
  const int blocks_at_once = kBlocksOfMultiprocessor * stream_.num_multiprocessors();
  const int most = stream_.has_clusters() ? blocks_at_once / std::max(1, params.rows) : 1;
  if (most >= 8) {
    launch(DrawTokensKernel<8>, 8);
  } else if (most >= 4) {
    launch(DrawTokensKernel<4>, 4);
  } else {
    launch(DrawTokensKernel<1>, 1);
  }
}

}  // namespace treeline::cuda
