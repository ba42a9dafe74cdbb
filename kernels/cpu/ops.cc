#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/ops.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h:
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>

#include "kernels/cpu/ops.h"
#include "kernels/float_types.h"

HWY_BEFORE_NAMESPACE();
namespace treeline::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The first elements of a row that fill whole vectors.
template <class D>
int32_t WholeVectors(D d, int32_t dim) {
  return dim - dim % static_cast<int32_t>(hn::Lanes(d));
}

void RmsNormRow(const float* HWY_RESTRICT x, const float* HWY_RESTRICT weight,
                float* HWY_RESTRICT y, int32_t dim, float eps) {
  const hn::ScalableTag<float> d;
  const int32_t lanes = static_cast<int32_t>(hn::Lanes(d)), whole = WholeVectors(d, dim);
  auto squares = hn::Zero(d);
  for (int32_t i = 0; i < whole; i += lanes) {
    const auto v = hn::LoadU(d, x + i);
    squares = hn::MulAdd(v, v, squares);
  }
  float sum = hn::GetLane(hn::SumOfLanes(d, squares));
  for (int32_t i = whole; i < dim; ++i) sum += x[i] * x[i];
  const float scale = 1.0f / std::sqrt(sum / static_cast<float>(dim) + eps);
  const auto scales = hn::Set(d, scale);
  for (int32_t i = 0; i < whole; i += lanes) {
    hn::StoreU(hn::Mul(hn::Mul(hn::LoadU(d, x + i), scales), hn::LoadU(d, weight + i)), d, y + i);
  }
  for (int32_t i = whole; i < dim; ++i) y[i] = x[i] * scale * weight[i];
}

// y = x rotated; they may be the same.
void RotateHead(const float* x, const float* HWY_RESTRICT cosines, int32_t head_dim, float* y) {
  const hn::ScalableTag<float> d;
  const int32_t lanes = static_cast<int32_t>(hn::Lanes(d)), half = head_dim / 2;
  const int32_t whole = WholeVectors(d, half);
  const float* sines = cosines + half;
  for (int32_t i = 0; i < whole; i += lanes) {
    const auto a = hn::LoadU(d, x + i), b = hn::LoadU(d, x + half + i);
    const auto cosine = hn::LoadU(d, cosines + i), sine = hn::LoadU(d, sines + i);
    hn::StoreU(hn::NegMulAdd(b, sine, hn::Mul(a, cosine)), d, y + i);
    hn::StoreU(hn::MulAdd(a, sine, hn::Mul(b, cosine)), d, y + half + i);
  }
  for (int32_t i = whole; i < half; ++i) {
    const float a = x[i], b = x[half + i];
    y[i] = a * cosines[i] - b * sines[i];
    y[half + i] = b * cosines[i] + a * sines[i];
  }
}

}  // namespace treeline::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace treeline::cpu {
namespace {

HWY_EXPORT(RmsNormRow);
HWY_EXPORT(RotateHead);

// Rows a task takes: enough work to be worth handing out.
constexpr int32_t kRowsPerTask = 8;

template <class RowFunction>
void ForEachRow(int32_t rows, ThreadPool& pool, const RowFunction& function) {
  pool.ParallelFor((rows + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task, int32_t) {
    const int32_t begin = static_cast<int32_t>(task) * kRowsPerTask;
    for (int32_t row = begin; row < std::min(begin + kRowsPerTask, rows); ++row) function(row);
  });
}

}  // namespace

void RmsNorm(const RmsNormParams& params, ThreadPool& pool) {
  ForEachRow(params.rows, pool, [&](int32_t row) {
    const int64_t offset = int64_t{row} * params.dim;
    HWY_DYNAMIC_DISPATCH(RmsNormRow)
    (params.x + offset, params.weight, params.y + offset, params.dim, params.eps);
  });
}

void RopeAngles(const RopeAnglesParams& params, ThreadPool& pool) {
  const int32_t half = params.head_dim / 2;
  ForEachRow(params.rows, pool, [&](int32_t row) {
    float* cosines = params.angles + int64_t{row} * params.head_dim;
    const float position = static_cast<float>(params.positions[row]);
    for (int32_t i = 0; i < half; ++i) {
      const float angle = position * params.inverse_frequencies[i];
      cosines[i] = params.scale * std::cos(angle);  // Exact for large angles too.
      cosines[half + i] = params.scale * std::sin(angle);
    }
  });
}

void RopeQkv(const RopeQkvParams& params, ThreadPool& pool) {
  const int32_t dim = params.head_dim, kv_size = params.kv_heads * dim;
  const int32_t q_size = params.heads * dim;
  ForEachRow(params.rows, pool, [&](int32_t row) {
    const float* cosines = params.angles + int64_t{row} * dim;
    float* q = params.qkv + int64_t{row} * (q_size + 2 * kv_size);
    const float* k = q + q_size;
    float* kv = params.kv + int64_t{row} * 2 * kv_size;
    const auto rotate = [&](const float* x, float* y) {
      HWY_DYNAMIC_DISPATCH(RotateHead)(x, cosines, dim, y);
    };
    for (int32_t i = 0; i < q_size; i += dim) rotate(q + i, q + i);
    for (int32_t i = 0; i < kv_size; i += dim) rotate(k + i, kv + i);
    std::copy_n(k + kv_size, kv_size, kv + kv_size);
    if (params.state_type == StateType::kBF16) RoundToBf16(std::span<float>(kv, 2 * kv_size));
  });
}

void AddBias(const AddBiasParams& params, ThreadPool& pool) {
  ForEachRow(params.rows, pool, [&](int32_t row) {
    float* x = params.x + int64_t{row} * params.dim;
    for (int32_t i = 0; i < params.dim; ++i) x[i] += params.bias[i];
  });
}

void ResidualSilu(const ResidualSiluParams& params, ThreadPool& pool) {
  ForEachRow(params.rows * params.heads, pool, [&](int32_t index) {
    const int64_t row = index / params.heads, head = index % params.heads, dim = params.dim;
    const bool has_own_x = params.x == nullptr;
    const int64_t size = params.heads * dim;  // Of a row's gates.
    const float* gates = params.gates + (has_own_x ? 2 : 1) * row * size + head * dim;
    const float* bias = params.bias + head * dim;
    const float* x = has_own_x ? gates + size : params.x + row * dim;
    float* y = params.y + (head * params.rows + row) * dim;
    for (int64_t i = 0; i < dim; ++i) {
      const float gate = gates[i] + bias[i];
      y[i] = x[i] + (has_own_x ? bias[size + i] : 0.0f) + gate / (1.0f + std::exp(-gate));
    }
  });
}

void RoundToBf16(std::span<float> values) {
  for (float& value : values) value = Bf16ToFloat(FloatToBf16(value));
}

}  // namespace treeline::cpu
#endif  // HWY_ONCE
