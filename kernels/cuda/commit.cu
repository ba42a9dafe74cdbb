// How tokens enter a state: groups are summed, the sums of a chain's groups scanned in order, the
// totals and the rows stored. A group's own sums come first: S grows with the sequence, and adding
// rows to it one by one would lose their low bits.
#include <algorithm>

#include "kernels/cuda/attention_rows.cuh"
#include "kernels/cuda/tiles.cuh"

namespace treeline::cuda {
namespace {

constexpr int kThreads = 256;
// A block of SumFoldsKernel sums kFeatures rows of S over kRows tokens at a time.
constexpr int kFeatures = 32;
constexpr int kRows = 32;
constexpr int kMaxOutputs = 32;  // A thread's, of kFeatures * head_dim: head_dim is 256 at most.

__device__ int64_t SumsSize(const AttentionStep& step) {
  return int64_t{step.feature_dim} * (step.layer.head_dim + 1);
}
__device__ float* SumsOf(const AttentionStep& step, int fold, int kv_head) {
  return step.sums + (int64_t{fold} * step.layer.kv_heads + kv_head) * SumsSize(step);
}

// Grid: folds, KV heads, blocks of kFeatures features.
template <typename Stored>
__global__ void SumFoldsKernel(AttentionStep step) {
  WaitForEarlierKernels();
  const Fold fold = step.folds[blockIdx.x];
  const Tree tree = step.trees[fold.tree];
  const int kv_head = blockIdx.y, dim = step.layer.head_dim, m = step.feature_dim;
  const int first_feature = blockIdx.z * kFeatures, features = min(kFeatures, m - first_feature);
  const RowSource values = ValueSource<Stored>(step, tree, kv_head);
  float* phi = SharedFloats();         // [kRows, kFeatures]
  float* v = phi + kRows * kFeatures;  // [kRows, dim]
  float sums[kMaxOutputs] = {};
  float feature_sum = 0;
  for (int begin = fold.begin; begin < fold.end; begin += kRows) {
    const int rows = min(kRows, fold.end - begin);
    for (int i = threadIdx.x; i < rows * kFeatures; i += kThreads) {
      const int64_t row = tree.features + begin + i / kFeatures - tree.features_begin;
      const int feature = i % kFeatures;
      phi[i] = feature < features ? step.key_features[(row * step.layer.kv_heads + kv_head) * m +
                                                      first_feature + feature]
                                  : 0.0f;
    }
    for (int i = threadIdx.x; i < rows * dim; i += kThreads) {
      v[i] = Load<Stored>(RowAt<Stored>(step, tree, values, begin + i / dim), i % dim);
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kMaxOutputs; ++j) {
      const int output = threadIdx.x + j * kThreads;
      if (output >= kFeatures * dim) break;
      const float* a = phi + output / dim;
      const float* b = v + output % dim;
      float sum = 0;
      for (int r = 0; r < rows; ++r) sum += a[r * kFeatures] * b[r * dim];
      sums[j] += sum;
    }
    if (threadIdx.x < kFeatures) {
      for (int r = 0; r < rows; ++r) feature_sum += phi[r * kFeatures + threadIdx.x];
    }
    __syncthreads();
  }
  float* out = SumsOf(step, blockIdx.x, kv_head);
#pragma unroll
  for (int j = 0; j < kMaxOutputs; ++j) {
    const int output = threadIdx.x + j * kThreads;
    if (output < features * dim) out[int64_t{first_feature} * dim + output] = sums[j];
  }
  if (threadIdx.x < features) out[int64_t{m} * dim + first_feature + threadIdx.x] = feature_sum;
}

// The same on tensor cores, for bf16 rings. v is bf16 as it is; phi goes in as the sum of two bf16,
// so that S stays exact to fp32 rounding. Grid: folds, KV heads, blocks of kTileFeatures features,
// of which each warp takes 16.
constexpr int kTileRows = 64, kTileFeatures = kThreads / kWarp * 16;

template <int kDim>
__global__ void __launch_bounds__(kThreads, 2) SumFoldsOnTensorCores(AttentionStep step) {
  WaitForEarlierKernels();
  constexpr int kPhiStride = kTileFeatures + kPad, kStride = kDim + kPad;
  const Fold fold = step.folds[blockIdx.x];
  const Tree tree = step.trees[fold.tree];
  const int kv_head = blockIdx.y, m = step.feature_dim;
  const int first_feature = blockIdx.z * kTileFeatures;
  const int features = min(kTileFeatures, m - first_feature);
  const RowSource value_rows = ValueSource<Bf16>(step, tree, kv_head);
  Bf16* high = reinterpret_cast<Bf16*>(SharedFloats());  // [kTileRows, kPhiStride]
  Bf16* low = high + kTileRows * kPhiStride;             // The rest of phi.
  Bf16* v = low + kTileRows * kPhiStride;                // [kTileRows, kStride]
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  float sums[kDim / 8][4] = {};
  float feature_sum = 0;
  for (int begin = fold.begin; begin < fold.end; begin += kTileRows) {
    const int rows = min(kTileRows, fold.end - begin);
    MoveVectors<kThreads>(
        kTileRows * kTileFeatures / kVector,
        [&](int i, float(&values)[kVector]) {
          const int row = i / (kTileFeatures / kVector);
          const int at = i % (kTileFeatures / kVector) * kVector;
          if (row >= rows || at >= features) {
            SetZero(values);
            return;
          }
          const int64_t from = tree.features + begin + row - tree.features_begin;
          LoadVector(
              step.key_features + (from * step.layer.kv_heads + kv_head) * m + first_feature + at,
              values);
        },
        [&](int i, float(&values)[kVector]) {
          const int to =
              i / (kTileFeatures / kVector) * kPhiStride + i % (kTileFeatures / kVector) * kVector;
          StoreRounded(high + to, values);
          for (float& value : values) value -= Bf16Rounded(value);
          StoreRounded(low + to, values);
        });
    MoveVectors<kThreads>(
        kTileRows * kDim / kVector,
        [&](int i, float(&values)[kVector]) {
          const int row = i / (kDim / kVector);
          if (row < rows) {
            LoadVector(RowAt<Bf16>(step, tree, value_rows, begin + row),
                       i % (kDim / kVector) * kVector, values);
          } else {
            SetZero(values);
          }
        },
        [&](int i, const float(&values)[kVector]) {
          StoreRounded(v + i / (kDim / kVector) * kStride + i % (kDim / kVector) * kVector, values);
        });
    __syncthreads();
    Multiply<true, true>(sums, high + warp * 16, kPhiStride, v, kStride, 0, kTileRows);
    Multiply<true, true>(sums, low + warp * 16, kPhiStride, v, kStride, 0, kTileRows);
    if (threadIdx.x < kTileFeatures) {
      for (int r = 0; r < rows; ++r) {
        const int at = r * kPhiStride + threadIdx.x;
        feature_sum += ToFloat(high[at]) + ToFloat(low[at]);
      }
    }
    __syncthreads();
  }
  float* out = SumsOf(step, blockIdx.x, kv_head);
  if (threadIdx.x < features) out[int64_t{m} * kDim + first_feature + threadIdx.x] = feature_sum;
  if (warp * 16 >= features) return;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int feature = first_feature + warp * 16 + lane / 4 + 8 * half;
    float* to = out + int64_t{feature} * kDim + 2 * (lane % 4);
#pragma unroll
    for (int t = 0; t < kDim / 8; ++t) {
      *reinterpret_cast<float2*>(to + 8 * t) =
          make_float2(sums[t][2 * half], sums[t][2 * half + 1]);
    }
  }
}

__device__ int64_t SSize(const AttentionStep& step) {
  return int64_t{step.feature_dim} * step.layer.head_dim;
}

// A KV head's S and z in a state, by the index of an element of its sums.
class StateSums {
 public:
  __device__ StateSums(const AttentionStep& step, const Tree& tree, int kv_head)
      : s_size_(SSize(step)),
        splits_s_(step.splits_s),
        s_(OfTree(step.state.s, tree) + kv_head * s_size_),
        z_(step.has_normaliser ? OfTree(step.state.z, tree) + int64_t{kv_head} * step.feature_dim
                               : nullptr) {}

  // 0 of a z that is not kept.
  __device__ float Load(int64_t i) const {
    if (i >= s_size_) return z_ == nullptr ? 0.0f : z_[i - s_size_];
    return splits_s_ ? __uint_as_float(JoinBits({high()[i], low()[i]})) : s_[i];
  }
  __device__ void Store(int64_t i, float value) const {
    if (i >= s_size_) {
      if (z_ != nullptr) z_[i - s_size_] = value;
    } else if (splits_s_) {
      const Split split = SplitBits(__float_as_uint(value));
      high()[i] = split.high;
      low()[i] = split.low;
    } else {
      s_[i] = value;
    }
  }

 private:
  __device__ SplitHigh* high() const { return reinterpret_cast<SplitHigh*>(s_); }
  __device__ SplitLow* low() const { return reinterpret_cast<SplitLow*>(s_) + s_size_; }

  const int64_t s_size_;
  const bool splits_s_;
  float* const s_;
  float* const z_;
};

// Grid: elements of the sums, KV heads, scans.
__global__ void ScanFoldsKernel(AttentionStep step) {
  WaitForEarlierKernels();
  const Scan scan = step.scans[blockIdx.z];
  const int kv_head = blockIdx.y;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= SumsSize(step)) return;
  const float decay = step.layer.form.decay ? step.layer.decay[kv_head] : 1.0f;
  const StateSums state(step, step.trees[scan.tree], kv_head);
  float total = scan.from_nothing ? 0.0f : state.Load(i);
  const int end = scan.first_fold + scan.num_folds;
  const bool is_split = step.splits_s && i < SSize(step);
  for (int fold = scan.first_fold; fold < end; ++fold) {
    float& sum = SumsOf(step, fold, kv_head)[i];
    total = decay * total + sum;
    // The last total is stored, the others are only attended to.
    if (!is_split || fold == end - 1) sum = total;
    if (is_split) {
      step.high_sums[(int64_t{fold} * step.layer.kv_heads + kv_head) * SSize(step) + i] =
          SplitBits(__float_as_uint(total)).high;
    }
  }
}

__global__ void StoreSumsKernel(AttentionStep step) {
  WaitForEarlierKernels();
  const Scan scan = step.scans[blockIdx.z];
  const int kv_head = blockIdx.y;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= SumsSize(step)) return;
  StateSums(step, step.trees[scan.tree], kv_head)
      .Store(i, SumsOf(step, scan.first_fold + scan.num_folds - 1, kv_head)[i]);
}

__host__ __device__ int SinksOf(const AttentionForm& form) {
  return form.group_size > 0 ? form.sinks : 0;
}

// Grid: sinks, then rows from the last one back as far as a ring reaches; stored trees; layers. A
// warp takes a head at a time.
template <typename Stored>
__global__ void StoreRowsKernel(AttentionStep step, const StoredLayer* layers) {
  WaitForEarlierKernels();
  const StoredLayer stored =
      layers == nullptr ? StoredLayer{step.state, step.k, step.v} : layers[blockIdx.z];
  const Tree tree = step.trees[step.stored_trees[blockIdx.y]];
  const AttentionLayer& layer = step.layer;
  const int dim = layer.head_dim, sinks = SinksOf(layer.form);
  const int block = static_cast<int>(blockIdx.x), from_last = block - sinks;
  const int node = block < sinks ? block : tree.num_rows - 1 - from_last;
  if (node < 0 || node >= tree.num_rows) return;
  const int position = tree.length + node;
  const bool is_sink = position < sinks;
  if (is_sink != (block < sinks)) return;
  const int64_t row = BatchRow(step, tree, node) * step.kv_stride;
  const auto store = [&](void* rows, int64_t count, int64_t index, const float* from) {
    for (int head = threadIdx.x / kWarp; head < layer.kv_heads; head += kThreads / kWarp) {
      Stored* to = static_cast<Stored*>(OfTree(rows, tree)) + (head * count + index) * dim;
      for (int i = threadIdx.x % kWarp; i < dim; i += kWarp) {
        to[i] = FromFloat<Stored>(from[row + int64_t{head} * dim + i]);
      }
    }
  };
  if (is_sink) {
    store(stored.state.sink_k, sinks, position, stored.k);
    store(stored.state.sink_v, sinks, position, stored.v);
    return;
  }
  // Of the rows that share a place in a ring only the last one stays.
  if (from_last < layer.k_ring_rows) {
    store(stored.state.ring_k, layer.k_ring_rows, position % layer.k_ring_rows, stored.k);
  }
  if (from_last < layer.v_ring_rows) {
    store(stored.state.ring_v, layer.v_ring_rows, position % layer.v_ring_rows, stored.v);
  }
}

dim3 SumsGrid(const AttentionStep& step) {
  const int64_t size = int64_t{step.feature_dim} * (step.layer.head_dim + 1);
  return dim3(static_cast<unsigned>(CeilDiv(size, kThreads)), step.layer.kv_heads, step.num_scans);
}

}  // namespace

void SumFolds(const AttentionStep& step, Stream& stream) {
  const AttentionLayer& layer = step.layer;
  const size_t dim = layer.head_dim;
  const bool is_fp32 = layer.state_type == StateType::kF32;
  if (!is_fp32 && (dim == 64 || dim == 128) && step.feature_dim % kVector == 0) {
    const dim3 grid(step.num_folds, layer.kv_heads,
                    static_cast<unsigned>(CeilDiv(step.feature_dim, kTileFeatures)));
    Launch(stream, "SumFolds", dim == 64 ? SumFoldsOnTensorCores<64> : SumFoldsOnTensorCores<128>,
           grid, kThreads, sizeof(Bf16) * kTileRows * (2 * (kTileFeatures + kPad) + dim + kPad),
           step);
    return;
  }
  const dim3 grid(step.num_folds, layer.kv_heads,
                  static_cast<unsigned>(CeilDiv(step.feature_dim, kFeatures)));
  Launch(stream, "SumFolds", is_fp32 ? SumFoldsKernel<float> : SumFoldsKernel<Bf16>, grid, kThreads,
         sizeof(float) * kRows * (kFeatures + dim), step);
}

void ScanFolds(const AttentionStep& step, Stream& stream) {
  Launch(stream, "ScanFolds", ScanFoldsKernel, SumsGrid(step), kThreads, 0, step);
}

void StoreSums(const AttentionStep& step, Stream& stream) {
  Launch(stream, "StoreSums", StoreSumsKernel, SumsGrid(step), kThreads, 0, step);
}

void StoreRows(const AttentionStep& step, const StoredLayer* layers, int32_t num_layers,
               Stream& stream) {
  if (step.num_stored_trees == 0) return;
  const AttentionLayer& layer = step.layer;
  const int32_t rows =
      std::min(step.max_stored_rows, std::max(layer.k_ring_rows, layer.v_ring_rows));
  Launch(stream, "StoreRows",
         layer.state_type == StateType::kF32 ? StoreRowsKernel<float> : StoreRowsKernel<Bf16>,
         dim3(SinksOf(layer.form) + rows, step.num_stored_trees, num_layers), kThreads, 0, step,
         layers);
}

}  // namespace treeline::cuda
