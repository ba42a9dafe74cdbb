// A row belongs to a team: a cluster of blocks where the GPU has clusters, else one block. Every
// pass over the row goes by contiguous ids a warp, so that a warp reads again what is in its
// multiprocessor's cache.
//
// Weights are fixed-point integers: their sums are exact, whatever their order, and so a draw
// depends neither on the number of blocks nor on what else is drawn. The last token that top_k and
// top_p keep is found by a radix selection on the bits of logits, in an order that integers have;
// the token drawn, by the warps' sums and then within one warp's ids.
#include <algorithm>
#include <climits>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/token_drawer.h"

namespace treeline::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarp;
constexpr int kTeamBlocks = 8;  // What every GPU with clusters takes.
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
  int blocks;  // Of a row.
};

// A block's shared memory; its team reads it. What is there twice is used in turns: what the last
// turn wrote may still be read.
struct Shared {
  Mass warps[2][kWarps];
  unsigned low[2][kDigits], high[2][kDigits];  // Halves of a histogram's masses.
  Mass histogram[kDigits];                     // The whole row's.
};

// Unsigned integers in the order of logits; NaN is above all.
constexpr uint32_t kInfinityKey = 0xff800000u, kMinusInfinityKey = 0x007fffffu;
__device__ uint32_t KeyOf(float logit) {
  if (std::isnan(logit)) return 0xffffffffu;
  const uint32_t bits = __float_as_uint(logit == 0 ? 0.0f : logit);  // -0 equals 0.
  return bits >> 31 != 0 ? ~bits : bits | 1u << 31;
}
__device__ float LogitOf(uint32_t key) {
  return __uint_as_float(key >> 31 != 0 ? key & ~(1u << 31) : ~key);
}

// Weighs logits in units of a fixed point.
struct Weight {
  float best, scale;
  float unit;  // How many the best logit's weight is.

  __device__ Mass operator()(float logit) const {
    return static_cast<Mass>(expf((logit - best) * scale) * unit);
  }
};
// As fine as it may be for the sum of n to have room.
__device__ Weight WeightBelow(float best, float scale, int n) {
  return {best, scale, __uint_as_float(static_cast<unsigned>(127 + 31 + __clz(n)) << 23)};
}

// Tokens from the best one to a last one, and of these, those of a least weight.
struct Kept {
  uint32_t last_key = 0;
  int last_id = INT_MAX;  // Of the tokens with this key.
  Mass least = 1;

  __device__ bool Has(uint32_t key, int id) const {
    return key > last_key || (key == last_key && id <= last_id);
  }
};

struct Plus {
  __device__ Mass operator()(Mass a, Mass b) const { return a + b; }
};
struct Larger {
  __device__ Mass operator()(Mass a, Mass b) const { return a > b ? a : b; }
};

// Of all lanes, in all lanes.
template <typename Combine>
__device__ Mass WarpReduce(Mass value, const Combine& combine) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value = combine(value, __shfl_xor_sync(kAllLanes, value, offset));
  }
  return value;
}

// Of a lane and those below it.
__device__ Mass WarpScan(Mass value) {
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const Mass below = __shfl_up_sync(kAllLanes, value, offset);
    if (threadIdx.x % kWarp >= offset) value += below;
  }
  return value;
}

// The first i in [0, count) where the sum of value(0) to value(i) exceeds `target`, of which what
// comes before i is subtracted; count where there is none. By a warp together.
template <typename Value>
__device__ int FirstPast(Mass& target, int count, const Value& value) {
  const int lane = threadIdx.x % kWarp;
  for (int first = 0; first < count; first += kWarp) {
    const Mass own = first + lane < count ? value(first + lane) : 0;
    const Mass sum = WarpScan(own);
    const unsigned past = __ballot_sync(kAllLanes, sum > target);
    if (past != 0) {
      const int at = __ffs(past) - 1;
      target -= __shfl_sync(kAllLanes, sum - own, at);
      return first + at;
    }
    target -= __shfl_sync(kAllLanes, sum, kWarp - 1);
  }
  return count;
}

// The blocks that share a row, each thread with the same idea of it. All threads of all blocks
// call a method together.
class Team {
 public:
  __device__ Team(int blocks, int n)
      : shared_(*reinterpret_cast<Shared*>(SharedFloats())),
        n_(n),
        blocks_(blocks),
        rank_(blockIdx.x % blocks),
        span_(static_cast<int>(CeilDiv(CeilDiv(n, blocks * kWarps), kWarp)) * kWarp) {}

  __device__ bool is_first_thread() const { return rank_ == 0 && threadIdx.x == 0; }

  __device__ void Wait() const {
    if (blocks_ > 1) {
      WaitForCluster();
    } else {
      __syncthreads();
    }
  }

  // From here on the row is this one.
  __device__ void SetRow(const float* row) { row_ = row; }
  // Makes `changed` what changes make of the row, and the row.
  __device__ void Change(float* changed, const LogitChange* changes, int num_changes);

  // Combines each thread's value, in no fixed order; combine(0, x) is x.
  template <typename Combine>
  __device__ Mass Reduce(Mass value, const Combine& combine);
  // The sum of mass(id, logit) over the row.
  template <typename MassOf>
  __device__ Mass Sum(const MassOf& mass);
  // The best token: its key, then the complement of its ID.
  __device__ Mass Best();
  // The first token by ID where the sum of masses exceeds `target`. REQUIRES: one is there.
  template <typename MassOf>
  __device__ int Walk(Mass target, const MassOf& mass);
  // Keeps as few of the best kept tokens as have `need` together, at least 1; of those that have a
  // mass at all. All where they have less. mass(logit).
  template <typename MassOf>
  __device__ void KeepBest(Mass need, const MassOf& mass, Kept& kept);

 private:
  __device__ int warp() const { return rank_ * kWarps + threadIdx.x / kWarp; }  // Of the team.
  // The ids of a warp: [First, End).
  __device__ int First(int warp) const { return min(warp * span_, n_); }
  __device__ int End(int warp) const { return First(warp + 1); }

  template <typename Visit>
  __device__ void ForEach(const Visit& visit) const {
    constexpr int kBatch = 8;  // Loads on their way at once.
    const int end = End(warp());
    for (int first = First(warp()) + threadIdx.x % kWarp; first < end; first += kBatch * kWarp) {
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
  // Makes the values of warps known to the team.
  __device__ void Publish(Mass value) {
    turn_ ^= 1;
    if (threadIdx.x % kWarp == 0) shared_.warps[turn_][threadIdx.x / kWarp] = value;
    Wait();
  }
  __device__ Mass Published(int warp) const {
    return Of(shared_.warps[turn_][warp % kWarps], warp / kWarps);
  }
  __device__ void AddToDigit(int digit, Mass mass) {
    // Without 64-bit atomics, which shared memory has not: the sum is exact when all have added.
    const unsigned low = static_cast<unsigned>(mass);
    const unsigned before = atomicAdd(&shared_.low[turn_][digit], low);
    const unsigned high = static_cast<unsigned>(mass >> 32) + (before + low < before ? 1 : 0);
    if (high != 0) atomicAdd(&shared_.high[turn_][digit], high);
  }

  Shared& shared_;
  const float* row_ = nullptr;
  const int n_;
  const int blocks_, rank_;
  const int span_;  // Ids of a warp.
  int turn_ = 0;
};

__device__ void Team::Change(float* changed, const LogitChange* changes, int num_changes) {
  ForEach([&](int id, float logit) { changed[id] = logit; });
  __syncthreads();
  const int first = First(rank_ * kWarps), end = First((rank_ + 1) * kWarps);
  for (int i = threadIdx.x; i < num_changes; i += kThreads) {
    const LogitChange change = changes[i];
    if (change.id < first || change.id >= end) continue;
    float logit = changed[change.id] + change.bias;
    logit = logit > 0 ? logit / change.penalty : logit * change.penalty;
    changed[change.id] = __fsub_rn(logit, change.decrease);  // Never one rounding with the product.
  }
  __syncthreads();
  row_ = changed;
}

template <typename Combine>
__device__ Mass Team::Reduce(Mass value, const Combine& combine) {
  Publish(WarpReduce(value, combine));
  Mass whole = 0;
  for (int i = threadIdx.x % kWarp; i < blocks_ * kWarps; i += kWarp) {
    whole = combine(whole, Published(i));
  }
  return WarpReduce(whole, combine);
}

template <typename MassOf>
__device__ Mass Team::Sum(const MassOf& mass) {
  Mass sum = 0;
  ForEach([&](int id, float logit) { sum += mass(id, logit); });
  return Reduce(sum, Plus());
}

__device__ Mass Team::Best() {
  Mass best = 0;
  ForEach([&](int id, float logit) {
    const Mass candidate = Mass{KeyOf(logit)} << 32 | ~static_cast<unsigned>(id);
    best = max(best, candidate);
  });
  return Reduce(best, Larger());
}

template <typename MassOf>
__device__ int Team::Walk(Mass target, const MassOf& mass) {
  Mass sum = 0;
  ForEach([&](int id, float logit) { sum += mass(id, logit); });
  Publish(WarpReduce(sum, Plus()));
  const int holder = FirstPast(target, blocks_ * kWarps, [&](int warp) { return Published(warp); });
  int found = 0;
  if (holder == warp()) {
    const int first = First(holder);
    found = first + FirstPast(target, End(holder) - first,
                              [&](int i) { return mass(first + i, row_[first + i]); });
  }
  return static_cast<int>(Reduce(found, Larger()));
}

template <typename MassOf>
__device__ void Team::KeepBest(Mass need, const MassOf& mass, Kept& kept) {
  Mass target = need - 1;
  uint32_t key = 0;  // Of the last one kept, as far as it is known.
  for (int shift = 32 - kDigitBits; shift >= 0; shift -= kDigitBits) {
    turn_ ^= 1;
    if (threadIdx.x < kDigits) {
      shared_.low[turn_][threadIdx.x] = shared_.high[turn_][threadIdx.x] = 0;
    }
    __syncthreads();
    ForEach([&](int id, float logit) {
      const uint32_t own = KeyOf(logit);
      if ((uint64_t{own ^ key} >> (shift + kDigitBits)) != 0 || !kept.Has(own, id)) return;
      const Mass value = mass(logit);
      if (value != 0) AddToDigit((own >> shift) % kDigits, value);
    });
    Wait();
    if (threadIdx.x < kDigits) {
      Mass sum = 0;
      for (int rank = 0; rank < blocks_; ++rank) {
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

  // The tokens with this key have the same mass each; what is missing takes some, by ID.
  const Mass each = mass(LogitOf(key));
  const Mass others = target / each;  // Before the last one.
  int last_id = key == kept.last_key ? kept.last_id : INT_MAX;
  if ((others + 1) * each < shared_.histogram[key % kDigits]) {
    last_id = Walk(others, [&](int id, float logit) -> Mass {
      return KeyOf(logit) == key && kept.Has(key, id) ? 1 : 0;
    });
  }
  kept.last_key = key;
  kept.last_id = last_id;
}

// The token drawn from the team's row. best: of Team::Best, finite.
__device__ int DrawFrom(Team& team, const RowDraw& draw, Mass best, int n) {
  if (draw.scale == 0) return static_cast<int>(~static_cast<unsigned>(best));
  const Weight weight = WeightBelow(LogitOf(best >> 32), draw.scale, n);
  Kept kept;
  const auto kept_weight = [&](int id, float logit) -> Mass {
    if (!kept.Has(KeyOf(logit), id)) return 0;
    const Mass mass = weight(logit);
    return mass >= kept.least ? mass : 0;
  };
  if (draw.top_k > 0 && draw.top_k < n) {
    team.KeepBest(
        draw.top_k, [](float) -> Mass { return 1; }, kept);
  }
  Mass total = team.Sum(kept_weight);
  const Mass least = max(Mass{1}, static_cast<Mass>(draw.min_p * weight.unit));
  if (draw.top_p < 1) {
    // Tokens lighter than `light` have together less than 1 - top_p of the total: none is kept.
    const Mass light = static_cast<Mass>((1 - double{draw.top_p}) * static_cast<double>(total) / n);
    const Mass lightest = max(light, least);
    const Mass need = static_cast<Mass>(ceil(double{draw.top_p} * static_cast<double>(total)));
    team.KeepBest(
        max(Mass{1}, need),
        [&](float logit) -> Mass {
          const Mass mass = weight(logit);
          return mass >= lightest ? mass : 0;
        },
        kept);
  }
  kept.least = least;
  if (draw.top_p < 1 || draw.min_p > 0) total = team.Sum(kept_weight);
  const Mass target = static_cast<Mass>(draw.uniform * static_cast<double>(total));
  return team.Walk(min(target, total - 1), kept_weight);
}

__device__ bool IsFinite(Mass best) {
  const uint32_t key = static_cast<uint32_t>(best >> 32);
  return key > kMinusInfinityKey && key < kInfinityKey;
}

// Grid: a team for each row.
__global__ void __launch_bounds__(kThreads, 2) DrawTokensKernel(DrawStep step) {
  WaitForEarlierKernels();
  const int row = blockIdx.x / step.blocks;
  const float* logits = step.logits + int64_t{row} * step.n;
  const RowDraw draw = step.draws[row];
  Team team(step.blocks, step.n);
  team.SetRow(logits);

  DrawnToken drawn = {-1, kNan};
  Mass best = team.Best();
  if (IsFinite(best)) {
    const Weight weight = WeightBelow(LogitOf(best >> 32), 1, step.n);
    const Mass total = team.Sum([&](int, float logit) { return weight(logit); });
    if (draw.num_changes > 0) {
      team.Change(step.changed + int64_t{draw.changed_row} * step.n,
                  step.changes + draw.first_change, draw.num_changes);
      best = team.Best();
    }
    drawn.logprob = -kInfinity;
    if (IsFinite(best)) {
      drawn.id = DrawFrom(team, draw, best, step.n);
      const double log_sum = weight.best + log(static_cast<double>(total) / weight.unit);
      drawn.logprob = static_cast<float>(logits[drawn.id] - log_sum);
    }
  }
  if (team.is_first_thread()) step.tokens[row] = drawn;
  team.Wait();  // A block that ends takes its shared memory along.
}

}  // namespace

void TokenDrawer::Draw(const DrawTokensParams& params) {
  std::vector<RowDraw> rows(params.rows);
  int num_changes = 0, changed_rows = 0;
  for (int32_t row = 0; row < params.rows; ++row) {
    const TokenDraw& draw = params.draws[row];
    RowDraw& to = rows[row];
    to.scale = 0;
    if (draw.temperature > 0) {  // Of a tiny one the inverse is infinite.
      to.scale = std::min(1 / draw.temperature, std::numeric_limits<float>::max());
    }
    to.top_k = draw.top_k;
    to.top_p = draw.top_p;
    to.min_p = draw.min_p;
    to.uniform = draw.uniform;
    to.first_change = num_changes;
    to.num_changes = draw.num_changes;
    to.changed_row = changed_rows;
    num_changes += draw.num_changes;
    if (draw.num_changes > 0) ++changed_rows;
  }
  DrawStep step{};
  step.logits = params.logits;
  step.tokens = params.tokens;
  step.n = params.n;
  step.blocks = stream_.has_clusters() ? kTeamBlocks : 1;
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
  LaunchClusters(stream_, "DrawTokens", DrawTokensKernel, dim3(params.rows * step.blocks),
                 step.blocks, kThreads, sizeof(Shared), step);
}

}  // namespace treeline::cuda
