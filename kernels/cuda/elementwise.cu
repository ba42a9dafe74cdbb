#include <algorithm>

#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/launch.cuh"

namespace treeline::cuda {
namespace {

constexpr int kThreads = 256;

// A grid that gives every element a thread.
dim3 GridFor(int64_t elements) { return dim3(static_cast<unsigned>(CeilDiv(elements, kThreads))); }

__device__ int64_t GlobalThread() { return int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }

// A decode has one row, whose time is that of its slowest thread.
constexpr int kNormThreads = 1024;

// The sum over a block of kNormThreads, in every thread.
__device__ float BlockSum(float value) {
  __shared__ float warp_sums[kNormThreads / kWarp];
  static_assert(kNormThreads / kWarp == kWarp);
  value = WarpSum(value);
  if (threadIdx.x % kWarp == 0) warp_sums[threadIdx.x / kWarp] = value;
  __syncthreads();
  return WarpSum(warp_sums[threadIdx.x % kWarp]);
}

// A block a row. What a thread has of the weights comes while earlier kernels run, as far as it
// fits kHeld registers; rows of a few thousand do.
template <typename Output>
__global__ void __launch_bounds__(kNormThreads) RmsNormKernel(RmsNormParams params, Output* out) {
  LetNextKernelComeUp();
  constexpr int kHeld = 4;
  float weights[kHeld], values[kHeld];
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    const int i = threadIdx.x + j * kNormThreads;
    weights[j] = i < params.dim ? params.weight[i] : 0.0f;
  }
  WaitForEarlierKernels();
  const float* x = params.x + int64_t{blockIdx.x} * params.dim;
  Output* y = out + int64_t{blockIdx.x} * params.dim;
  float squares = 0;
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    const int i = threadIdx.x + j * kNormThreads;
    values[j] = i < params.dim ? x[i] : 0.0f;
    squares += values[j] * values[j];
  }
  const int rest = threadIdx.x + kHeld * kNormThreads;
  for (int i = rest; i < params.dim; i += kNormThreads) squares += x[i] * x[i];
  const float scale = rsqrtf(BlockSum(squares) / static_cast<float>(params.dim) + params.eps);
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    const int i = threadIdx.x + j * kNormThreads;
    if (i < params.dim) y[i] = FromFloat<Output>(values[j] * scale * weights[j]);
  }
  for (int i = rest; i < params.dim; i += kNormThreads) {
    y[i] = FromFloat<Output>(x[i] * scale * params.weight[i]);
  }
}

// A thread an angle, in double: the angle itself is a float, but may be far from zero.
__global__ void RopeAnglesKernel(RopeAnglesParams params) {
  WaitForEarlierKernels();
  const int half = params.head_dim / 2;
  const int64_t thread = GlobalThread();
  const int64_t row = thread / half;
  const int i = static_cast<int>(thread % half);
  if (row >= params.rows) return;
  const float angle = static_cast<float>(params.positions[row]) * params.inverse_frequencies[i];
  double sine, cosine;
  sincos(static_cast<double>(angle), &sine, &cosine);
  float* out = params.angles + row * params.head_dim;
  out[i] = static_cast<float>(params.scale * cosine);
  out[half + i] = static_cast<float>(params.scale * sine);
}

// Pairs of dimensions of a row.
__host__ __device__ int PairsOf(const RopeQkvParams& params) {
  return (params.heads + 2 * params.kv_heads) * (params.head_dim / 2);
}

// Grid: rows, parts of a row. A thread takes kPairs neighbouring pairs of dimensions of a head.
// REQUIRES: head_dim / 2 % kPairs == 0.
template <int kPairs>
__global__ void RopeQkvKernel(RopeQkvParams params) {
  WaitForEarlierKernels();
  struct alignas(kPairs * sizeof(float)) Floats {
    float values[kPairs];
  };
  const auto load = [](const float* from) { return *reinterpret_cast<const Floats*>(from); };
  const auto store = [](float* to, const Floats& f) { *reinterpret_cast<Floats*>(to) = f; };
  const int dim = params.head_dim, half = dim / 2, pairs = PairsOf(params);
  const int pair = (blockIdx.y * kThreads + threadIdx.x) * kPairs;
  if (pair >= pairs) return;
  const int64_t row = blockIdx.x;
  const int head = pair / half, i = pair % half;
  float* x = params.qkv + row * 2 * pairs + head * dim + i;
  Floats a = load(x), b = load(x + half);
  if (head < params.heads + params.kv_heads) {
    const float* cosines = params.angles + row * dim + i;
    const Floats cosine = load(cosines), sine = load(cosines + half);
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const float turned = a.values[j] * cosine.values[j] - b.values[j] * sine.values[j];
      b.values[j] = b.values[j] * cosine.values[j] + a.values[j] * sine.values[j];
      a.values[j] = turned;
    }
  }
  if (head >= params.heads) {
    x = params.kv + (row * 2 * params.kv_heads + head - params.heads) * dim + i;
    if (params.state_type == StateType::kBF16) {
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        a.values[j] = Bf16Rounded(a.values[j]);
        b.values[j] = Bf16Rounded(b.values[j]);
      }
    }
  }
  store(x, a);
  store(x + half, b);
}

__global__ void AddBiasKernel(AddBiasParams params) {
  WaitForEarlierKernels();
  const int64_t element = GlobalThread();
  if (element < int64_t{params.rows} * params.dim) {
    params.x[element] += params.bias[element % params.dim];
  }
}

__global__ void ResidualSiluKernel(ResidualSiluParams params) {
  WaitForEarlierKernels();
  const int64_t element = GlobalThread();
  const int64_t i = element % params.dim, head = element / params.dim % params.heads;
  const int64_t row = element / params.dim / params.heads;
  if (row >= params.rows) return;
  const int64_t size = int64_t{params.heads} * params.dim, at = head * params.dim + i;
  const bool has_own_x = params.x == nullptr;
  const float* const gates = params.gates + (has_own_x ? 2 : 1) * row * size;
  const float gate = gates[at] + params.bias[at];
  const float x =
      has_own_x ? gates[size + at] + params.bias[size + at] : params.x[row * params.dim + i];
  params.y[(head * params.rows + row) * params.dim + i] = x + gate / (1 + expf(-gate));
}

}  // namespace

void RmsNorm(const RmsNormParams& params, Stream& stream) {
  Launch(stream, "RmsNorm", RmsNormKernel<float>, dim3(params.rows), kNormThreads, 0, params,
         params.y);
}

void RmsNormToBf16(const RmsNormParams& params, void* y, Stream& stream) {
  Launch(stream, "RmsNorm", RmsNormKernel<__nv_bfloat16>, dim3(params.rows), kNormThreads, 0,
         params, static_cast<__nv_bfloat16*>(y));
}

void RopeAngles(const RopeAnglesParams& params, Stream& stream) {
  Launch(stream, "RopeAngles", RopeAnglesKernel,
         GridFor(int64_t{params.rows} * (params.head_dim / 2)), kThreads, 0, params);
}

void RopeQkv(const RopeQkvParams& params, Stream& stream) {
  constexpr int kPairs = 4;
  const bool by_four = params.head_dim / 2 % kPairs == 0;
  const int64_t threads = PairsOf(params) / (by_four ? kPairs : 1);
  Launch(stream, "RopeQkv", by_four ? RopeQkvKernel<kPairs> : RopeQkvKernel<1>,
         dim3(params.rows, static_cast<unsigned>(CeilDiv(threads, kThreads))), kThreads, 0, params);
}

void AddBias(const AddBiasParams& params, Stream& stream) {
  Launch(stream, "AddBias", AddBiasKernel, GridFor(int64_t{params.rows} * params.dim), kThreads, 0,
         params);
}

void ResidualSilu(const ResidualSiluParams& params, Stream& stream) {
  Launch(stream, "ResidualSilu", ResidualSiluKernel,
         GridFor(int64_t{params.rows} * params.heads * params.dim), kThreads, 0, params);
}

}  // namespace treeline::cuda
