#include <climits>
#include <cmath>
#include <limits>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vocabulary.h"

namespace treeline::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarp;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Candidate {
  float logit;
  int id;
};

// Equal logits rank by lower id; what is no candidate is below all.
constexpr Candidate kNone = {-kInfinity, INT_MAX};
__device__ bool Better(Candidate a, Candidate b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

__device__ Candidate WarpBest(Candidate best) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const Candidate other = {__shfl_xor_sync(kAllLanes, best.logit, offset),
                             __shfl_xor_sync(kAllLanes, best.id, offset)};
    if (Better(other, best)) best = other;
  }
  return best;
}

// The best of the block, in every thread.
__device__ Candidate BlockBest(Candidate best) {
  __shared__ Candidate warps[kWarps];
  __syncthreads();  // The last call's are read.
  best = WarpBest(best);
  if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = best;
  __syncthreads();
  return WarpBest(warps[threadIdx.x % kWarp]);
}

__device__ float BlockSum(float value) {
  __shared__ float warps[kWarps];
  value = WarpSum(value);
  if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = value;
  __syncthreads();
  return WarpSum(warps[threadIdx.x % kWarp]);
}

// The best of a thread's own logits that `bound` is better than.
__device__ Candidate BestBelow(const float* logits, int n, Candidate bound) {
  Candidate best = kNone;
  for (int id = threadIdx.x; id < n; id += kThreads) {
    const Candidate candidate = {logits[id], id};
    if (Better(candidate, best) && Better(bound, candidate)) best = candidate;
  }
  return best;
}

// A block a row. Each thread knows the best of its own logits; the best of these is the next, and
// only its thread looks for another.
__global__ void TopTokensKernel(TopTokensParams params) {
  WaitForEarlierKernels();
  const float* logits = params.logits + int64_t{blockIdx.x} * params.n;
  int32_t* ids = params.ids + int64_t{blockIdx.x} * params.k;
  float* logprobs = params.logprobs + int64_t{blockIdx.x} * params.k;

  Candidate own = BestBelow(logits, params.n, {kInfinity, -1});
  Candidate best = BlockBest(own);
  float sum = 0;
  for (int id = threadIdx.x; id < params.n; id += kThreads) sum += expf(logits[id] - best.logit);
  // NaN where a logit is, or where the best is infinite.
  const float log_sum = best.logit + logf(BlockSum(sum));
  for (int rank = 0; rank < params.k; ++rank) {
    if (threadIdx.x == 0) {
      ids[rank] = std::isfinite(best.logit) && !std::isnan(log_sum) ? best.id : -1;
      logprobs[rank] = best.logit - log_sum;
    }
    if (own.id == best.id && best.id != INT_MAX) own = BestBelow(logits, params.n, best);
    best = BlockBest(own);
  }
}

}  // namespace

void TopTokens(const TopTokensParams& params, Stream& stream) {
  Launch(stream, "TopTokens", TopTokensKernel, dim3(params.rows), kThreads, 0, params);
}

}  // namespace treeline::cuda
