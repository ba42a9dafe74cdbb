// What 16 queries of a block attend to, on tensor cores, by one warp: products of bf16 with sums in
// fp32. The warp goes over columns and features in steps of 16.
#ifndef TREELINE_KERNELS_CUDA_QUERY_TILE_CUH_
#define TREELINE_KERNELS_CUDA_QUERY_TILE_CUH_

#include <cmath>

#include "kernels/cuda/attention_block.cuh"
#include "kernels/cuda/mma.cuh"

namespace treeline::cuda {

constexpr int kQueries = 16;
constexpr int kStep = WarpBlocks::kStep;
constexpr int kHalves = 2;   // Lane l has queries l / 4 and l / 4 + 8 of a tile,
constexpr int kColumns = 4;  // and columns 2 (l % 4), the next, and those 8 behind of a step.

enum Kind { kLocalSums, kLinearSums, kConvSums, kNumKinds };

// What a part of a tile's steps, of one KV head, knows of a query beside its sums.
struct alignas(16) Totals {
  float largest;  // Exponent, of softmax.
  float local_sum, linear_sum;
  int kinds;  // Bit k: there are sums of kind k. The same for all queries.
};
// Of a part of a tile that a block of threads leaves, of one KV head: Sums of each kind, and Totals
// of the queries.
__host__ __device__ constexpr int PartialFloats(int dim) {
  return kQueries * (kNumKinds * dim + static_cast<int>(sizeof(Totals) / sizeof(float)));
}

__device__ inline uint32_t Pack(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// Eight bf16.
struct Packed {
  uint32_t words[4];

  __device__ static Packed Of(const Bf16* row, int at) {
    const uint4 v = *reinterpret_cast<const uint4*>(row + at);
    return {{v.x, v.y, v.z, v.w}};
  }
  __device__ static Packed Of(const float* row, int at) {
    float f[kVector];
    LoadVector(row + at, f);
    return {{Pack(f[0], f[1]), Pack(f[2], f[3]), Pack(f[4], f[5]), Pack(f[6], f[7])}};
  }
  __device__ float SquaredNorm() const {
    float sum = 0;
#pragma unroll
    for (const uint32_t word : words) {
      const float low = __uint_as_float(word << 16), high = __uint_as_float(word & 0xffff0000u);
      sum += low * low + high * high;
    }
    return sum;
  }
};

__device__ inline float Relu2(float cosine) { return cosine > 0 ? cosine * cosine : 0.0f; }
// Rare, and long.
__device__ __noinline__ inline float LaplaceOf(float score, int group_size) {
  return Laplace(score, group_size);
}

// Over the four lanes that share a query.
__device__ inline float QuadSum(float value) {
  value += __shfl_xor_sync(kAllLanes, value, 1);
  return value + __shfl_xor_sync(kAllLanes, value, 2);
}
__device__ inline float QuadMax(float value) {
  value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, 1));
  return fmaxf(value, __shfl_xor_sync(kAllLanes, value, 2));
}

// Weights of a lane's queries, and of its columns or of features 4 (l % 4) .. of a step.
using Weights = float[kHalves][kColumns];
constexpr int kSeenBits = kHalves * kColumns;  // A bit for each: whether there is one.

// The steps of a kind, behind one another.
struct StepRange {
  int begin, end;
};
__device__ inline StepRange StepsOf(const QueryBlock::Steps& steps, Kind kind) {
  const int linear_end = steps.local + steps.features + steps.linear;
  if (kind == kLocalSums) return {0, steps.local};
  if (kind == kLinearSums) return {steps.local, linear_end};
  return {linear_end, linear_end + steps.conv};
}

// Where the rows of a segment's columns are, of one of K and V: in the state, or in the batch,
// which has them as Fresh.
template <typename Fresh>
class ColumnRows {
 public:
  // The column `first` has row first_row of the ring; those before it are not asked for, but for
  // sinks. batch: of the step's first row, rows `stride` apart.
  __device__ ColumnRows(const Block& block, const RowSource& source, int first, int first_row,
                        const Fresh* batch, int stride, int dim)
      : sinks_(static_cast<const Bf16*>(source.sinks)),
        ring_(static_cast<const Bf16*>(source.ring)),
        batch_(batch),
        stride_(stride),
        dim_(dim),
        num_sinks_(block.segment.num_sinks),
        ring_rows_(source.ring_rows),
        ring_offset_(first_row - first),
        sinks_in_state_(min(block.segment.num_sinks, block.tree.length)),
        batch_begin_(block.segment.num_sinks + max(0, block.tree.length - block.segment.v_begin)),
        batch_offset_(block.segment.first_row - block.first_node_column()),
        sink_batch_offset_(block.tree.first_row - block.tree.length) {}

  __device__ bool InState(int column) const {
    return column < (column < num_sinks_ ? sinks_in_state_ : batch_begin_);
  }
  // Whether the state has all of [begin, end).
  __device__ bool InState(int begin, int end) const {
    return end <= batch_begin_ && (begin >= num_sinks_ || sinks_in_state_ == num_sinks_);
  }
  // REQUIRES: InState.
  __device__ const Bf16* StateRow(int column) const {
    const int row = column + ring_offset_;
    const int in_ring = row >= ring_rows_ ? row - ring_rows_ : row;
    return column < num_sinks_ ? sinks_ + column * dim_ : ring_ + in_ring * dim_;
  }
  // REQUIRES: not InState.
  __device__ const Fresh* BatchRow(int column) const {
    const int row = column + (column < num_sinks_ ? sink_batch_offset_ : batch_offset_);
    return batch_ + int64_t{row} * stride_;
  }

 private:
  const Bf16* const sinks_;
  const Bf16* const ring_;
  const Fresh* const batch_;
  const int stride_, dim_, num_sinks_, ring_rows_;
  const int ring_offset_;  // From a column to its row.
  const int sinks_in_state_, batch_begin_, batch_offset_, sink_batch_offset_;
};

template <int kDim>
class QueryTile {
 public:
  // Of 8 dimensions each, two of a lane: of its first query, then of the second.
  using Sums = float[kDim / 8][4];
  // The Sums of a warp as they are kept: lane l has tile t at kWarp t + l.
  static constexpr int kKept = kDim / 8 * kWarp;
  static constexpr int kMaxNodes = 64;  // TokenTree::kMaxNodes.

  // The block's queries from `first` on. In shared memory, of this warp: room for kKept, where its
  // queries are while there are local steps, and for the depths of kMaxNodes.
  __device__ QueryTile(const AttentionStep& step, const QueryBlock& task, int first, float4* place,
                       int32_t* depths)
      : step_(step),
        form_(step.layer.form),
        block_(WithDepths(Block(step, task), depths)),
        num_queries_(min(kQueries, block_.num_queries - first)),
        lane_(threadIdx.x % kWarp),
        group_(lane_ / 4),
        in_group_(lane_ % 4),
        place_(place) {
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      // Past the last query this one again, whose result is thrown away.
      queries_[h] = block_.QueryAt(min(first + group_ + 8 * h, block_.num_queries - 1));
      fades_[h] = Fade(step, block_.kv_head, queries_[h].group - block_.segment.group);
    }
  }

 protected:
  // Steps ask for the nodes' depths again and again: they move to shared memory.
  __device__ static Block WithDepths(Block block, int32_t* depths) {
    if (block.segment.nodes < 0) return block;
    for (int i = threadIdx.x % kWarp; i < block.segment.num_rows; i += kWarp) {
      depths[i] = block.depths[i];
    }
    __syncwarp();
    block.depths = depths;
    return block;
  }

  __device__ bool NormalisesScores() const {
    return form_.local == Local::kRelu2 && form_.qk_norm == QkNorm::kL2;
  }
  __device__ int64_t BatchRowOf(const Query& query) const {
    return block_.segment.first_row + query.row;
  }
  // The lane's column i of a step.
  __device__ int ColumnIndex(int first, int i) const {
    return first + 2 * in_group_ + i % 2 + 8 * (i / 2);
  }

  // Before it there are columns of the convolution alone, of which K need not have rows any more.
  __device__ int FirstKeyColumn() const {
    const Segment& segment = block_.segment;
    return segment.num_sinks + segment.k_begin - segment.v_begin;
  }
  // One that K has a row of, in a column's place.
  __device__ int KeyColumn(int column) const {
    return column < block_.segment.num_sinks ? column : max(column, FirstKeyColumn());
  }

  // -- Columns.

  // True where every query sees every column of the step, and in its window.
  __device__ bool IsLocalToAll(int first) const {
    const Segment& segment = block_.segment;
    const int end = first + kStep;
    const int rows = segment.nodes < 0 ? block_.first_row + 1 : 0;
    if (end > block_.first_node_column() + rows) return false;
    if (first < segment.linear_begin && segment.num_sinks < min(end, segment.linear_begin)) {
      return false;
    }
    return end <= segment.linear_begin || first >= segment.linear_end;
  }

  // Bit kColumns h + i: whether query h sees column i so.
  __device__ uint32_t FindCodes(int first, int num_columns, Code code) const {
    uint32_t found = 0;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const int c = ColumnIndex(first, i);
      const Column column = block_.ColumnAt(min(c, num_columns - 1));
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        const bool sees = c < num_columns && block_.IsVisible(queries_[h], column) &&
                          block_.CodeOf(queries_[h], column) == code;
        found |= static_cast<uint32_t>(sees) << (kColumns * h + i);
      }
    }
    return found;
  }

  // Rounded, in the order in which keys are loaded: lane l has dimensions 8 (l % 4) .. of each 32.
  // In shared memory, where each lane reads what it has written.
  __device__ void LoadQueries() {
    auto* to = reinterpret_cast<uint4*>(place_) + lane_;
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      const Query& query = queries_[h];
      const float* q = step_.q + BatchRowOf(query) * step_.q_stride + int64_t{query.head} * kDim;
      float squares = 0;
#pragma unroll
      for (int b = 0; b < kDim / 32; ++b) {
        const Packed values = Packed::Of(q, 32 * b + 8 * in_group_);
        squares += values.SquaredNorm();
        to[(2 * b + h) * kWarp] =
            make_uint4(values.words[0], values.words[1], values.words[2], values.words[3]);
      }
      norms_[h] = NormalisesScores() ? InverseNorm(QuadSum(squares)) : 1.0f;
    }
  }

  // The weights of the local columns of kTurns neighbouring steps, whose Scores these are. Bit
  // kSeenBits u + kColumns h + i of seen: query h sees column i of step u so.
  template <int kTurns>
  __device__ void WeighLocal(uint32_t seen, Weights (&weights)[kTurns], Sums& sums) {
    if (form_.local == Local::kSoftmax) Exponentiate(seen, weights, sums);
#pragma unroll
    for (int u = 0; u < kTurns; ++u) {
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
#pragma unroll
        for (int i = 0; i < kColumns; ++i) {
          float& weight = weights[u][h][i];
          if ((seen >> (kSeenBits * u + kColumns * h + i) & 1) == 0) weight = 0.0f;
          local_sum_[h] += weight;
        }
      }
    }
  }

  // The local weight of every query and column, or softmax's exponent. Of keys lane l has those of
  // columns l / 4 and l / 4 + 8.
  __device__ void Score(const Packed (&keys)[2][kDim / 32], Weights& weights) const {
    const auto* queries = reinterpret_cast<const uint4*>(place_) + lane_;
    float scores[2][4] = {};
#pragma unroll
    for (int b = 0; b < kDim / 32; ++b) {
      const uint4 q = queries[2 * b * kWarp], other = queries[(2 * b + 1) * kWarp];
      const uint32_t low[4] = {q.x, other.x, q.y, other.y}, high[4] = {q.z, other.z, q.w, other.w};
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const uint32_t(&k)[4] = keys[j][b].words;
        MultiplyAdd(scores[j], low, k[0], k[1]);
        MultiplyAdd(scores[j], high, k[2], k[3]);
      }
    }
    const bool is_softmax = form_.local == Local::kSoftmax;
    const float scale = rsqrtf(static_cast<float>(kDim));
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        const float score = scores[i / 2][2 * h + i % 2];
        weights[h][i] = is_softmax ? score * scale : score;
      }
    }
    if (!is_softmax) ApplyKernel(keys, weights);
  }

  // The local kernels other than softmax: scores become weights.
  __device__ void ApplyKernel(const Packed (&keys)[2][kDim / 32], Weights& weights) const {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      float squares = 0;
#pragma unroll
      for (int b = 0; b < kDim / 32; ++b) squares += keys[j][b].SquaredNorm();
      const float norm = NormalisesScores() ? InverseNorm(QuadSum(squares)) : 1.0f;
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float norm_of_column = __shfl_sync(kAllLanes, norm, (2 * in_group_ + e) * 4);
#pragma unroll
        for (int h = 0; h < kHalves; ++h) {
          float& weight = weights[h][2 * j + e];
          weight = form_.local == Local::kLaplace ? LaplaceOf(weight, form_.group_size)
                                                  : Relu2(weight * norms_[h] * norm_of_column);
        }
      }
    }
  }

  // Softmax's exponents become its numerators, beside the largest exponent so far; what was summed
  // beside a smaller one is scaled down.
  template <int kTurns>
  __device__ void Exponentiate(uint32_t local, Weights (&weights)[kTurns], Sums& sums) {
    float scales[kHalves];
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      float largest = largest_[h];
#pragma unroll
      for (int u = 0; u < kTurns; ++u) {
#pragma unroll
        for (int i = 0; i < kColumns; ++i) {
          const bool is_local = local >> (kSeenBits * u + kColumns * h + i) & 1;
          if (is_local) largest = fmaxf(largest, weights[u][h][i]);
        }
      }
      largest = QuadMax(largest);
      // Nothing local so far: any finite number will do.
      const float finite = largest == -INFINITY ? 0.0f : largest;
      scales[h] = __expf(largest_[h] - finite);
      largest_[h] = largest;
      local_sum_[h] *= scales[h];
#pragma unroll
      for (Weights& of_step : weights) {
#pragma unroll
        for (float& weight : of_step[h]) weight = __expf(weight - finite);
      }
    }
    if (!__any_sync(kAllLanes, scales[0] != 1.0f || scales[1] != 1.0f)) return;
#pragma unroll
    for (auto& tile : sums) {
#pragma unroll
      for (int j = 0; j < 4; ++j) tile[j] *= scales[j / 2];
    }
  }

  // -- S and linear columns.

  // phi of query h, of features 4 (l % 4) .. of a step.
  __device__ float4 Features(int h, int first) const {
    const Query& query = queries_[h];
    const float* phi = step_.query_features + (BatchRowOf(query) * step_.layer.heads + query.head) *
                                                  int64_t{step_.feature_dim};
    return *reinterpret_cast<const float4*>(phi + first + 4 * in_group_);
  }

  __device__ void WeighFeatures(int first, Weights& weights) {
    float4 z = make_float4(0, 0, 0, 0);
    if (step_.has_normaliser) {
      z = *reinterpret_cast<const float4*>(block_.Z() + first + 4 * in_group_);
    }
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      const float4 phi = Features(h, first);
      const float fade = fades_[h];
      weights[h][0] = phi.x * fade;
      weights[h][1] = phi.y * fade;
      weights[h][2] = phi.z * fade;
      weights[h][3] = phi.w * fade;
      linear_sum_[h] += fade * (phi.x * z.x + phi.y * z.y + phi.z * z.z + phi.w * z.w);
    }
  }

  __device__ void WeighLinear(int first, int end, uint32_t seen, Weights& weights) {
    const float* keys[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int c = min(first + 8 * j + group_, end - 1);
      keys[j] = block_.KeyFeatures(block_.ColumnAt(c)) + 4 * in_group_;
    }
    float scores[2][4] = {};
#pragma unroll 1
    for (int feature = 0; feature < step_.feature_dim; feature += kStep) {
      const float4 p = Features(0, feature), other = Features(1, feature);
      const uint32_t a[4] = {Pack(p.x, p.y), Pack(other.x, other.y), Pack(p.z, p.w),
                             Pack(other.z, other.w)};
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float4 k = *reinterpret_cast<const float4*>(keys[j] + feature);
        MultiplyAdd(scores[j], a, Pack(k.x, k.y), Pack(k.z, k.w));
      }
    }
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const int c = min(ColumnIndex(first, i), end - 1);
      const int group = block_.GroupOf(block_.ColumnAt(c).position);
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        if ((seen >> (kColumns * h + i) & 1) == 0) continue;
        weights[h][i] = scores[i / 2][2 * h + i % 2] *
                        Fade(step_, block_.kv_head, queries_[h].group - step_.lag - group);
        linear_sum_[h] += weights[h][i];
      }
    }
  }

  // -- The convolution.

  __device__ void WeighTaps(int first, Weights& taps) const {
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const int c = ColumnIndex(first, i);
      const Column column = block_.ColumnAt(min(c, block_.num_columns - 1));
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        const float tap = block_.Tap(queries_[h], column);
        taps[h][i] = c < block_.num_columns ? tap : 0.0f;
      }
    }
  }

  // -- Results.

  __device__ static void Clear(Sums& sums) {
#pragma unroll
    for (auto& tile : sums) {
#pragma unroll
      for (float& value : tile) value = 0.0f;
    }
  }
  // Every query's sums are all its lanes'.
  __device__ void AddUpLanes() {
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      local_sum_[h] = QuadSum(local_sum_[h]);
      linear_sum_[h] = QuadSum(linear_sum_[h]);
    }
  }
  __device__ void Keep(const Sums& sums, float4* place) const {
#pragma unroll
    for (int t = 0; t < kDim / 8; ++t) {
      place[t * kWarp + lane_] = make_float4(sums[t][0], sums[t][1], sums[t][2], sums[t][3]);
    }
  }
  // The local sums, which were kept to make room for the linear ones, join them.
  __device__ void CombineWithKept(Sums& sums) const {
    BranchFactors factors[kHalves];
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      factors[h] = FactorsOf(step_.layer, queries_[h].head, local_sum_[h], linear_sum_[h]);
    }
    const float4* kept = place_ + lane_;
#pragma unroll
    for (int t = 0; t < kDim / 8; ++t) {
      const float4 local = kept[t * kWarp];
      sums[t][0] = factors[0].local * local.x + factors[0].linear * sums[t][0];
      sums[t][1] = factors[0].local * local.y + factors[0].linear * sums[t][1];
      sums[t][2] = factors[1].local * local.z + factors[1].linear * sums[t][2];
      sums[t][3] = factors[1].local * local.w + factors[1].linear * sums[t][3];
    }
  }

  __device__ float* OutputOf(const Query& query) const {
    return step_.out + (BatchRowOf(query) * step_.layer.heads + query.head) * kDim;
  }

  const AttentionStep& step_;
  const AttentionForm& form_;
  const Block block_;
  const int num_queries_;
  const int lane_, group_, in_group_;
  float4* const place_;

  // Of the lane's queries. Sums are the lane's own until AddUpLanes.
  Query queries_[kHalves];
  float norms_[kHalves];
  float fades_[kHalves];  // Of S.
  float largest_[kHalves] = {-INFINITY, -INFINITY};
  float local_sum_[kHalves] = {}, linear_sum_[kHalves] = {};
};

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_QUERY_TILE_CUH_
