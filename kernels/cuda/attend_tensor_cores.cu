// Attention as in attend.cu, on tensor cores: products of bf16 with sums in fp32, for states with
// bf16 rings. Queries and phi of them are rounded to bf16, as are the weights that values are
// summed by, and S where it is read; scores, softmax and denominators are fp32.
//
// A block of threads takes 16 queries a row of four warps, which divide the columns of a product
// among them.
#include "kernels/cuda/attention_block.cuh"
#include "kernels/cuda/tiles.cuh"

namespace treeline::cuda {
namespace {

constexpr int kTileRows = 16;     // Queries of a row of warps.
constexpr int kColumnWarps = 4;   // Warps that share them.
constexpr int kTileColumns = 64;  // Columns, or features, that are in shared memory at a time.
constexpr int kMaxDim = 128;

__host__ __device__ constexpr int Padded(int columns) {
  return (columns + kTileColumns - 1) / kTileColumns * kTileColumns;
}

// Where the parts of a block's dynamic shared memory begin, in bytes.
struct Layout {
  int queries, features, tile, weights, codes, size;

  __host__ __device__ Layout(int num_queries, int dim, int feature_dim, int max_columns) {
    const int columns = Padded(max_columns);
    queries = 0;
    features = queries + num_queries * (dim + kPad) * 2;
    tile = features + num_queries * (feature_dim + kPad) * 2;
    weights = tile + kTileColumns * (dim + kPad) * 2;
    codes = weights + num_queries * (columns + kPad / 2) * 4;
    size = codes + num_queries * columns;
  }
};

// The work of one block of threads; each method is one phase of it, by all of them.
template <int kDim, int kRowWarps>
class Attender {
 public:
  static constexpr int kQueries = kTileRows * kRowWarps;
  static constexpr int kWarps = kColumnWarps * kRowWarps;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kVectors = kDim / kVector;  // Of a row of the tile.

  struct Info {
    Query query;
    float norm;          // Of q, inverted; 1 where nothing is normalised.
    float state_factor;  // Of phi(q) S.
  };

  // info: [kQueries], norms: [kTileColumns], in shared memory.
  __device__ Attender(const AttentionStep& step, int max_columns, Info* info, float* norms)
      : step_(step),
        form_(step.layer.form),
        block_(step, kQueries),
        m_(step.feature_dim),
        warp_(threadIdx.x / kWarp),
        lane_(threadIdx.x % kWarp),
        row_warp_(warp_ / kColumnWarps),
        column_warp_(warp_ % kColumnWarps),
        columns_(Padded(max_columns)),
        info_(info),
        norms_(norms) {
    const Layout layout(kQueries, kDim, m_, max_columns);
    auto* base = reinterpret_cast<unsigned char*>(SharedFloats());
    q_ = reinterpret_cast<Bf16*>(base + layout.queries);
    phi_ = reinterpret_cast<Bf16*>(base + layout.features);
    tile_ = reinterpret_cast<Bf16*>(base + layout.tile);
    weights_ = reinterpret_cast<float*>(base + layout.weights);
    codes_ = base + layout.codes;
  }

  __device__ void LoadQueries() {
    if (threadIdx.x < kQueries) {
      Info& info = info_[threadIdx.x];
      if (threadIdx.x < block_.num_queries) info.query = block_.QueryAt(threadIdx.x);
      info.norm = 1.0f;
      info.state_factor = 0.0f;
    }
    __syncthreads();
    LoadRows(q_, kDim, [&](const Query& query) {
      return step_.q + BatchRowOf(query) * step_.q_stride + int64_t{query.head} * kDim;
    });
    if (m_ > 0) {
      LoadRows(phi_, m_, [&](const Query& query) {
        return step_.query_features +
               (BatchRowOf(query) * step_.layer.heads + query.head) * int64_t{m_};
      });
    }
    __syncthreads();
    if (!NormalisesScores()) return;
    for (int q = warp_; q < kQueries; q += kWarps) {
      const float norm = InverseNorm(SquaredNorm(q_ + q * (kDim + kPad)));
      if (lane_ == 0) info_[q].norm = norm;
    }
    __syncthreads();
  }

  // weights_: for local columns their weight, or softmax's exponent; for linear ones u of
  // docs/attention.md.
  __device__ void ComputeScores() {
    const RowSource keys = KeySource<Bf16>(step_, block_.tree, block_.kv_head);
    for (int first = 0; first < block_.num_columns; first += kTileColumns) {
      const auto [any_local, any_linear] = FindCodes(first);
      if (any_local && form_.local != Local::kNone) {
        LoadColumns(keys, first);
        __syncthreads();
        if (NormalisesScores()) {
          for (int c = warp_; c < kTileColumns; c += kWarps) {
            const float norm = InverseNorm(SquaredNorm(tile_ + c * (kDim + kPad)));
            if (lane_ == 0) norms_[c] = norm;
          }
          __syncthreads();
        }
        float sums[2][4] = {};
        Multiply<false, false>(sums, q_ + Row() * (kDim + kPad), kDim + kPad, tile_, kDim + kPad,
                               16 * column_warp_, kDim);
        ForEach(sums, [&](int q, int c, float score) {
          const float norm = NormalisesScores() ? info_[q].norm * norms_[c] : 1.0f;
          Weight(q, first + c) = LocalScore(form_, kDim, score, norm);
        });
        __syncthreads();
      }
      if (!any_linear) continue;
      float sums[2][4] = {};
      for (int feature = 0; feature < m_; feature += kDim) {
        LoadKeyFeatures(first, feature);
        __syncthreads();
        Multiply<false, false>(sums, phi_ + Row() * (m_ + kPad) + feature, m_ + kPad, tile_,
                               kDim + kPad, 16 * column_warp_, kDim);
        __syncthreads();
      }
      ForEach(sums, [&](int q, int c, float u) {
        if (q >= block_.num_queries || CodeAt(q, first + c) != Code::kLinear) return;
        const int groups = info_[q].query.group - step_.lag - block_.ColumnAt(first + c).group;
        Weight(q, first + c) = u * Fade(step_, block_.kv_head, groups);
      });
      __syncthreads();
    }
  }

  // Both branches and the convolution as one weight a column, which takes the place of weights_
  // as bf16. A warp takes a query.
  __device__ void Normalise() {
    for (int q = warp_; q < kQueries; q += kWarps) {
      if (q >= block_.num_queries) {
        for (int c = lane_; c < columns_; c += kWarp) Rounded(q)[c] = FromFloat<Bf16>(0.0f);
        continue;
      }
      const float largest = form_.local == Local::kSoftmax ? LargestExponent(q) : 0.0f;
      float local_sum = 0, linear_sum = 0;
      for (int c = lane_; c < block_.num_columns; c += kWarp) {
        const Code code = CodeAt(q, c);
        if (code == Code::kLinear) linear_sum += Weight(q, c);
        if (code != Code::kLocal || form_.local == Local::kNone) continue;
        if (form_.local == Local::kSoftmax) Weight(q, c) = __expf(Weight(q, c) - largest);
        local_sum += Weight(q, c);
      }
      local_sum = WarpSum(local_sum);
      linear_sum = WarpSum(linear_sum);
      const Query& query = info_[q].query;
      const float fade =
          Fade(step_, block_.kv_head, query.group - block_.GroupOf(block_.segment.length));
      if (step_.has_normaliser && block_.S() != nullptr) linear_sum += fade * StateSum(q);
      const BranchFactors factors = FactorsOf(step_.layer, query.head, local_sum, linear_sum);
      if (lane_ == 0) info_[q].state_factor = factors.linear * fade;
      constexpr int kBatch = kTileColumns / kWarp;
      for (int first = 0; first < columns_; first += kBatch * kWarp) {
        float weights[kBatch];
#pragma unroll
        for (int j = 0; j < kBatch; ++j) {
          const int c = first + j * kWarp + lane_;
          weights[j] = c < block_.num_columns ? FinalWeight(q, c, factors) : 0.0f;
        }
        // The row's bf16 lie where its first floats did, which were read before.
        __syncwarp();
#pragma unroll
        for (int j = 0; j < kBatch; ++j) {
          Rounded(q)[first + j * kWarp + lane_] = FromFloat<Bf16>(weights[j]);
        }
        __syncwarp();
      }
    }
    __syncthreads();
  }

  __device__ void SumValues() {
    constexpr int kTiles = kDim / kColumnWarps / 8;  // Of 8 dimensions, a warp's.
    const int first_dim = column_warp_ * kTiles * 8, stride = kDim + kPad;
    const RowSource values = ValueSource<Bf16>(step_, block_.tree, block_.kv_head);
    float sums[kTiles][4] = {};
    for (int first = 0; first < block_.num_columns; first += kTileColumns) {
      LoadColumns(values, first);
      __syncthreads();
      Multiply<false, true>(sums, Rounded(Row()) + first, 2 * (columns_ + kPad / 2), tile_, stride,
                            first_dim, kTileColumns);
      __syncthreads();
    }
    const float* s = block_.S();
    float state_sums[kTiles][4] = {};
    for (int first = 0; s != nullptr && first < m_; first += kTileColumns) {
      MoveVectors<kThreads>(
          kTileColumns * kVectors,
          [&](int i, float(&values)[kVector]) {
            LoadVector(s + int64_t{first} * kDim + i * kVector, values);
          },
          [&](int i, const float(&values)[kVector]) { StoreRounded(TileAt(i), values); });
      __syncthreads();
      Multiply<false, true>(state_sums, phi_ + Row() * (m_ + kPad) + first, m_ + kPad, tile_,
                            stride, first_dim, kTileColumns);
      __syncthreads();
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int q = Row() + lane_ / 4 + 8 * half;
      if (q >= block_.num_queries) continue;
      const Info& info = info_[q];
      float* out = step_.out +
                   (BatchRowOf(info.query) * step_.layer.heads + info.query.head) * kDim +
                   first_dim + 2 * (lane_ % 4);
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        *reinterpret_cast<float2*>(out + 8 * t) =
            make_float2(sums[t][2 * half] + info.state_factor * state_sums[t][2 * half],
                        sums[t][2 * half + 1] + info.state_factor * state_sums[t][2 * half + 1]);
      }
    }
  }

 private:
  // The first query of the warp.
  __device__ int Row() const { return row_warp_ * kTileRows; }
  __device__ float& Weight(int q, int c) { return weights_[q * (columns_ + kPad / 2) + c]; }
  __device__ Bf16* Rounded(int q) {
    return reinterpret_cast<Bf16*>(weights_ + q * (columns_ + kPad / 2));
  }
  __device__ Code CodeAt(int q, int c) const { return static_cast<Code>(codes_[q * columns_ + c]); }
  __device__ int64_t BatchRowOf(const Query& query) const {
    return block_.segment.first_row + query.row;
  }
  __device__ bool NormalisesScores() const {
    return form_.local == Local::kRelu2 && form_.qk_norm == QkNorm::kL2;
  }

  // The place in the tile of vector i of its columns' rows.
  __device__ Bf16* TileAt(int i) const {
    return tile_ + i / kVectors * (kDim + kPad) + i % kVectors * kVector;
  }

  // The queries' rows of `width` floats, rounded; zeros past the last one.
  template <typename RowOf>
  __device__ void LoadRows(Bf16* to, int width, const RowOf& row_of) {
    const int vectors = width / kVector;
    MoveVectors<kThreads>(
        kQueries * vectors,
        [&](int i, float(&values)[kVector]) {
          const int q = i / vectors;
          if (q < block_.num_queries) {
            LoadVector(row_of(info_[q].query) + i % vectors * kVector, values);
          } else {
            SetZero(values);
          }
        },
        [&](int i, const float(&values)[kVector]) {
          StoreRounded(to + i / vectors * (width + kPad) + i % vectors * kVector, values);
        });
  }

  // Rows of K or V of columns from `first` on, to the tile; zeros past the last one.
  __device__ void LoadColumns(const RowSource& source, int first) {
    MoveVectors<kThreads>(
        kTileColumns * kVectors,
        [&](int i, float(&values)[kVector]) {
          const int c = first + i / kVectors, at = i % kVectors * kVector;
          if (c >= block_.num_columns) {
            SetZero(values);
            return;
          }
          LoadVector(block_.template RowOf<Bf16>(source, block_.ColumnAt(c)), at, values);
        },
        [&](int i, const float(&values)[kVector]) { StoreRounded(TileAt(i), values); });
  }

  // kDim features, from `feature` on, of the keys of columns from `first` on, where a query may
  // read them.
  __device__ void LoadKeyFeatures(int first, int feature) {
    MoveVectors<kThreads>(
        kTileColumns * kVectors,
        [&](int i, float(&values)[kVector]) {
          const int c = first + i / kVectors;
          if (c < block_.num_columns && IsLinearToAny(c)) {
            LoadVector(block_.KeyFeatures(block_.ColumnAt(c)) + feature + i % kVectors * kVector,
                       values);
          } else {
            SetZero(values);
          }
        },
        [&](int i, const float(&values)[kVector]) { StoreRounded(TileAt(i), values); });
  }
  __device__ bool IsLinearToAny(int c) const {
    for (int q = 0; q < block_.num_queries; ++q) {
      if (CodeAt(q, c) == Code::kLinear) return true;
    }
    return false;
  }

  // Codes of all queries and a tile's columns: what any of them is.
  struct Found {
    bool local, linear;
  };
  __device__ Found FindCodes(int first) {
    static_assert(kThreads % kTileColumns == 0);  // A thread stays with its column.
    const int c = first + threadIdx.x % kTileColumns;
    const Column column = c < block_.num_columns ? block_.ColumnAt(c) : Column();
    bool local = false, linear = false;
    for (int q = threadIdx.x / kTileColumns; q < block_.num_queries; q += kThreads / kTileColumns) {
      const Query& query = info_[q].query;
      const bool visible = c < block_.num_columns && block_.IsVisible(query, column);
      const Code code = visible ? block_.CodeOf(query, column) : Code::kNone;
      codes_[q * columns_ + c] = static_cast<unsigned char>(code);
      local |= code == Code::kLocal;
      linear |= code == Code::kLinear;
    }
    const bool any_local = __syncthreads_or(local), any_linear = __syncthreads_or(linear);
    return {any_local, any_linear};
  }

  // Calls function(query, column of the tile, value) for the warp's part of a product.
  template <typename Function>
  __device__ void ForEach(const float (&sums)[2][4], const Function& function) {
#pragma unroll
    for (int t = 0; t < 2; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        function(Row() + lane_ / 4 + 8 * (i / 2),
                 16 * column_warp_ + 8 * t + 2 * (lane_ % 4) + i % 2, sums[t][i]);
      }
    }
  }

  // Of kDim values, in all lanes.
  __device__ float SquaredNorm(const Bf16* row) const {
    float squares = 0;
    for (int i = lane_; i < kDim; i += kWarp) squares += ToFloat(row[i]) * ToFloat(row[i]);
    return WarpSum(squares);
  }

  __device__ float LargestExponent(int q) {
    float largest = -INFINITY;
    for (int c = lane_; c < block_.num_columns; c += kWarp) {
      if (CodeAt(q, c) == Code::kLocal) largest = fmaxf(largest, Weight(q, c));
    }
    return WarpMax(largest);
  }

  // phi(q) z.
  __device__ float StateSum(int q) const {
    const float* z = block_.Z();
    float sum = 0;
    for (int i = lane_; i < m_; i += kWarp) sum += ToFloat(phi_[q * (m_ + kPad) + i]) * z[i];
    return WarpSum(sum);
  }

  __device__ float FinalWeight(int q, int c, const BranchFactors& factors) {
    const Code code = CodeAt(q, c);
    float weight = 0;
    if (code == Code::kLocal && form_.local != Local::kNone) weight = Weight(q, c) * factors.local;
    if (code == Code::kLinear) weight = Weight(q, c) * factors.linear;
    return weight + block_.Tap(info_[q].query, block_.ColumnAt(c));
  }

  const AttentionStep& step_;
  const AttentionForm& form_;
  const Block block_;
  const int m_, warp_, lane_, row_warp_, column_warp_;
  const int columns_;  // Of weights_ and codes_: whole tiles.
  Info* const info_;
  float* const norms_;
  Bf16* q_;               // [kQueries, kDim + kPad]
  Bf16* phi_;             // [kQueries, m + kPad]
  Bf16* tile_;            // [kTileColumns, .. + kPad]
  float* weights_;        // [kQueries, columns_ + kPad / 2]
  unsigned char* codes_;  // [kQueries, columns_]
};

// Grid: blocks of the plan, KV heads.
template <int kDim, int kRowWarps>
__global__ void __launch_bounds__(kRowWarps* kColumnWarps* kWarp)
    AttendKernel(AttentionStep step, int max_columns) {
  using Work = Attender<kDim, kRowWarps>;
  __shared__ typename Work::Info info[Work::kQueries];
  __shared__ float norms[kTileColumns];
  Work work(step, max_columns, info, norms);
  work.LoadQueries();
  work.ComputeScores();
  work.Normalise();
  work.SumValues();
}

}  // namespace

bool TakesTensorCores(const AttentionLayer& layer, int32_t max_columns, Stream& stream) {
  const bool has_kernel = layer.head_dim == 64 || layer.head_dim == kMaxDim;
  if (layer.state_type != StateType::kBF16 || !layer.form.has_groups() || !has_kernel) return false;
  constexpr size_t kStaticBytes = 4096;
  const Layout layout(kTensorCoreQueries, layer.head_dim, layer.feature_dim(), max_columns);
  return layout.size + kStaticBytes <= stream.max_shared_memory();
}

void AttendWithTensorCores(const AttentionStep& step, int32_t num_blocks, int32_t block_size,
                           int32_t max_columns, Stream& stream) {
  const int row_warps = block_size / kTileRows;
  const Layout layout(block_size, step.layer.head_dim, step.feature_dim, max_columns);
  const auto launch = [&](auto kernel) {
    Launch(stream, "Attend", kernel, dim3(num_blocks, step.layer.kv_heads),
           row_warps * kColumnWarps * kWarp, layout.size, step, max_columns);
  };
  if (step.layer.head_dim == kMaxDim) {
    launch(row_warps == 1 ? AttendKernel<kMaxDim, 1> : AttendKernel<kMaxDim, 2>);
  } else {
    launch(row_warps == 1 ? AttendKernel<64, 1> : AttendKernel<64, 2>);
  }
}

}  // namespace treeline::cuda
