// Attention of segments with more queries than a warp takes, on tensor cores: drafts, prompts, and
// decodes where many heads share a KV head. The numerics are those of attend_few_queries.cu.
//
// A block of threads has up to 64 queries of a segment, 16 a warp, and goes over what they attend
// to in steps of 32 columns or features. Rows come into shared memory, for all four warps, while
// those of steps before are worked on. Where there are too few such blocks for the GPU, several
// share one's steps. Where they can be a cluster, each of them then adds up some dimensions of all
// their results; else the one that is done last adds up everything.
#include <cmath>
#include <cstddef>

#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/copy_async.cuh"
#include "kernels/cuda/query_tile.cuh"

namespace treeline::cuda {
namespace {

constexpr int kWarps = WideBlocks::kQueries / kQueries;
constexpr int kThreads = kWarps * kWarp;
constexpr int kWideStep = WideBlocks::kStep;
constexpr int kStages = 3;  // Steps whose rows are in shared memory, or on their way.
constexpr int kMaxParts = WideBlocks::kMaxParts;
static_assert(kWideStep == kWarp && kWideStep % kStep == 0);

// One warp's part in its block's work.
template <int kDim>
class WideAttender : public QueryTile<kDim> {
 public:
  using Tile = QueryTile<kDim>;
  using Sums = typename Tile::Sums;
  using Tile::kKept;
  using Tile::kMaxNodes;

  static constexpr int kTiles = kDim / 8;  // Of Sums.

  // A block's shared memory. Rows are so far apart that what the lanes of a warp read together lies
  // in different banks: of K 64 bytes of two rows, of V 16 bytes of eight.
  static constexpr int kKeyStride = kDim + 32, kValueStride = kDim + 8;
  struct Shared {
    float4 kept[kWarps][kKept];
    union {
      Bf16 keys[kStages][kWideStep][kKeyStride];
      float4 kept_linear[kWarps][kKept];  // When all local steps are done,
    };
    union {
      Bf16 values[kStages][kWideStep][kValueStride];
      float4 kept_conv[kWarps][kKept];  // and when all are.
    };
    Totals totals[kWarps][kQueries];  // For the cluster.
    int32_t depths[kWarps][kMaxNodes];
    bool is_last;
  };

  __device__ WideAttender(const AttentionStep& step, const QueryBlock& task, Shared& shared)
      : Tile(step, task, threadIdx.x / kWarp * kQueries, shared.kept[threadIdx.x / kWarp],
             shared.depths[threadIdx.x / kWarp]),
        task_(task),
        shared_(shared),
        warp_(threadIdx.x / kWarp),
        keys_(RowsOf(KeySource<Bf16>(step, block_.tree, block_.kv_head), this->FirstKeyColumn(),
                     block_.segment.k_ring_row, block_.kv_head)),
        values_(RowsOf(ValueSource<Bf16>(step, block_.tree, block_.kv_head),
                       block_.segment.num_sinks, block_.segment.v_ring_row,
                       step.layer.kv_heads + block_.kv_head)),
        high_s_(reinterpret_cast<const Bf16*>(block_.HighS())) {}

  // What the block's first steps read of the state, while kernels before this one still run.
  __device__ void PrefetchState() const {
    constexpr int kLine = 128 / sizeof(Bf16), kLines = kDim / kLine, kMostSteps = 8;
    const QueryBlock::Steps& steps = task_.steps;
    const int end =
        min(min(task_.end_step, task_.begin_step + kMostSteps), steps.local + steps.features);
    const int first = task_.begin_step * kWideStep * kLines;
    for (int i = first + threadIdx.x; i < end * kWideStep * kLines; i += kThreads) {
      const int row = i / kLines, at = i % kLines * kLine;
      const int feature = row - steps.local * kWideStep;
      if (feature >= 0) {
        if (feature < step_.feature_dim) Prefetch(high_s_ + int64_t{feature} * kDim + at);
      } else if (row < block_.num_columns && values_.InState(row)) {
        Prefetch(keys_.StateRow(this->KeyColumn(row)) + at);
        Prefetch(values_.StateRow(row) + at);
      }
    }
  }

  __device__ void Run(Sums& sums) {
#pragma unroll 1
    for (int i = 0; i < kStages - 1; ++i) Load(task_.begin_step + i);
    if (task_.begin_step < task_.steps.local) this->LoadQueries();
#pragma unroll 1
    for (int k = 0; k < kNumKinds; ++k) {
      const Kind kind = static_cast<Kind>(k);
      const StepRange range = StepsOf(task_.steps, kind);
      const int begin = max(range.begin, task_.begin_step), end = min(range.end, task_.end_step);
#pragma unroll 1
      for (int i = begin; i < end; ++i) {
        WaitForCopies<kStages - 2>();
        // The rows are there for all warps, and none is at the step before any more.
        __syncthreads();
        Load(i + kStages - 1);
        AddStep(kind, i - range.begin, (i - task_.begin_step) % kStages, sums);
      }
      Finish(kind, begin < end, sums);
    }
  }

  // Where the parts of a tile are a cluster: each block makes some dimensions of the output of what
  // all of them have.
  __device__ void AddUpCluster() const {
    StoreTotals(shared_.totals[warp_]);
    WaitForCluster();
    AddUp(
        kTiles * task_.part / task_.num_parts, kTiles * (task_.part + 1) / task_.num_parts,
        [&](int part) { return OfPart(shared_.totals[warp_], part); },
        [&](int part, Kind kind) { return OfPart(PlaceOf(kind), part); });
    LeaveCluster();  // Others may still read this block's memory.
  }

  // Where they are none: the block that is done last makes the output.
  __device__ void AddUpParts() const {
    StoreTotals(PartialTotals(task_.part));
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
      int32_t* done = step_.parts_done + task_.tile * step_.layer.kv_heads + block_.kv_head;
      shared_.is_last = atomicAdd(done, 1) == task_.num_parts - 1;
      if (shared_.is_last) *done = 0;
    }
    __syncthreads();
    if (!shared_.is_last) return;
    __threadfence();
    AddUp(
        0, kTiles, [&](int part) { return PartialTotals(part); },
        [&](int part, Kind kind) { return PartialSums(part, kind); });
  }

 private:
  using Tile::block_;
  using Tile::form_;
  using Tile::group_;
  using Tile::in_group_;
  using Tile::lane_;
  using Tile::queries_;
  using Tile::step_;

  // head: among those of K and V.
  __device__ ColumnRows<Bf16> RowsOf(const RowSource& source, int first, int first_row,
                                     int head) const {
    return {block_,
            source,
            first,
            first_row,
            KvRow(step_, 0) + head * kDim,
            2 * step_.layer.kv_heads * kDim,
            kDim};
  }
  __device__ static const Bf16* RowOf(const ColumnRows<Bf16>& rows, int column) {
    return rows.InState(column) ? rows.StateRow(column) : rows.BatchRow(column);
  }

  // What a step is about: `first` to `end` are columns, or features.
  struct Step {
    Kind kind;
    bool of_features;
    int first, end;
  };
  __device__ Step StepAt(Kind kind, int index) const {
    const QueryBlock::Steps& steps = task_.steps;
    if (kind == kConvSums) {
      return {kind, false, task_.first_conv + index * kWideStep, block_.num_columns};
    }
    if (kind == kLocalSums) return {kind, false, index * kWideStep, block_.num_columns};
    if (index < steps.features) return {kind, true, index * kWideStep, step_.feature_dim};
    return {kind, false, block_.segment.linear_begin + (index - steps.features) * kWideStep,
            task_.linear_end};
  }

  // Starts the way of a step's rows into shared memory, by all threads of the block. A group of
  // copies in any case, so that they can be counted.
  __device__ void Load(int i) {
    if (i < task_.end_step) {
      Kind kind = kLocalSums;
      while (i >= StepsOf(task_.steps, kind).end) kind = static_cast<Kind>(kind + 1);
      const Step step = StepAt(kind, i - StepsOf(task_.steps, kind).begin);
      // Each lane finds out where a row comes from. Past the last one this again: whatever finite
      // numbers. Features of kStep rows are in the order in which a lane weighs them: lane l those
      // of 4 l and the next, which are products' columns 2 l and the next, then the two behind
      // these.
      const int in_step = lane_ % kStep;
      const int feature = lane_ - in_step + in_step % 8 / 2 * 4 + in_step / 8 * 2 + in_step % 2;
      const int c = min(step.first + (step.of_features ? feature : lane_), step.end - 1);
      const Bf16* value = step.of_features ? high_s_ + int64_t{c} * kDim : RowOf(values_, c);
      const Bf16* key = kind == kLocalSums ? RowOf(keys_, this->KeyColumn(c)) : nullptr;

      const int stage = (i - task_.begin_step) % kStages;
      constexpr int kVectors = kDim / kVector;  // Of a row.
      const int at = threadIdx.x % kVectors * kVector;
#pragma unroll
      for (int j = 0; j < kWideStep * kVectors / kThreads; ++j) {
        const int row = threadIdx.x / kVectors + j * (kThreads / kVectors);
        CopyAsync(&shared_.values[stage][row][at], OfLane(value, row) + at);
        if (kind == kLocalSums) CopyAsync(&shared_.keys[stage][row][at], OfLane(key, row) + at);
      }
    }
    CommitCopies();
  }
  __device__ static const Bf16* OfLane(const Bf16* data, int lane) {
    const auto address = reinterpret_cast<unsigned long long>(data);
    return reinterpret_cast<const Bf16*>(__shfl_sync(kAllLanes, address, lane));
  }

  // Step `index` of a kind, whose rows are in this stage.
  __device__ void AddStep(Kind kind, int index, int stage, Sums& sums) {
    if (this->num_queries_ <= 0) return;
    const Step step = StepAt(kind, index);
    if (kind == kLocalSums) {
      AddLocalStep(step, stage, sums);
      return;
    }
#pragma unroll 1
    for (int row = 0; row < kWideStep; row += kStep) {
      const int first = step.first + row;
      if (first >= step.end) break;
      Weights weights = {};
      if (step.of_features) {
        this->WeighFeatures(first, weights);
      } else if (kind == kConvSums) {
        this->WeighTaps(first, weights);
      } else {
        const uint32_t seen = this->FindCodes(first, step.end, Code::kLinear);
        if (!__any_sync(kAllLanes, seen != 0)) continue;
        this->WeighLinear(first, step.end, seen, weights);
      }
      AddRows(weights, shared_.values[stage][row], sums);
    }
  }

  // Of all its columns at once: what one's scores wait for is there for the other's.
  __device__ void AddLocalStep(const Step& step, int stage, Sums& sums) {
    constexpr int kTurns = kWideStep / kStep;
    uint32_t seen = 0;  // As WeighLocal asks.
#pragma unroll 1
    for (int u = 0; u < kTurns; ++u) {
      const int first = step.first + u * kStep;
      const uint32_t codes = this->IsLocalToAll(first)
                                 ? (1u << kSeenBits) - 1
                                 : this->FindCodes(first, step.end, Code::kLocal);
      seen |= codes << (kSeenBits * u);
    }
    if (!__any_sync(kAllLanes, seen != 0)) return;
    Weights weights[kTurns];
#pragma unroll
    for (int u = 0; u < kTurns; ++u) {
      Packed keys[2][kDim / 32];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const Bf16* key = shared_.keys[stage][u * kStep + 8 * j + group_];
#pragma unroll
        for (int b = 0; b < kDim / 32; ++b) keys[j][b] = Packed::Of(key, 32 * b + 8 * in_group_);
      }
      this->Score(keys, weights[u]);
    }
    this->WeighLocal(seen, weights, sums);
#pragma unroll
    for (int u = 0; u < kTurns; ++u) AddRows(weights[u], shared_.values[stage][u * kStep], sums);
  }

  // sums += weights x kStep rows of values.
  __device__ void AddRows(const Weights& w, const Bf16* values, Sums& sums) const {
    const uint32_t a[4] = {Pack(w[0][0], w[0][1]), Pack(w[1][0], w[1][1]), Pack(w[0][2], w[0][3]),
                           Pack(w[1][2], w[1][3])};
    // The row that the lane names, of 8 by 8 values.
    const int row = lane_ % 16;
    const Bf16* from = values + row * kValueStride + lane_ / 16 * 8;
#pragma unroll
    for (int t = 0; t < kDim / 8; t += 2) {
      uint32_t b[4];
      LoadMatricesTransposed(b, from + 8 * t);
      MultiplyAdd(sums[t], a, b[0], b[1]);
      MultiplyAdd(sums[t + 1], a, b[2], b[3]);
    }
  }

  // What a kind's steps have summed finds its place; sums are 0 again, or what the next kind's add
  // to.
  __device__ void Finish(Kind kind, bool has_steps, Sums& sums) {
    if (kind == kLinearSums) this->AddUpLanes();
    if (task_.num_parts > 1 && step_.parts_in_clusters) {
      if (!has_steps) return;
      if (kind == kConvSums) __syncthreads();  // No warp reads values any more.
      this->Keep(sums, PlaceOf(kind));
      kinds_ |= 1 << kind;
    } else if (task_.num_parts > 1) {
      if (has_steps) {
        this->Keep(sums, PartialSums(task_.part, kind));
        kinds_ |= 1 << kind;
      }
    } else if (kind == kLocalSums) {
      this->Keep(sums, this->place_);
    } else if (kind == kLinearSums) {
      this->CombineWithKept(sums);
      return;
    } else {
      Store(sums);
    }
    this->Clear(sums);
  }

  // -- Results.

  __device__ void Store(const Sums& sums) const {
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
#pragma unroll
      for (int t = 0; t < kDim / 8; ++t) StoreTile(h, t, sums[t][2 * h], sums[t][2 * h + 1]);
    }
  }
  // Two of a query's dimensions.
  __device__ void StoreTile(int h, int t, float first, float second) const {
    if (group_ + 8 * h >= this->num_queries_) return;
    auto* row = reinterpret_cast<float2*>(this->OutputOf(queries_[h])) + in_group_;
    row[4 * t] = make_float2(first, second);
  }

  // -- Results of parts.

  // Of this warp's queries.
  __device__ float* Partial(int part) const {
    const int64_t block = int64_t{task_.first_partial + part} * step_.layer.kv_heads;
    return step_.partials + ((block + block_.kv_head) * kWarps + warp_) * PartialFloats(kDim);
  }
  __device__ float4* PartialSums(int part, int kind) const {
    return reinterpret_cast<float4*>(Partial(part)) + kKept * kind;
  }
  __device__ Totals* PartialTotals(int part) const {
    return reinterpret_cast<Totals*>(Partial(part) + kNumKinds * kQueries * kDim);
  }
  __device__ void StoreTotals(Totals* totals) const {
    if (in_group_ != 0) return;
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      totals[group_ + 8 * h] = {this->largest_[h], this->local_sum_[h], this->linear_sum_[h],
                                kinds_};
    }
  }
  // Where a cluster's block keeps its sums of a kind.
  __device__ float4* PlaceOf(Kind kind) const {
    if (kind == kLocalSums) return this->place_;
    return kind == kLinearSums ? shared_.kept_linear[warp_] : shared_.kept_conv[warp_];
  }
  template <typename T>
  __device__ static const T* OfPart(const T* mine, int part) {
    return reinterpret_cast<const T*>(OfBlock(reinterpret_cast<const float*>(mine), part));
  }

  // Of the four lanes that share two queries, each knows what these parts' sums are multiplied by:
  // those from kOwnParts (l % 4) on.
  static constexpr int kOwnParts = kMaxParts / 4;
  struct PartWeights {
    float local[kOwnParts][kHalves];
    float linear[kHalves];  // The same in all parts.
    int kinds[kOwnParts];   // As in Totals.
  };
  template <typename TotalsOf>
  __device__ PartWeights WeighParts(const TotalsOf& totals_of) const {
    const bool is_softmax = form_.local == Local::kSoftmax;
    Totals parts[kOwnParts][kHalves];
#pragma unroll
    for (int i = 0; i < kOwnParts; ++i) {
      const int part = kOwnParts * in_group_ + i;
      const Totals* totals = totals_of(min(part, task_.num_parts - 1));
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        parts[i][h] = totals[group_ + 8 * h];
        if (part >= task_.num_parts) parts[i][h] = {-INFINITY, 0.0f, 0.0f, 0};
      }
    }
    PartWeights weights;
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      float largest = -INFINITY;
#pragma unroll
      for (int i = 0; i < kOwnParts; ++i) largest = fmaxf(largest, parts[i][h].largest);
      largest = QuadMax(largest);
      if (largest == -INFINITY) largest = 0.0f;  // Nothing local: any finite number will do.
      float local_sum = 0, linear_sum = 0;
#pragma unroll
      for (int i = 0; i < kOwnParts; ++i) {
        weights.local[i][h] = is_softmax ? __expf(parts[i][h].largest - largest) : 1.0f;
        local_sum += weights.local[i][h] * parts[i][h].local_sum;
        linear_sum += parts[i][h].linear_sum;
      }
      const BranchFactors factors =
          FactorsOf(step_.layer, queries_[h].head, QuadSum(local_sum), QuadSum(linear_sum));
#pragma unroll
      for (int i = 0; i < kOwnParts; ++i) weights.local[i][h] *= factors.local;
      weights.linear[h] = factors.linear;
    }
#pragma unroll
    for (int i = 0; i < kOwnParts; ++i) weights.kinds[i] = parts[i][0].kinds;
    return weights;
  }

  // Tiles [begin, end) of the output, by each warp of its own queries; where parts have their
  // totals, and their sums of a kind.
  template <typename TotalsOf, typename SumsOf>
  __device__ void AddUp(int begin, int end, const TotalsOf& totals_of,
                        const SumsOf& sums_of) const {
    if (this->num_queries_ <= 0) return;
    const PartWeights weights = WeighParts(totals_of);
    constexpr int kAtOnce = 4;
#pragma unroll 1
    for (int t = begin; t < end; ++t) {
      float4 total = {0, 0, 0, 0};
#pragma unroll 1
      for (int first = 0; first < task_.num_parts; first += kAtOnce) {
        // All on their way before the first is added.
        float4 sums[kAtOnce][kNumKinds];
        float local[kAtOnce][kHalves];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          const int lane = lane_ - in_group_ + (first + i) / kOwnParts;
          const int kinds = __shfl_sync(kAllLanes, weights.kinds[i % kOwnParts], lane);
#pragma unroll
          for (int h = 0; h < kHalves; ++h) {
            local[i][h] = __shfl_sync(kAllLanes, weights.local[i % kOwnParts][h], lane);
          }
#pragma unroll
          for (int kind = 0; kind < kNumKinds; ++kind) {
            sums[i][kind] = kinds >> kind & 1
                                ? sums_of(first + i, static_cast<Kind>(kind))[t * kWarp + lane_]
                                : float4{0, 0, 0, 0};
          }
        }
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
#pragma unroll
          for (int kind = 0; kind < kNumKinds; ++kind) {
            const auto weight = [&](int h) {
              return kind == kLocalSums    ? local[i][h]
                     : kind == kLinearSums ? weights.linear[h]
                                           : 1.0f;
            };
            total.x += weight(0) * sums[i][kind].x;
            total.y += weight(0) * sums[i][kind].y;
            total.z += weight(1) * sums[i][kind].z;
            total.w += weight(1) * sums[i][kind].w;
          }
        }
      }
      StoreTile(0, t, total.x, total.y);
      StoreTile(1, t, total.z, total.w);
    }
  }

  const QueryBlock task_;
  Shared& shared_;
  const int warp_;
  const ColumnRows<Bf16> keys_, values_;
  const Bf16* const high_s_;  // Where anything was folded.
  int kinds_ = 0;             // Of parts: as in Totals.
};

// Grid: wide blocks of the plan, KV heads.
template <int kDim>
__global__ void __launch_bounds__(kThreads, 2) AttendManyKernel(AttentionStep step) {
  LetNextKernelComeUp();
  using Work = WideAttender<kDim>;
  auto& shared = *reinterpret_cast<typename Work::Shared*>(SharedFloats());
  const QueryBlock task = step.wide_blocks[blockIdx.x];
  Work work(step, task, shared);
  work.PrefetchState();
  WaitForEarlierKernels();
  typename Work::Sums sums = {};
  work.Run(sums);
  if (task.num_parts == 1) return;
  if (step.parts_in_clusters) {
    work.AddUpCluster();
  } else {
    work.AddUpParts();
  }
}

// Calls use(kernel, bytes of shared memory) for a head's size.
template <typename Use>
auto WithManyKernel(int head_dim, const Use& use) {
  return head_dim == 64 ? use(AttendManyKernel<64>, sizeof(WideAttender<64>::Shared))
                        : use(AttendManyKernel<128>, sizeof(WideAttender<128>::Shared));
}

}  // namespace

WideBlocks::TilesAtOnce WideTilesAtOnce(const AttentionLayer& layer, Stream& stream) {
  WideBlocks::TilesAtOnce at_once = {};
  for (int parts = 1; parts <= kMaxParts; ++parts) {
    at_once[parts] = WithManyKernel(layer.head_dim, [&](auto kernel, size_t shared) {
      return ClustersAtOnce(stream, "Attend", kernel, parts, kThreads, shared);
    });
  }
  return at_once;
}

void AttendManyQueries(const AttentionStep& step, Stream& stream) {
  if (step.num_wide_blocks == 0) return;
  WithManyKernel(step.layer.head_dim, [&](auto kernel, size_t shared) {
    LaunchClusters(stream, "Attend", kernel, dim3(step.num_wide_blocks, step.layer.kv_heads),
                   step.parts_in_clusters ? step.wide_parts : 1, kThreads, shared, step);
  });
}

}  // namespace treeline::cuda
