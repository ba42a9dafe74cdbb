// A block of queries on its way from q to out: the mathematics of docs/attention.md
// for the CPU, per SIMD target.
//
// Ladder: (1) a row at a time, dot products along head_dim, each ending in a reduction
// across lanes; (2) this, lanes hold queries: scores need no reduction, the softmax runs
// down the columns, and one pass over the values serves the block.
//
// A per-target header in Highway's manner: included again for each target.

#if defined(TREELINE_KERNELS_CPU_QUERY_BLOCK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TREELINE_KERNELS_CPU_QUERY_BLOCK_INL_H_
#undef TREELINE_KERNELS_CPU_QUERY_BLOCK_INL_H_
#else
#define TREELINE_KERNELS_CPU_QUERY_BLOCK_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <vector>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/attention_segment.h"
#include "kernels/cpu/exp-inl.h"
#include "kernels/cpu/features-inl.h"
#include "kernels/cpu/small_products-inl.h"

HWY_BEFORE_NAMESPACE();
namespace treeline::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using PositionTag = hn::RebindToSigned<QueryTag>;

// A block of queries of one segment and KV head, on its way from q to out.
class QueryBlock {
 public:
  QueryBlock(const AttentionParams& params, const Segment& segment, int32_t kv_head,
             int32_t first_query, int32_t num_queries, const float* keys,
             AttentionWorkspace::Thread& thread)
      : params_(params),
        layer_(*params.layer),
        form_(layer_.form),
        segment_(segment),
        kv_head_(kv_head),
        num_queries_(num_queries),
        key_scales_(keys),
        key_features_(keys == nullptr ? nullptr : keys + segment.num_columns()),
        thread_(thread) {
    const int32_t lanes = static_cast<int32_t>(hn::Lanes(QueryTag()));
    padded_ = (num_queries + lanes - 1) / lanes * lanes;
    const int32_t group = layer_.heads / layer_.kv_heads;
    for (int32_t q = 0; q < padded_; ++q) {
      // Lanes past the end repeat the last query; their results are not stored.
      const int32_t query = first_query + std::min(q, num_queries - 1);
      row_[q] = query / group;
      head_[q] = kv_head * group + query % group;
      position_[q] = segment.position(row_[q]);
      window_begin_[q] = form_.window_begin(position_[q]);
      group_[q] = GroupOf(form_, position_[q]);
      crossings_[q] = group_[q] - GroupOf(form_, segment.length);
      crosses_ |= crossings_[q] > 0;
      const uint64_t ancestors = segment.is_chain ? 0 : segment.ancestors[row_[q]];
      ancestors_low_[q] = static_cast<int32_t>(ancestors);
      ancestors_high_[q] = static_cast<int32_t>(ancestors >> 32);
    }
    FindColumns();
  }

  void Run() {
    LoadQueries();
    weights_ = thread_.weights.Resize(int64_t{columns_} * padded_);
    const bool has_local = form_.local != Local::kNone;
    std::fill(Weights(has_local ? segment_.num_sinks : 0),
              Weights(has_local ? local_begin_ : columns_), 0.0f);
    if (has_local) ComputeLocalWeights();
    if (form_.has_linear()) ComputeLinearWeights();
    FindFactors();
    AddLinearWeights();
    if (form_.conv_taps() > 0) AddConvolution();
    SumValues();
  }

 private:
  using QueryVector = hn::Vec<QueryTag>;
  using QueryMask = hn::Mask<QueryTag>;

  const float* QueryRow(int32_t q) const {
    return params_.q + int64_t{segment_.first_row + row_[q]} * params_.q_stride +
           head_[q] * layer_.head_dim;
  }

  // Which columns can be local or linear to any query of the block, and which are to all of them:
  // the others need no mask. Positions ascend along the columns, but among a tree's nodes.
  void FindColumns() {
    const auto [first_row, last_row] = std::minmax_element(row_, row_ + padded_);
    const auto [first, last] = std::minmax_element(position_, position_ + padded_);
    // Rows after the block's last one are invisible to all of it.
    columns_ = segment_.node_column(*last_row + 1);
    const int32_t ring = segment_.column_of(segment_.k_begin);
    const int32_t ordered_end = segment_.is_chain ? columns_ : segment_.node_column(0);
    // Of positions, as if all of them had columns; then of those that do.
    const auto column = [&](int64_t position) {
      const int64_t c = segment_.num_sinks + position - segment_.v_begin;
      return static_cast<int32_t>(std::clamp<int64_t>(c, ring, ordered_end));
    };
    local_begin_ = column(form_.window_begin(*first));
    linear_begin_ = ring;
    all_local_begin_ = column(form_.window_begin(*last));
    all_local_end_ = segment_.is_chain ? segment_.node_column(*first_row + 1) : ordered_end;
    all_linear_end_ = column(form_.window_begin(*first));
    linear_end_ = column(form_.window_begin(*last));
    if (!segment_.is_chain && form_.window_begin(*last) > segment_.length) linear_end_ = columns_;
    if (!form_.has_linear()) linear_end_ = all_linear_end_ = ring;
    if (segment_.length < form_.sinks) {  // Nodes may be sinks.
      local_begin_ = all_linear_end_ = ring;
      all_local_begin_ = all_local_end_ = columns_;
    }
  }

  // queries_: [head_dim][padded_]; features_: [feature_dim][padded_].
  void LoadQueries() {
    const int32_t dim = layer_.head_dim, m = layer_.feature_dim();
    queries_ = thread_.queries.Resize(int64_t{dim} * padded_);
    const float* rows[kQueryBlock];
    for (int32_t q = 0; q < padded_; ++q) {
      rows[q] = QueryRow(q);
      query_scale_[q] = form_.qk_norm == QkNorm::kL2 ? InverseNorm(rows[q], dim) : 1.0f;
    }
    Transpose(rows, dim, queries_);
    if (m == 0) return;
    // Queries of one head have one map: every group-th of the block, in consecutive rows.
    features_ = thread_.features.Resize(int64_t{m} * (padded_ + num_queries_));
    float* phi = features_ + int64_t{m} * padded_;  // [num_queries_][m]
    const int32_t group = layer_.heads / layer_.kv_heads;
    for (int32_t first = 0; first < std::min(group, num_queries_); ++first) {
      const float* map = HeadMap(layer_, layer_.feature_map_q, head_[first]);
      const int32_t count = (num_queries_ - first + group - 1) / group;
      Features(layer_, rows[first], params_.q_stride, count, map, thread_.scratch, phi + first * m,
               int64_t{group} * m);
    }
    for (int32_t q = 0; q < padded_; ++q) {
      rows[q] = phi + int64_t{std::min(q, num_queries_ - 1)} * m;
    }
    Transpose(rows, m, features_);
  }

  // out: [dim][padded_] from rows of dim values.
  void Transpose(const float* const (&rows)[kQueryBlock], int32_t dim, float* out) const {
    int32_t q = 0;
    for (; q + 4 <= padded_; q += 4) {
      TransposeFourRows({rows[q], rows[q + 1], rows[q + 2], rows[q + 3]}, dim, padded_, out + q);
    }
    for (; q < padded_; ++q) {  // Where vectors are shorter than 4.
      for (int32_t i = 0; i < dim; ++i) out[int64_t{i} * padded_ + q] = rows[q][i];
    }
  }

  // -- The mask codes {none, local, linear} of docs/attention.md.

  QueryMask Visible(int32_t column, int32_t lane) const {
    const PositionTag d;
    const int32_t row = column - segment_.node_column(0);
    if (row < 0) return hn::FirstN(QueryTag(), hn::Lanes(QueryTag()));
    if (segment_.is_chain) {
      return hn::RebindMask(QueryTag(), hn::Gt(hn::Load(d, row_ + lane), hn::Set(d, row - 1)));
    }
    const int32_t* words = row < 32 ? ancestors_low_ : ancestors_high_;
    const auto bit = hn::Set(d, static_cast<int32_t>(uint32_t{1} << (row % 32)));
    return hn::RebindMask(QueryTag(), hn::TestBit(hn::Load(d, words + lane), bit));
  }

  QueryMask InWindow(int32_t position, int32_t lane) const {
    const PositionTag d;
    return hn::RebindMask(QueryTag(),
                          hn::Lt(hn::Load(d, window_begin_ + lane), hn::Set(d, position + 1)));
  }

  QueryMask IsLocal(int32_t column, int32_t lane) const {
    const int32_t position = segment_.column_position(column);
    const QueryMask visible = Visible(column, lane);
    if (form_.has_groups() && position < form_.sinks) return visible;
    return hn::And(visible, InWindow(position, lane));
  }

  QueryMask IsLinear(int32_t column, int32_t lane) const {
    const int32_t position = segment_.column_position(column);
    if (position < form_.sinks) return hn::FirstN(QueryTag(), 0);
    return hn::AndNot(InWindow(position, lane), Visible(column, lane));
  }

  // -- The local branch: weights_ holds its numerators.

  void ComputeLocalWeights() {
    const std::vector<RowRange> keys = KeyRows(params_, segment_, kv_head_);
    const auto score = [&](int32_t begin, int32_t end) {
      for (const RowRange& range : Columns(keys, begin, end)) {
        ForEachRowBlock(range, layer_.head_dim, thread_.rows,
                        [&](int32_t column, const float* rows, int64_t stride, int32_t count) {
                          Scores(queries_, layer_.head_dim, padded_, rows, stride, count,
                                 Weights(column));
                        });
      }
    };
    score(0, segment_.num_sinks);
    score(local_begin_, columns_);
    const QueryTag d;
    for (int32_t lane = 0; lane < padded_; lane += static_cast<int32_t>(hn::Lanes(d))) {
      if (form_.local == Local::kSoftmax) {
        SoftmaxLane(lane);
      } else {
        ElementwiseLane(lane);
      }
    }
  }

  void SoftmaxLane(int32_t lane) {
    const QueryTag d;
    const auto scale = hn::Set(d, 1.0f / std::sqrt(static_cast<float>(layer_.head_dim)));
    auto largest = hn::Set(d, -std::numeric_limits<float>::infinity());
    ForEachLocal(lane, [&](int32_t c, QueryMask local) {
      const auto score = hn::Mul(hn::Load(d, Weights(c) + lane), scale);
      largest = hn::Max(largest, hn::IfThenElse(local, score, largest));
    });
    auto sum = hn::Zero(d);
    ForEachLocal(lane, [&](int32_t c, QueryMask local) {
      const auto score = hn::Mul(hn::Load(d, Weights(c) + lane), scale);
      const auto weight = hn::IfThenElseZero(local, ExpOfNonPositive(d, hn::Sub(score, largest)));
      hn::Store(weight, d, Weights(c) + lane);
      sum = hn::Add(sum, weight);
    });
    hn::Store(sum, d, local_sum_ + lane);
  }

  void ElementwiseLane(int32_t lane) {
    const QueryTag d;
    ForEachLocal(lane, [&](int32_t c, QueryMask local) {
      const auto score = hn::Load(d, Weights(c) + lane);
      QueryVector weight;
      if (form_.local == Local::kRelu2) {
        const auto cosine =
            hn::Mul(hn::Mul(score, hn::Load(d, query_scale_ + lane)), hn::Set(d, key_scales_[c]));
        const auto positive = hn::Max(cosine, hn::Zero(d));
        weight = hn::Mul(positive, positive);
      } else {
        weight = Laplace(score);
      }
      hn::Store(hn::IfThenElseZero(local, weight), d, Weights(c) + lane);
    });
  }

  // Calls function(column, mask of the queries it is local to) in order.
  template <class Function>
  HWY_INLINE void ForEachLocal(int32_t lane, const Function& function) const {
    const QueryMask all = hn::FirstN(QueryTag(), hn::Lanes(QueryTag()));
    for (int32_t c = 0; c < segment_.num_sinks; ++c) function(c, all);
    for (int32_t c = local_begin_; c < columns_; ++c) {
      const bool to_all = c >= all_local_begin_ && c < all_local_end_;
      function(c, to_all ? all : IsLocal(c, lane));
    }
  }

  QueryVector Laplace(QueryVector score) const {
    const QueryTag d;
    const float mu = std::sqrt(0.5f), deviation = std::sqrt(0.25f / std::numbers::pi_v<float>);
    HWY_ALIGN float values[16];
    hn::Store(score, d, values);
    for (size_t i = 0; i < hn::Lanes(d); ++i) {
      const float x = values[i] / static_cast<float>(form_.group_size) - mu;
      // (1 + erf(y)) / 2, exact to the last bits where it is small.
      values[i] = 0.5f * std::erfc(-x / (deviation * std::numbers::sqrt2_v<float>));
    }
    return hn::Load(d, values);
  }

  // -- The linear branch: linear_weights_ holds u of docs/attention.md.

  void ComputeLinearWeights() {
    const QueryTag d;
    const int32_t m = layer_.feature_dim(), lanes = static_cast<int32_t>(hn::Lanes(d));
    std::fill(linear_sum_, linear_sum_ + padded_, 0.0f);
    if (linear_begin_ < linear_end_) {
      const int32_t count = linear_end_ - linear_begin_;
      linear_weights_ = thread_.linear_weights.Resize(int64_t{count} * padded_);
      Scores(features_, m, padded_, key_features_ + int64_t{linear_begin_} * m, m, count,
             linear_weights_);
    }
    for (int32_t c = linear_begin_; c < linear_end_; ++c) {
      float* weights = LinearWeights(c);
      if (form_.decay && crosses_) FadeColumn(c, weights);
      const bool to_all = c < all_linear_end_;
      for (int32_t lane = 0; lane < padded_; lane += lanes) {
        auto weight = hn::Load(d, weights + lane);
        if (!to_all) {
          weight = hn::IfThenElseZero(IsLinear(c, lane), weight);
          hn::Store(weight, d, weights + lane);
        }
        hn::Store(hn::Add(hn::Load(d, linear_sum_ + lane), weight), d, linear_sum_ + lane);
      }
    }
    if (form_.has_normaliser() && HasFolded(form_, segment_.length)) AddStateNormaliser();
  }

  float Fade(int32_t groups) const {
    float fade = 1.0f;
    for (int32_t i = 0; i < groups && form_.decay; ++i) fade *= layer_.decay[kv_head_];
    return fade;
  }

  void FadeColumn(int32_t column, float* weights) const {
    const int32_t group = GroupOf(form_, segment_.column_position(column));
    for (int32_t q = 0; q < padded_; ++q) {
      weights[q] *= Fade(std::max(0, group_[q] - form_.lag() - group));
    }
  }

  void AddStateNormaliser() {
    const QueryTag d;
    const int32_t m = layer_.feature_dim();
    const float* z = segment_.tree->state.z + int64_t{kv_head_} * m;
    for (int32_t lane = 0; lane < padded_; lane += static_cast<int32_t>(hn::Lanes(d))) {
      auto sum = hn::Zero(d);
      for (int32_t i = 0; i < m; ++i) {
        sum =
            hn::MulAdd(hn::Set(d, z[i]), hn::Load(d, features_ + int64_t{i} * padded_ + lane), sum);
      }
      hn::Store(sum, d, state_sum_ + lane);
    }
    for (int32_t q = 0; q < padded_; ++q) linear_sum_[q] += Fade(crossings_[q]) * state_sum_[q];
  }

  // -- Both branches and the convolution as one row of weights over the columns.

  // The output is (sum of weights * values + state_factor_ * phi(q) S) / divisor_: what a softmax
  // divides each of its weights by divides the output, and the others are multiplied by it.
  void FindFactors() {
    for (int32_t q = 0; q < padded_; ++q) {
      float linear = layer_.alpha, divisor = 1.0f;
      if (form_.denominator == Denominator::kJoint) {
        linear = layer_.linear_factor[head_[q]];
        divisor = local_sum_[q] + linear * linear_sum_[q];
      } else {
        if (form_.denominator == Denominator::kSum) linear /= std::max(linear_sum_[q], 1e-6f);
        if (form_.local == Local::kSoftmax) divisor = local_sum_[q];
        linear *= divisor;
      }
      divisor_[q] = divisor;
      linear_factor_[q] = linear;
      state_factor_[q] = linear * Fade(crossings_[q]);
    }
  }

  void AddLinearWeights() {
    const QueryTag d;
    for (int32_t lane = 0; lane < padded_; lane += static_cast<int32_t>(hn::Lanes(d))) {
      const auto factor = hn::Load(d, linear_factor_ + lane);
      for (int32_t c = linear_begin_; c < linear_end_; ++c) {
        float* weights = Weights(c) + lane;
        hn::Store(hn::MulAdd(hn::Load(d, LinearWeights(c) + lane), factor, hn::Load(d, weights)), d,
                  weights);
      }
    }
  }

  void AddConvolution() {
    if (segment_.is_chain && segment_.length >= form_.sinks) {
      AddConvolutionOfChain();
      return;
    }
    const int32_t taps = form_.conv_taps();
    for (int32_t q = 0; q < num_queries_; ++q) {
      const float* tap = layer_.conv_taps + int64_t{head_[q]} * taps;
      int32_t row = row_[q], position = position_[q];
      for (int32_t tau = 0; tau < taps && position >= 0; ++tau, --position) {
        const bool in_tree = position >= segment_.length;
        const int32_t column = in_tree ? segment_.node_column(row) : segment_.column_of(position);
        Weights(column)[q] += tap[tau] * divisor_[q];
        if (in_tree) row = segment_.is_chain ? row - 1 : segment_.tree->parents[row];
      }
    }
  }

  // Column by column: a query's tap is its distance to the column.
  void AddConvolutionOfChain() {
    const QueryTag d;
    const PositionTag di;
    const int32_t lanes = static_cast<int32_t>(hn::Lanes(d)), taps = form_.conv_taps();
    const auto first = std::min_element(position_, position_ + padded_);
    const int32_t begin = segment_.column_of(std::max(segment_.v_begin, *first - taps + 1));
    const auto add = [&](int32_t column, int32_t position) {
      for (int32_t lane = 0; lane < padded_; lane += lanes) {
        const auto divisor = hn::Load(d, divisor_ + lane);
        const auto distance = hn::Sub(hn::Load(di, position_ + lane), hn::Set(di, position));
        const auto reached =
            hn::And(hn::Gt(distance, hn::Set(di, -1)), hn::Lt(distance, hn::Set(di, taps)));
        const auto index = hn::Add(hn::Mul(hn::Load(di, head_ + lane), hn::Set(di, taps)),
                                   hn::IfThenElseZero(reached, distance));
        const auto tap = hn::IfThenElseZero(hn::RebindMask(d, reached),
                                            hn::GatherIndex(d, layer_.conv_taps, index));
        float* weights = Weights(column) + lane;
        // Two roundings, as in the other loop.
        hn::Store(hn::Add(hn::Load(d, weights), hn::Mul(tap, divisor)), d, weights);
      }
    };
    for (int32_t c = 0; c < segment_.num_sinks; ++c) {
      if (c > *first - taps) add(c, c);
    }
    for (int32_t c = begin; c < columns_; ++c) add(c, segment_.column_position(c));
  }

  void SumValues() {
    const int32_t dim = layer_.head_dim;
    outputs_ = thread_.outputs.Resize(int64_t{num_queries_} * dim);
    std::fill(outputs_, outputs_ + int64_t{num_queries_} * dim, 0.0f);
    if (HasFolded(form_, segment_.length)) {
      const float* s = segment_.tree->state.s + int64_t{kv_head_} * layer_.feature_dim() * dim;
      WeightedSums({features_, padded_, 1}, s, dim, layer_.feature_dim(), outputs_, num_queries_,
                   dim);
      ScaleOutputs(state_factor_, [&](int32_t q) { return outputs_ + int64_t{q} * dim; });
    }
    for (const RowRange& range : Columns(ValueRows(params_, segment_, kv_head_), 0, columns_)) {
      ForEachRowBlock(range, dim, thread_.rows,
                      [&](int32_t column, const float* rows, int64_t stride, int32_t count) {
                        WeightedSums({Weights(column), padded_, 1}, rows, stride, count, outputs_,
                                     num_queries_, dim);
                      });
    }
    float inverse[kQueryBlock];
    for (int32_t q = 0; q < num_queries_; ++q) inverse[q] = 1.0f / divisor_[q];
    ScaleOutputs(inverse, [&](int32_t q) {
      return params_.out + (int64_t{segment_.first_row + row_[q]} * layer_.heads + head_[q]) * dim;
    });
  }

  // to(q) = factors[q] * outputs_[q].
  template <class To>
  HWY_INLINE void ScaleOutputs(const float* factors, const To& to) const {
    const DimTag d;
    const int32_t dim = layer_.head_dim;
    for (int32_t q = 0; q < num_queries_; ++q) {
      const float* row = outputs_ + int64_t{q} * dim;
      float* out = to(q);
      for (int32_t i = 0; i < dim; i += static_cast<int32_t>(hn::Lanes(d))) {
        hn::StoreU(hn::Mul(hn::LoadU(d, row + i), hn::Set(d, factors[q])), d, out + i);
      }
    }
  }

  float* Weights(int32_t column) const { return weights_ + int64_t{column} * padded_; }
  float* LinearWeights(int32_t column) const {
    return linear_weights_ + int64_t{column - linear_begin_} * padded_;
  }

  const AttentionParams& params_;
  const AttentionLayer& layer_;
  const AttentionForm& form_;
  const Segment& segment_;
  const int32_t kv_head_;
  const int32_t num_queries_;
  const float* const key_scales_;    // [columns]
  const float* const key_features_;  // [columns, feature_dim]; null where no column is linear
  AttentionWorkspace::Thread& thread_;
  int32_t padded_ = 0;   // Queries rounded up to whole vectors.
  int32_t columns_ = 0;  // Columns that any query of the block may see.
  bool crosses_ = false;
  // Sinks are local to all. Columns local to some query: from local_begin_ on; to all:
  // [all_local_begin_, all_local_end_). Linear to some: [linear_begin_, linear_end_), to all:
  // those before all_linear_end_.
  int32_t local_begin_ = 0, all_local_begin_ = 0, all_local_end_ = 0;
  int32_t linear_begin_ = 0, linear_end_ = 0, all_linear_end_ = 0;

  float* queries_ = nullptr;
  float* features_ = nullptr;
  float* weights_ = nullptr;         // [columns_][padded_]
  float* linear_weights_ = nullptr;  // [linear_end_ - linear_begin_][padded_]
  float* outputs_ = nullptr;         // [num_queries_, head_dim]

  // One entry a query.
  HWY_ALIGN int32_t row_[kQueryBlock], head_[kQueryBlock];
  HWY_ALIGN int32_t position_[kQueryBlock], window_begin_[kQueryBlock], group_[kQueryBlock];
  HWY_ALIGN int32_t ancestors_low_[kQueryBlock], ancestors_high_[kQueryBlock];
  HWY_ALIGN int32_t crossings_[kQueryBlock];  // Group boundaries since the committed length.
  HWY_ALIGN float query_scale_[kQueryBlock];
  HWY_ALIGN float local_sum_[kQueryBlock], linear_sum_[kQueryBlock], state_sum_[kQueryBlock];
  HWY_ALIGN float linear_factor_[kQueryBlock], state_factor_[kQueryBlock];
  HWY_ALIGN float divisor_[kQueryBlock];
};

}  // namespace treeline::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
