// The two small matrix products that attention is made of, per SIMD target. In both
// each result is one chain of multiply-adds in a fixed order.
//
// A per-target header in Highway's manner: included again for each target.

#if defined(TREELINE_KERNELS_CPU_SMALL_PRODUCTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TREELINE_KERNELS_CPU_SMALL_PRODUCTS_INL_H_
#undef TREELINE_KERNELS_CPU_SMALL_PRODUCTS_INL_H_
#else
#define TREELINE_KERNELS_CPU_SMALL_PRODUCTS_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>
#include <utility>

#include "kernels/cpu/panel.h"

HWY_BEFORE_NAMESPACE();
namespace treeline::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#include "kernels/cpu/unroll-inl.h"

// Lanes hold queries: at most 16 wide, so that a block of queries pads little.
using QueryTag = hn::CappedTag<float, 16>;

// Calls function(d) with the widest vectors that divide rows of n values: 16, 8 or single ones.
template <class Function>
HWY_INLINE void WithWidestVectors(int32_t n, const Function& function) {
  if (n % 16 == 0) {
    function(hn::CappedTag<float, 16>());
  } else if (n % 8 == 0) {
    function(hn::CappedTag<float, 8>());
  } else {
    function(hn::CappedTag<float, 1>());
  }
}

// out[i][r] = rows[r][i] for 4 rows of `dim` values.
HWY_INLINE void TransposeFourRows(const float* const (&rows)[4], int32_t dim, int64_t out_stride,
                                  float* HWY_RESTRICT out) {
  int32_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::FixedTag<float, 4> d;
  const hn::RepartitionToWide<decltype(d)> pairs;
  for (; i + 4 <= dim; i += 4, out += 4 * out_stride) {
    const auto a = hn::LoadU(d, rows[0] + i), b = hn::LoadU(d, rows[1] + i);
    const auto c = hn::LoadU(d, rows[2] + i), e = hn::LoadU(d, rows[3] + i);
    const auto ab_low = hn::BitCast(pairs, hn::InterleaveLower(d, a, b));
    const auto ab_high = hn::BitCast(pairs, hn::InterleaveUpper(d, a, b));
    const auto ce_low = hn::BitCast(pairs, hn::InterleaveLower(d, c, e));
    const auto ce_high = hn::BitCast(pairs, hn::InterleaveUpper(d, c, e));
    hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pairs, ab_low, ce_low)), d, out);
    hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pairs, ab_low, ce_low)), d, out + out_stride);
    hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pairs, ab_high, ce_high)), d,
               out + 2 * out_stride);
    hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pairs, ab_high, ce_high)), d,
               out + 3 * out_stride);
  }
#endif
  for (; i < dim; ++i, out += out_stride) {
    for (int r = 0; r < 4; ++r) out[r] = rows[r][i];
  }
}

// kColumns columns against kVectors vectors of queries.
template <int kVectors, int kColumns>
HWY_INLINE void ScoreTile(const float* HWY_RESTRICT queries, int32_t dim, int32_t num_queries,
                          const float* HWY_RESTRICT rows, int64_t row_stride,
                          float* HWY_RESTRICT scores) {
  const QueryTag d;
  const int32_t lanes = static_cast<int32_t>(hn::Lanes(d));
  hn::Vec<QueryTag> sums[kColumns][kVectors];
  Unroll<kColumns>([&](auto c) KERNEL_INLINE {
    Unroll<kVectors>([&](auto v) KERNEL_INLINE { sums[c][v] = hn::Zero(d); });
  });
  for (int32_t i = 0; i < dim; ++i, queries += num_queries) {
    hn::Vec<QueryTag> query[kVectors];
    Unroll<kVectors>([&](auto v) KERNEL_INLINE { query[v] = hn::Load(d, queries + v * lanes); });
    Unroll<kColumns>([&](auto c) KERNEL_INLINE {
      const auto value = hn::Set(d, rows[c * row_stride + i]);
      Unroll<kVectors>([&](auto v)
                           KERNEL_INLINE { sums[c][v] = hn::MulAdd(value, query[v], sums[c][v]); });
    });
  }
  Unroll<kColumns>([&](auto c) KERNEL_INLINE {
    Unroll<kVectors>([&](auto v) KERNEL_INLINE {
      hn::Store(sums[c][v], d, scores + int64_t{c} * num_queries + v * lanes);
    });
  });
}

template <int kVectors>
HWY_INLINE void ScoreColumns(const float* HWY_RESTRICT queries, int32_t dim, int32_t num_queries,
                             const float* HWY_RESTRICT rows, int64_t row_stride, int32_t columns,
                             float* HWY_RESTRICT scores) {
  // As many sums as the registers hold.
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
  constexpr int kColumns = 12;
#else
  constexpr int kColumns = 12 / kVectors / 2 * 2;
#endif
  int32_t column = 0;
  for (; column + kColumns <= columns; column += kColumns) {
    ScoreTile<kVectors, kColumns>(queries, dim, num_queries, rows + column * row_stride, row_stride,
                                  scores + int64_t{column} * num_queries);
  }
  for (; column + 4 <= columns; column += 4) {
    ScoreTile<kVectors, 4>(queries, dim, num_queries, rows + column * row_stride, row_stride,
                           scores + int64_t{column} * num_queries);
  }
  for (; column < columns; ++column) {
    ScoreTile<kVectors, 1>(queries, dim, num_queries, rows + column * row_stride, row_stride,
                           scores + int64_t{column} * num_queries);
  }
}

// scores[column][query] = sum_i queries[i][query] * rows[column][i].
// queries: [dim][num_queries], scores: [columns][num_queries]; num_queries a multiple of the
// lanes.
HWY_INLINE void Scores(const float* HWY_RESTRICT queries, int32_t dim, int32_t num_queries,
                       const float* HWY_RESTRICT rows, int64_t row_stride, int32_t columns,
                       float* HWY_RESTRICT scores) {
  const int32_t lanes = static_cast<int32_t>(hn::Lanes(QueryTag()));
  int32_t query = 0;
  for (; query + 2 * lanes <= num_queries; query += 2 * lanes) {
    ScoreColumns<2>(queries + query, dim, num_queries, rows, row_stride, columns, scores + query);
  }
  if (query < num_queries) {
    ScoreColumns<1>(queries + query, dim, num_queries, rows, row_stride, columns, scores + query);
  }
}

// Weights w(row, output) of WeightedSums: [row * row_stride + output * output_stride].
struct WeightsView {
  const float* data;
  int64_t row_stride;
  int64_t output_stride;
};

template <class D, int kOutputs, int kVectors>
HWY_INLINE void WeightedSumTile(D d, WeightsView weights, const float* HWY_RESTRICT rows,
                                int64_t row_stride, int32_t num_rows, float* HWY_RESTRICT outputs,
                                int32_t dim) {
  const int32_t lanes = static_cast<int32_t>(hn::Lanes(d));
  hn::Vec<D> sums[kOutputs][kVectors];
  Unroll<kOutputs>([&](auto o) KERNEL_INLINE {
    Unroll<kVectors>([&](auto c) KERNEL_INLINE {
      sums[o][c] = hn::LoadU(d, outputs + int64_t{o} * dim + c * lanes);
    });
  });
  const float* HWY_RESTRICT weight = weights.data;
  for (int32_t r = 0; r < num_rows; ++r, rows += row_stride, weight += weights.row_stride) {
    hn::Vec<D> values[kVectors];
    Unroll<kVectors>([&](auto c) KERNEL_INLINE { values[c] = hn::LoadU(d, rows + c * lanes); });
    Unroll<kOutputs>([&](auto o) KERNEL_INLINE {
      const auto factor = hn::Set(d, weight[o * weights.output_stride]);
      Unroll<kVectors>(
          [&](auto c) KERNEL_INLINE { sums[o][c] = hn::MulAdd(factor, values[c], sums[o][c]); });
    });
  }
  Unroll<kOutputs>([&](auto o) KERNEL_INLINE {
    Unroll<kVectors>([&](auto c) KERNEL_INLINE {
      hn::StoreU(sums[o][c], d, outputs + int64_t{o} * dim + c * lanes);
    });
  });
}

// Outputs from `first` on in tiles of kOutputs; returns how many are done.
template <class D, int kOutputs>
HWY_INLINE int32_t WeightedSumTiles(D d, WeightsView weights, const float* HWY_RESTRICT rows,
                                    int64_t row_stride, int32_t num_rows, int32_t first,
                                    float* HWY_RESTRICT outputs, int32_t num_outputs, int32_t dim) {
  constexpr int kVectors = 4;
  const int32_t lanes = static_cast<int32_t>(hn::Lanes(d));
  for (; first + kOutputs <= num_outputs; first += kOutputs) {
    WeightsView tile_weights = weights;
    tile_weights.data += first * weights.output_stride;
    float* tile = outputs + int64_t{first} * dim;
    int32_t i = 0;
    for (; i + kVectors * lanes <= dim; i += kVectors * lanes) {
      WeightedSumTile<D, kOutputs, kVectors>(d, tile_weights, rows + i, row_stride, num_rows,
                                             tile + i, dim);
    }
    for (; i < dim; i += lanes) {
      WeightedSumTile<D, kOutputs, 1>(d, tile_weights, rows + i, row_stride, num_rows, tile + i,
                                      dim);
    }
  }
  return first;
}

template <class D>
HWY_INLINE void WeightedSumsOf(D d, WeightsView weights, const float* HWY_RESTRICT rows,
                               int64_t row_stride, int32_t num_rows, float* HWY_RESTRICT outputs,
                               int32_t num_outputs, int32_t dim) {
  // As many sums as the registers hold.
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
  constexpr int kOutputs = 6;
#else
  constexpr int kOutputs = 3;
#endif
  int32_t done = WeightedSumTiles<D, kOutputs>(d, weights, rows, row_stride, num_rows, 0, outputs,
                                               num_outputs, dim);
  done = WeightedSumTiles<D, 3>(d, weights, rows, row_stride, num_rows, done, outputs, num_outputs,
                                dim);
  WeightedSumTiles<D, 1>(d, weights, rows, row_stride, num_rows, done, outputs, num_outputs, dim);
}

// outputs[o] += sum_r w(r, o) * rows[r]. rows: [num_rows] of dim floats, row_stride apart;
// outputs: [num_outputs, dim].
HWY_INLINE void WeightedSums(WeightsView weights, const float* HWY_RESTRICT rows,
                             int64_t row_stride, int32_t num_rows, float* HWY_RESTRICT outputs,
                             int32_t num_outputs, int32_t dim) {
  WithWidestVectors(dim, [&](auto d) KERNEL_INLINE {
    WeightedSumsOf(d, weights, rows, row_stride, num_rows, outputs, num_outputs, dim);
  });
}

}  // namespace treeline::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
