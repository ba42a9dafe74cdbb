// Rows of K and V as fp32, and phi of them, per SIMD target.
//
// A per-target header in Highway's manner: included again for each target.

#if defined(TREELINE_KERNELS_CPU_FEATURES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TREELINE_KERNELS_CPU_FEATURES_INL_H_
#undef TREELINE_KERNELS_CPU_FEATURES_INL_H_
#else
#define TREELINE_KERNELS_CPU_FEATURES_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/attention_segment.h"
#include "kernels/cpu/exp-inl.h"
#include "kernels/cpu/small_products-inl.h"
#include "kernels/float_types.h"

HWY_BEFORE_NAMESPACE();
namespace treeline::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Divides every head dimension (a multiple of 8).
using DimTag = hn::CappedTag<float, 8>;

// Calls function(first_column, rows, stride, count) for fp32 rows, converting where needed.
template <class Function>
void ForEachRowBlock(const RowRange& range, int32_t dim, FloatBuffer& scratch,
                     const Function& function) {
  if (range.type == StateType::kF32) {
    function(range.first_column, static_cast<const float*>(range.data), range.stride, range.count);
    return;
  }
  float* rows = scratch.Resize(int64_t{kRowBlock} * dim);
  for (int32_t first = 0; first < range.count; first += kRowBlock) {
    const int32_t count = std::min(kRowBlock, range.count - first);
    const uint16_t* source = static_cast<const uint16_t*>(range.data) + first * range.stride;
    for (int32_t r = 0; r < count; ++r) {
      for (int32_t i = 0; i < dim; ++i)
        rows[r * dim + i] = Bf16ToFloat(source[r * range.stride + i]);
    }
    function(range.first_column + first, rows, int64_t{dim}, count);
  }
}

float InverseNorm(const float* x, int32_t dim) {
  const DimTag d;
  auto squares = hn::Zero(d);
  for (int32_t i = 0; i < dim; i += static_cast<int32_t>(hn::Lanes(d))) {
    const auto v = hn::LoadU(d, x + i);
    squares = hn::MulAdd(v, v, squares);
  }
  return 1.0f / std::sqrt(std::max(hn::GetLane(hn::SumOfLanes(d, squares)), 1e-12f));
}

// softmax over [y, -y] for one row y of n values; out: 2 n values. REQUIRES: d's lanes divide n.
template <class D>
HWY_INLINE void SignedSoftmaxOf(D d, const float* HWY_RESTRICT y, int32_t n,
                                float* HWY_RESTRICT out) {
  const int32_t lanes = static_cast<int32_t>(hn::Lanes(d));
  auto largest = hn::Zero(d);
  for (int32_t i = 0; i < n; i += lanes) largest = hn::Max(largest, hn::Abs(hn::LoadU(d, y + i)));
  largest = hn::MaxOfLanes(d, largest);
  auto sum = hn::Zero(d);
  for (int32_t i = 0; i < n; i += lanes) {
    const auto v = hn::LoadU(d, y + i);
    const auto plus = ExpOfNonPositive(d, hn::Sub(v, largest));
    const auto minus = ExpOfNonPositive(d, hn::Sub(hn::Neg(v), largest));
    hn::StoreU(plus, d, out + i);
    hn::StoreU(minus, d, out + n + i);
    sum = hn::Add(sum, hn::Add(plus, minus));
  }
  const auto scale = hn::Div(hn::Set(d, 1.0f), hn::SumOfLanes(d, sum));
  for (int32_t i = 0; i < 2 * n; i += lanes) {
    hn::StoreU(hn::Mul(hn::LoadU(d, out + i), scale), d, out + i);
  }
}

void SignedSoftmax(const float* HWY_RESTRICT y, int32_t n, float* HWY_RESTRICT out) {
  WithWidestVectors(n, [&](auto d) KERNEL_INLINE { SignedSoftmaxOf(d, y, n, out); });
}

// phi of `count` rows; out: [count] rows of feature_dim, out_stride apart. map: the hedgehog
// matrix [dim, feature_dim / 2].
void Features(const AttentionLayer& layer, const float* rows, int64_t stride, int32_t count,
              const float* map, FloatBuffer& scratch, float* out, int64_t out_stride) {
  const int32_t dim = layer.head_dim, half = layer.feature_dim() / 2;
  float* normalised = scratch.Resize(int64_t{count} * (dim + half));
  float* y = normalised + int64_t{count} * dim;  // [count, half] of hedgehog
  const float* x = rows;
  if (layer.form.qk_norm == QkNorm::kL2) {
    for (int32_t r = 0; r < count; ++r) {
      const float* row = rows + r * stride;
      const float scale = InverseNorm(row, dim);
      for (int32_t i = 0; i < dim; ++i) normalised[r * dim + i] = row[i] * scale;
    }
    x = normalised;
    stride = dim;
  }
  if (layer.form.feature_map == FeatureMap::kHedgehog) {
    std::fill(y, y + int64_t{count} * half, 0.0f);
    WeightedSums({x, 1, stride}, map, half, dim, y, count, half);
  }
  for (int32_t r = 0; r < count; ++r, x += stride, y += half, out += out_stride) {
    switch (layer.form.feature_map) {
      case FeatureMap::kNone:
        break;
      case FeatureMap::kIdentity:
        std::copy(x, x + dim, out);
        break;
      case FeatureMap::kRelu:
        for (int32_t i = 0; i < dim; ++i) out[i] = std::max(x[i], 0.0f);
        break;
      case FeatureMap::kElu1:
        for (int32_t i = 0; i < dim; ++i) out[i] = x[i] > 0 ? x[i] + 1 : std::exp(x[i]);
        break;
      case FeatureMap::kHedgehog:
        SignedSoftmax(y, half, out);
        break;
    }
  }
}

// One head's hedgehog matrix of `maps`, which is null for other maps.
const float* HeadMap(const AttentionLayer& layer, const float* maps, int32_t head) {
  if (maps == nullptr) return nullptr;
  return maps + int64_t{head} * layer.head_dim * (layer.feature_dim() / 2);
}

}  // namespace treeline::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
