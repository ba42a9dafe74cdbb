// Attention of queries to their columns and to S, in fp32: the mathematics of docs/attention.md
// for any form. A block of threads takes up to kQueries queries of one KV head of a segment; it
// computes a weight for each query and column into shared memory, then sums values and S by them.
#include <algorithm>
#include <cmath>

#include "kernels/cuda/attention_block.cuh"

namespace treeline::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kQueries = 8;
constexpr int kMaxHeadDim = 256;
constexpr int kLaneValues = kMaxHeadDim / kWarp;  // Of a row, in each lane of a warp.

// A row's values across the lanes of a warp: lane l has those of l, l + 32, ...
struct LaneRow {
  float values[kLaneValues];

  template <typename Stored>
  __device__ static LaneRow Of(const RowPointer& row, int count) {
    LaneRow result;
#pragma unroll
    for (int j = 0; j < kLaneValues; ++j) {
      const int i = threadIdx.x % kWarp + j * kWarp;
      result.values[j] = i < count ? Load<Stored>(row, i) : 0.0f;
    }
    return result;
  }
  // In all lanes.
  __device__ float SquaredNorm() const {
    float sum = 0;
#pragma unroll
    for (int j = 0; j < kLaneValues; ++j) sum += values[j] * values[j];
    return WarpSum(sum);
  }
  // In all lanes. other: `count` values.
  __device__ float Dot(const float* other, int count) const {
    float sum = 0;
#pragma unroll
    for (int j = 0; j < kLaneValues; ++j) {
      const int i = threadIdx.x % kWarp + j * kWarp;
      if (i < count) sum += values[j] * other[i];
    }
    return WarpSum(sum);
  }
};

// Floats of dynamic shared memory that a block of `queries` takes.
__host__ __device__ int SharedFloatsFor(int queries, int dim, int feature_dim, int max_columns) {
  return queries * (dim + feature_dim + max_columns + kThreads);
}

// The work of one block of threads; each method is one phase of it, by all of them.
template <typename Stored, int kBlock>
class Attender {
 public:
  // info: [kBlock], in shared memory.
  struct Info {
    Query query;
    float norm;          // Of q, inverted; 1 where nothing is normalised.
    float state_factor;  // Of phi(q) S.
  };

  __device__ Attender(const AttentionStep& step, int max_columns, Info* info)
      : step_(step),
        form_(step.layer.form),
        block_(step, step.blocks[blockIdx.x]),
        dim_(step.layer.head_dim),
        m_(step.feature_dim),
        columns_(max_columns),
        warp_(threadIdx.x / kWarp),
        lane_(threadIdx.x % kWarp),
        info_(info),
        q_(SharedFloats()),
        phi_(q_ + kBlock * dim_),
        weights_(phi_ + kBlock * m_),
        partial_(weights_ + kBlock * max_columns) {}

  __device__ void LoadQueries() {
    if (threadIdx.x < block_.num_queries) {
      info_[threadIdx.x].query = block_.QueryAt(threadIdx.x);
      info_[threadIdx.x].norm = 1.0f;
      info_[threadIdx.x].state_factor = 0.0f;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < block_.num_queries * dim_; i += kThreads) {
      const Query& query = info_[i / dim_].query;
      q_[i] = step_.q[BatchRowOf(query) * step_.q_stride + int64_t{query.head} * dim_ + i % dim_];
    }
    for (int i = threadIdx.x; i < block_.num_queries * m_; i += kThreads) {
      const Query& query = info_[i / m_].query;
      phi_[i] =
          step_.query_features[(BatchRowOf(query) * step_.layer.heads + query.head) * m_ + i % m_];
    }
    __syncthreads();
    if (!NormalisesScores()) return;
    for (int q = warp_; q < block_.num_queries; q += kWarps) {
      const LaneRow row = LaneRow::template Of<float>({nullptr, q_ + q * dim_}, dim_);
      const float norm = InverseNorm(row.Dot(q_ + q * dim_, dim_));
      if (lane_ == 0) info_[q].norm = norm;
    }
    __syncthreads();
  }

  // Local columns: the weight, or softmax's exponent; linear ones: u of docs/attention.md. A warp
  // takes a column, its lanes divide the dimensions; lane q keeps query q's result.
  __device__ void ComputeScores() {
    const RowSource keys = KeySource<Stored>(step_, block_.tree, block_.kv_head);
    for (int c = warp_; c < block_.num_columns; c += kWarps) {
      const Column column = block_.ColumnAt(c);
      const Code code = lane_ < block_.num_queries ? CodeOf(lane_, column) : Code::kNone;
      float weight = 0.0f;
      if (form_.local != Local::kNone) {
        unsigned queries = __ballot_sync(kAllLanes, code == Code::kLocal);
        if (queries != 0) {
          const LaneRow key =
              LaneRow::template Of<Stored>(block_.template RowOf<Stored>(keys, column), dim_);
          const float norm = NormalisesScores() ? InverseNorm(key.SquaredNorm()) : 1.0f;
          for (; queries != 0; queries &= queries - 1) {
            const int q = __ffs(queries) - 1;
            const float score = key.Dot(q_ + q * dim_, dim_);
            if (lane_ == q) weight = LocalScore(form_, dim_, score, info_[q].norm * norm);
          }
        }
      }
      unsigned queries = __ballot_sync(kAllLanes, code == Code::kLinear);
      if (queries != 0) {
        const float* features = block_.KeyFeatures(column);
        for (; queries != 0; queries &= queries - 1) {
          const int q = __ffs(queries) - 1;
          float u = 0;
          for (int i = lane_; i < m_; i += kWarp) u += phi_[q * m_ + i] * features[i];
          u = WarpSum(u);
          const int groups = info_[q].query.group - step_.lag - block_.GroupOf(column.position);
          if (lane_ == q) weight = u * Fade(step_, block_.kv_head, groups);
        }
      }
      if (lane_ < block_.num_queries) weights_[lane_ * columns_ + c] = weight;
    }
    __syncthreads();
  }

  // Both branches and the convolution as one weight a column. A warp takes a query.
  __device__ void Normalise() {
    for (int q = warp_; q < block_.num_queries; q += kWarps) {
      float* weights = weights_ + q * columns_;
      if (form_.local == Local::kSoftmax) Exponentiate(q, weights);
      float local_sum = 0, linear_sum = 0;
      for (int c = lane_; c < block_.num_columns; c += kWarp) {
        const Code code = CodeOf(q, block_.ColumnAt(c));
        if (code == Code::kLocal) local_sum += weights[c];
        if (code == Code::kLinear) linear_sum += weights[c];
      }
      local_sum = WarpSum(local_sum);
      linear_sum = WarpSum(linear_sum);
      const Query& query = info_[q].query;
      const float fade = Fade(step_, block_.kv_head, query.group - block_.segment.group);
      if (step_.has_normaliser && block_.S() != nullptr) linear_sum += fade * StateSum(q);

      const BranchFactors factors = FactorsOf(step_.layer, query.head, local_sum, linear_sum);
      if (lane_ == 0) info_[q].state_factor = factors.linear * fade;
      for (int c = lane_; c < block_.num_columns; c += kWarp) {
        const Column column = block_.ColumnAt(c);
        const bool is_local = CodeOf(q, column) == Code::kLocal;
        weights[c] *= is_local ? factors.local : factors.linear;
        if (step_.conv_taps > 0) weights[c] += block_.Tap(query, column);
      }
    }
    __syncthreads();
  }

  // Thread (part, i) sums dimension i over every part-th column and feature.
  __device__ void SumValues() {
    const int parts = kThreads / dim_, part = threadIdx.x / dim_, i = threadIdx.x % dim_;
    const RowSource values = ValueSource<Stored>(step_, block_.tree, block_.kv_head);
    float sums[kBlock] = {};
    for (int c = part; part < parts && c < block_.num_columns; c += parts) {
      const RowPointer row = block_.template RowOf<Stored>(values, block_.ColumnAt(c));
      const float value = Load<Stored>(row, i);
#pragma unroll
      for (int q = 0; q < kBlock; ++q) sums[q] += weights_[q * columns_ + c] * value;
    }
    const float* s = block_.S();
    if (s != nullptr) {
      float state_sums[kBlock] = {};
#pragma unroll 4
      for (int a = part < parts ? part : m_; a < m_; a += parts) {
        const float value = s[int64_t{a} * dim_ + i];
#pragma unroll
        for (int q = 0; q < kBlock; ++q) state_sums[q] += phi_[q * m_ + a] * value;
      }
#pragma unroll
      for (int q = 0; q < kBlock; ++q) sums[q] += info_[q].state_factor * state_sums[q];
    }
    if (part < parts) {
#pragma unroll
      for (int q = 0; q < kBlock; ++q) partial_[(q * parts + part) * dim_ + i] = sums[q];
    }
    __syncthreads();
    for (int j = threadIdx.x; j < block_.num_queries * dim_; j += kThreads) {
      const int q = j / dim_;
      float sum = 0;
      for (int p = 0; p < parts; ++p) sum += partial_[(q * parts + p) * dim_ + j % dim_];
      const Query& query = info_[q].query;
      step_.out[(BatchRowOf(query) * step_.layer.heads + query.head) * dim_ + j % dim_] = sum;
    }
  }

 private:
  __device__ int64_t BatchRowOf(const Query& query) const {
    return block_.segment.first_row + query.row;
  }
  __device__ bool NormalisesScores() const {
    return form_.local == Local::kRelu2 && form_.qk_norm == QkNorm::kL2;
  }
  __device__ Code CodeOf(int q, const Column& column) const {
    const Query& query = info_[q].query;
    return block_.IsVisible(query, column) ? block_.CodeOf(query, column) : Code::kNone;
  }

  // Softmax's exponents become its numerators.
  __device__ void Exponentiate(int q, float* weights) const {
    float largest = -INFINITY;
    for (int c = lane_; c < block_.num_columns; c += kWarp) {
      if (CodeOf(q, block_.ColumnAt(c)) == Code::kLocal) largest = fmaxf(largest, weights[c]);
    }
    largest = WarpMax(largest);
    for (int c = lane_; c < block_.num_columns; c += kWarp) {
      if (CodeOf(q, block_.ColumnAt(c)) == Code::kLocal) weights[c] = expf(weights[c] - largest);
    }
  }

  // phi(q) z.
  __device__ float StateSum(int q) const {
    const float* z = block_.Z();
    float sum = 0;
    for (int i = lane_; i < m_; i += kWarp) sum += phi_[q * m_ + i] * z[i];
    return WarpSum(sum);
  }

  const AttentionStep& step_;
  const AttentionForm& form_;
  const Block block_;
  const int dim_, m_, columns_, warp_, lane_;
  Info* const info_;
  float* const q_;        // [kBlock, dim]
  float* const phi_;      // [kBlock, m]
  float* const weights_;  // [kBlock, columns]
  float* const partial_;  // [kBlock, parts, dim]
};

// Grid: blocks of the plan, KV heads.
template <typename Stored, int kBlock>
__global__ void __launch_bounds__(kThreads) AttendKernel(AttentionStep step, int max_columns) {
  WaitForEarlierKernels();
  using Work = Attender<Stored, kBlock>;
  __shared__ typename Work::Info info[kBlock];
  Work work(step, max_columns, info);
  work.LoadQueries();
  work.ComputeScores();
  work.Normalise();
  work.SumValues();
}

}  // namespace

int32_t AttendBlockSize(const AttentionLayer& layer, const Plan& plan, Stream& stream) {
  const auto fits = [&](int block) {
    constexpr size_t kStaticBytes = 1024;
    return sizeof(float) *
                   SharedFloatsFor(block, layer.head_dim, layer.feature_dim(), plan.max_columns) +
               kStaticBytes <=
           stream.max_shared_memory();
  };
  const bool one_query = layer.heads == layer.kv_heads &&
                         std::all_of(plan.segments.begin(), plan.segments.end(),
                                     [](const Segment& segment) { return segment.num_rows == 1; });
  if (!one_query && fits(kQueries)) return kQueries;
  return fits(1) ? 1 : 0;
}

void Attend(const AttentionStep& step, int32_t block_size, Stream& stream) {
  const auto launch = [&](auto kernel) {
    const size_t shared = sizeof(float) * SharedFloatsFor(block_size, step.layer.head_dim,
                                                          step.feature_dim, step.max_columns);
    Launch(stream, "Attend", kernel, dim3(step.num_blocks, step.layer.kv_heads), kThreads, shared,
           step, step.max_columns);
  };
  const bool is_fp32 = step.layer.state_type == StateType::kF32;
  if (block_size == 1) {
    launch(is_fp32 ? AttendKernel<float, 1> : AttendKernel<__nv_bfloat16, 1>);
  } else {
    launch(is_fp32 ? AttendKernel<float, kQueries> : AttendKernel<__nv_bfloat16, kQueries>);
  }
}

}  // namespace treeline::cuda
