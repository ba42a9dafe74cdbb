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

HWY_BEFORE_NAMESPACE();
namespace treeline::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Lanes hold queries: at most 16 wide, so that a block of queries pads little.
using QueryTag = hn::CappedTag<float, 16>;

// kColumns columns against one vector of queries.
template <int kColumns>
HWY_INLINE void ScoreColumns(const float* HWY_RESTRICT queries, int32_t dim, int32_t query_stride,
                             const float* HWY_RESTRICT rows, int32_t row_stride,
                             float* HWY_RESTRICT scores) {
  const QueryTag d;
  hn::Vec<QueryTag> sums[kColumns];
  for (int c = 0; c < kColumns; ++c) sums[c] = hn::Zero(d);
  for (int32_t i = 0; i < dim; ++i) {
    const auto query = hn::Load(d, queries + int64_t{i} * query_stride);
    for (int c = 0; c < kColumns; ++c) {
      sums[c] = hn::MulAdd(hn::Set(d, rows[int64_t{c} * row_stride + i]), query, sums[c]);
    }
  }
  for (int c = 0; c < kColumns; ++c) hn::Store(sums[c], d, scores + int64_t{c} * query_stride);
}

// scores[column][query] = sum_i queries[i][query] * rows[column][i].
// queries: [dim][num_queries], scores: [columns][num_queries]; num_queries a multiple of the
// lanes.
HWY_INLINE void Scores(const float* HWY_RESTRICT queries, int32_t dim, int32_t num_queries,
                       const float* HWY_RESTRICT rows, int32_t row_stride, int32_t columns,
                       float* HWY_RESTRICT scores) {
  constexpr int kColumns = 8;
  const int32_t lanes = static_cast<int32_t>(hn::Lanes(QueryTag()));
  for (int32_t query = 0; query < num_queries; query += lanes) {
    int32_t column = 0;
    for (; column + kColumns <= columns; column += kColumns) {
      ScoreColumns<kColumns>(queries + query, dim, num_queries, rows + int64_t{column} * row_stride,
                             row_stride, scores + int64_t{column} * num_queries + query);
    }
    for (; column < columns; ++column) {
      ScoreColumns<1>(queries + query, dim, num_queries, rows + int64_t{column} * row_stride,
                      row_stride, scores + int64_t{column} * num_queries + query);
    }
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
  for (int o = 0; o < kOutputs; ++o) {
    for (int c = 0; c < kVectors; ++c) {
      sums[o][c] = hn::LoadU(d, outputs + int64_t{o} * dim + c * lanes);
    }
  }
  for (int32_t r = 0; r < num_rows; ++r) {
    hn::Vec<D> values[kVectors];
    for (int c = 0; c < kVectors; ++c) {
      values[c] = hn::LoadU(d, rows + r * row_stride + c * lanes);
    }
    for (int o = 0; o < kOutputs; ++o) {
      const auto weight =
          hn::Set(d, weights.data[r * weights.row_stride + o * weights.output_stride]);
      for (int c = 0; c < kVectors; ++c) sums[o][c] = hn::MulAdd(weight, values[c], sums[o][c]);
    }
  }
  for (int o = 0; o < kOutputs; ++o) {
    for (int c = 0; c < kVectors; ++c) {
      hn::StoreU(sums[o][c], d, outputs + int64_t{o} * dim + c * lanes);
    }
  }
}

template <class D>
HWY_INLINE void WeightedSumsOf(D d, WeightsView weights, const float* HWY_RESTRICT rows,
                               int64_t row_stride, int32_t num_rows, float* HWY_RESTRICT outputs,
                               int32_t num_outputs, int32_t dim) {
  constexpr int kOutputs = 4, kVectors = 4;
  const int32_t lanes = static_cast<int32_t>(hn::Lanes(d));
  for (int32_t first = 0; first < num_outputs;) {
    const bool whole_tile = first + kOutputs <= num_outputs;
    WeightsView tile_weights = weights;
    tile_weights.data += first * weights.output_stride;
    float* tile = outputs + int64_t{first} * dim;
    int32_t i = 0;
    for (; i + kVectors * lanes <= dim; i += kVectors * lanes) {
      if (whole_tile) {
        WeightedSumTile<D, kOutputs, kVectors>(d, tile_weights, rows + i, row_stride, num_rows,
                                               tile + i, dim);
      } else {
        WeightedSumTile<D, 1, kVectors>(d, tile_weights, rows + i, row_stride, num_rows, tile + i,
                                        dim);
      }
    }
    for (; i < dim; i += lanes) {
      if (whole_tile) {
        WeightedSumTile<D, kOutputs, 1>(d, tile_weights, rows + i, row_stride, num_rows, tile + i,
                                        dim);
      } else {
        WeightedSumTile<D, 1, 1>(d, tile_weights, rows + i, row_stride, num_rows, tile + i, dim);
      }
    }
    first += whole_tile ? kOutputs : 1;
  }
}

// outputs[o] += sum_r w(r, o) * rows[r]. rows: [num_rows] of dim floats, row_stride apart;
// outputs: [num_outputs, dim]. REQUIRES: dim is a multiple of 8.
HWY_INLINE void WeightedSums(WeightsView weights, const float* HWY_RESTRICT rows,
                             int64_t row_stride, int32_t num_rows, float* HWY_RESTRICT outputs,
                             int32_t num_outputs, int32_t dim) {
  if (dim % 16 == 0) {
    WeightedSumsOf(hn::CappedTag<float, 16>(), weights, rows, row_stride, num_rows, outputs,
                   num_outputs, dim);
  } else {
    WeightedSumsOf(hn::CappedTag<float, 8>(), weights, rows, row_stride, num_rows, outputs,
                   num_outputs, dim);
  }
}

}  // namespace treeline::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
