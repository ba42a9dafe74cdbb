// A row belongs to a team: a cluster of blocks where the GPU has clusters, else one block. Their
// number does not depend on the number of rows, and so neither do sums.
//
// A block goes over its share of the ids in chunks, a few logits a thread, and knows the best k so
// far. That k of its threads have something better than a rank bounds the chunk's k-th best from
// below; what is better than the bound is little, and is ranked by counting for each token how many
// are better. The blocks' best come together in the same way.
//
// Functions that are called twice are not inlined: a kernel that runs once in a step finds little
// of its code in the cache.
#include <cfloat>
#include <cmath>
#include <limits>

#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/token_rank.cuh"
#include "kernels/cuda/vocabulary.h"

namespace treeline::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarp;
constexpr int kValues = 16;  // Of a thread in a chunk.
constexpr int kChunk = kThreads * kValues;
// The best so far, and all values of as many threads.
constexpr int kMaxCandidates = kMaxTopTokens * (1 + kValues);
static_assert(kMaxTopTokens <= kWarp);

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr TokenRank kBestRank = ~TokenRank{0};
// Of no token above -infinity.
constexpr TokenRank kNoRank = TokenRank{kMinusInfinityKey} << 32 | 0xffffffffu;

// The sum of exp(logit - best). While there is no logit above -infinity the best is finite all the
// same, so that what weighs nothing adds 0.
struct ExpSum {
  float best = -FLT_MAX, sum = 0;

  // Makes another logit, which is not less, the best.
  __device__ void Rescale(float logit) {
    sum *= expf(best - logit);
    best = logit;
  }
  __device__ void Add(float logit) { sum += expf(logit - best); }
};

// A block's shared memory; its team reads it.
struct Shared {
  TokenRank best[kMaxTopTokens];  // Of the ids so far, in order.
  TokenRank candidates[kMaxCandidates];
  int num_candidates;  // In the end the best are as many, but at most k.
  ExpSum sum;          // Of the block's ids.
  float warp_sums[kWarps];
  float logits[kValues][kThreads];  // Of a chunk; a thread's own.
};
__device__ Shared& OwnShared() { return *reinterpret_cast<Shared*>(SharedFloats()); }

// What block `rank` has where this block has `mine`.
template <typename T>
__device__ T Of(const T& mine, int rank) {
  return *reinterpret_cast<const T*>(OfBlock(reinterpret_cast<const float*>(&mine), rank));
}

// Makes the best so far, `size` of them, candidates. A token belongs to the best k only if it is
// better than the result, which what at most k threads have is. rank: of a thread's best token.
__device__ __noinline__ TokenRank Bound(TokenRank rank, int size, int k) {
  Shared& shared = OwnShared();
  const int thread = threadIdx.x;
  if (thread < size) shared.candidates[thread] = shared.best[thread];
  if (thread == 0) shared.num_candidates = size;
  // Fewer than k threads are above `high`; more than k above `low`, until it is the bound.
  TokenRank low = size == k ? shared.best[k - 1] : kNoRank, high = kBestRank;
  int above = __syncthreads_count(rank > low);
#pragma unroll 1
  while (above > k) {
    const TokenRank middle = low + (high - low) / 2;
    const int count = __syncthreads_count(rank > middle);
    if (count < k) {
      high = middle;
    } else {
      low = middle;
      above = count;
    }
  }
  return low;
}

// Makes the candidates' best k the best so far; returns how many these are. size: how many of the
// candidates were the best before; has_added: the thread made another one.
__device__ __noinline__ int KeepBest(int size, int k, bool has_added) {
  Shared& shared = OwnShared();
  // Where none was added nothing is read: no one waits for readers before the next chunk.
  if (!__syncthreads_or(has_added)) return size;
  const int count = shared.num_candidates;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
#pragma unroll 1
  for (int i = warp; i < count; i += kWarps) {
    const TokenRank rank = shared.candidates[i];
    int better = 0;
#pragma unroll 1
    for (int j = lane; j - lane < count; j += kWarp) {
      const bool is_better = j < count && shared.candidates[j] > rank;
      better += __popc(__ballot_sync(kAllLanes, is_better));
    }
    if (better < k && lane == 0) shared.best[better] = rank;
  }
  __syncthreads();
  return min(count, k);
}

// Brings the thread's logits of the ids [first, end) of a row, as far as the chunk goes.
__device__ void Load(const float* row, int first, int end) {
  float logits[kValues];  // On their way all at once.
#pragma unroll
  for (int i = 0; i < kValues; ++i) {
    const int id = first + i * kThreads + static_cast<int>(threadIdx.x);
    logits[i] = id < end ? row[id] : -kInfinity;
  }
#pragma unroll
  for (int i = 0; i < kValues; ++i) OwnShared().logits[i][threadIdx.x] = logits[i];
}

// Of the thread's logits of the chunk from `first` on; kNoRank where none is above -infinity. NaN
// is never the best.
__device__ __noinline__ TokenRank Best(int first) {
  float best = -kInfinity;
  int at = 0;
#pragma unroll 4
  for (int i = 0; i < kValues; ++i) {
    const float logit = OwnShared().logits[i][threadIdx.x];
    if (logit > best) {
      best = logit;
      at = i;
    }
  }
  return best > -kInfinity ? RankOf(first + at * kThreads + threadIdx.x, best) : kNoRank;
}

// Finds the best of the ids [first, end) of a row, and leaves in shared memory what there is to
// know of them once the block has waited; returns how many the best are.
__device__ int LookAt(const float* row, int first, int end, int k) {
  Shared& shared = OwnShared();
  int size = 0;
  ExpSum sum;
  if (threadIdx.x == 0) shared.num_candidates = 0;
#pragma unroll 1
  for (; first < end; first += kChunk) {
    Load(row, first, end);
    TokenRank rank = Best(first);
    sum.Rescale(fmaxf(sum.best, LogitOfRank(rank)));
#pragma unroll 4
    for (int i = 0; i < kValues; ++i) sum.Add(shared.logits[i][threadIdx.x]);

    const TokenRank bound = Bound(rank, size, k);
    const bool adds = rank > bound;
#pragma unroll 1
    for (; rank > bound; rank = Best(first)) {
      shared.candidates[atomicAdd(&shared.num_candidates, 1)] = rank;
      shared.logits[(IdOf(rank) - first) / kThreads][threadIdx.x] = -kInfinity;
    }
    size = KeepBest(size, k, adds);
  }
  if (size > 0) sum.Rescale(LogitOfRank(shared.best[0]));
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const float warp_sum = WarpSum(sum.sum);
  if (lane == 0) shared.warp_sums[warp] = warp_sum;
  __syncthreads();
  sum.sum = WarpSum(lane < kWarps ? shared.warp_sums[lane] : 0.0f);
  if (threadIdx.x == 0) shared.sum = sum;
  return size;
}

// The same of a whole row, in a cluster's first block.
template <int kBlocks>
__device__ int AddOtherBlocks(int size, int k) {
  static_assert(kBlocks - 1 <= kWarps);
  Shared& shared = OwnShared();
  // A warp for each of the others.
  const int other = 1 + threadIdx.x / kWarp, place = threadIdx.x % kWarp;
  TokenRank rank = kNoRank;
  if (other < kBlocks && place < min(Of(shared.num_candidates, other), k)) {
    rank = Of(shared.best[place], other);
  }
  ExpSum sum;
  if (threadIdx.x < kBlocks) sum = Of(shared.sum, threadIdx.x);
  const TokenRank bound = Bound(rank, size, k);
  const bool adds = rank > bound;
  if (adds) shared.candidates[atomicAdd(&shared.num_candidates, 1)] = rank;
  size = KeepBest(size, k, adds);
  if (size > 0) sum.Rescale(LogitOfRank(shared.best[0]));
  sum.sum = WarpSum(sum.sum);
  if (threadIdx.x == 0) shared.sum = sum;
  return size;
}

// Grid: a team for each row.
template <int kBlocks>
__global__ void __launch_bounds__(kThreads, 2) TopTokensKernel(TopTokensParams params) {
  WaitForEarlierKernels();
  const int row = blockIdx.x / kBlocks, block = blockIdx.x % kBlocks;
  const int share = static_cast<int>(CeilDiv(params.n, kBlocks * kWarp)) * kWarp;
  int size = LookAt(params.logits + int64_t{row} * params.n, block * share,
                    min((block + 1) * share, params.n), params.k);
  if constexpr (kBlocks > 1) {
    WaitForCluster();
    if (block == 0) size = AddOtherBlocks<kBlocks>(size, params.k);
    LeaveCluster();  // A block that ends takes its shared memory along.
  } else {
    __syncthreads();
  }
  const int place = threadIdx.x;
  if (block != 0 || place >= params.k) return;
  const Shared& shared = OwnShared();
  const ExpSum sum = shared.sum;
  // Where a logit is NaN, or the best is infinite, so is the sum NaN.
  const bool is_damaged = size == 0 || std::isnan(sum.sum);
  int id = -1;
  float logprob = is_damaged ? kNan : -kInfinity;
  if (!is_damaged && place < size) {
    id = IdOf(shared.best[place]);
    logprob = LogitOfRank(shared.best[place]) - sum.best - logf(sum.sum);
  }
  params.ids[int64_t{row} * params.k + place] = id;
  params.logprobs[int64_t{row} * params.k + place] = logprob;
}

}  // namespace

void TopTokens(const TopTokensParams& params, Stream& stream) {
  const auto launch = [&](auto kernel, int blocks) {
    LaunchClusters(stream, "TopTokens", kernel, dim3(params.rows * blocks), blocks, kThreads,
                   sizeof(Shared), params);
  };
  if (stream.has_clusters()) {
    launch(TopTokensKernel<8>, 8);  // As many as every GPU with clusters takes.
  } else {
    launch(TopTokensKernel<1>, 1);
  }
}

}  // namespace treeline::cuda
