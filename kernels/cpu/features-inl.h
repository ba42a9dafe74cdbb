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

// softmax over [y, -y] for one row y of dim values; out: 2 dim values.
template <class D>
HWY_INLINE void SignedSoftmaxOf(D d, const float* HWY_RESTRICT y, int32_t dim,
                                float* HWY_RESTRICT out) {
  const int32_t lanes = static_cast<int32_t>(hn::Lanes(d));
  auto largest = hn::Zero(d);
  for (int32_t i = 0; i < dim; i += lanes) largest = hn::Max(largest, hn::Abs(hn::LoadU(d, y + i)));
  largest = hn::MaxOfLanes(d, largest);
  auto sum = hn::Zero(d);
  for (int32_t i = 0; i < dim; i += lanes) {
    const auto v = hn::LoadU(d, y + i);
    const auto plus = ExpOfNonPositive(d, hn::Sub(v, largest));
    const auto minus = ExpOfNonPositive(d, hn::Sub(hn::Neg(v), largest));
    hn::StoreU(plus, d, out + i);
    hn::StoreU(minus, d, out + dim + i);
    sum = hn::Add(sum, hn::Add(plus, minus));
  }
  const auto scale = hn::Div(hn::Set(d, 1.0f), hn::SumOfLanes(d, sum));
  for (int32_t i = 0; i < 2 * dim; i += lanes) {
    hn::StoreU(hn::Mul(hn::LoadU(d, out + i), scale), d, out + i);
  }
}

void SignedSoftmax(const float* HWY_RESTRICT y, int32_t dim, float* HWY_RESTRICT out) {
  if (dim % 16 == 0) {
    SignedSoftmaxOf(hn::CappedTag<float, 16>(), y, dim, out);
  } else {
    SignedSoftmaxOf(DimTag(), y, dim, out);
  }
}

// phi of `count` rows; out: [count] rows of feature_dim, out_stride apart. map: the hedgehog
// matrix [dim, dim].
void Features(const AttentionLayer& layer, const float* rows, int64_t stride, int32_t count,
              const float* map, FloatBuffer& scratch, float* out, int64_t out_stride) {
  const int32_t dim = layer.head_dim;
  float* normalised = scratch.Resize(2 * int64_t{count} * dim);
  float* y = normalised + int64_t{count} * dim;
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
    std::fill(y, y + int64_t{count} * dim, 0.0f);
    WeightedSums({x, 1, stride}, map, dim, dim, y, count, dim);
  }
  for (int32_t r = 0; r < count; ++r, x += stride, y += dim, out += out_stride) {
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
        SignedSoftmax(y, dim, out);
        break;
    }
  }
}

const float* KeyMap(const AttentionLayer& layer, int32_t kv_head) {
  if (layer.feature_map_k == nullptr) return nullptr;
  return layer.feature_map_k + int64_t{kv_head} * layer.head_dim * layer.head_dim;
}

}  // namespace treeline::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
