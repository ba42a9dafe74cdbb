// Attention as in attend.cu, on tensor cores: products of bf16 with sums in fp32, for states with
// bf16 rings. Queries and phi of them are rounded to bf16, as are the weights that values are
// summed by, and S where it is read; scores, softmax and denominators are fp32.
//
// A warp takes 16 queries and goes over what they attend to in steps of 16 columns or features.
// Operands come from global memory straight to registers, 16 bytes a lane: a product does not mind
// in which order it sums, so its two sides agree on the order that such loads give. Nothing waits
// for another warp. Where there are too few tiles of queries for the GPU, several warps share one's
// steps: a block of threads adds up its warps' results in shared memory, and of several blocks the
// one that is done last adds up theirs.
#include <cmath>
#include <cstddef>

#include "kernels/cuda/query_tile.cuh"

namespace treeline::cuda {
namespace {

constexpr int kMaxWarps = WarpBlocks::kMaxWarps;
static_assert(kQueries == WarpBlocks::kQueries && kStep == WarpBlocks::kStep);

// A row of K or V: bf16 where the state has it, else fp32.
struct Row {
  const void* data;
  bool in_state;
};

__device__ Row RowOf(const ColumnRows<float>& rows, int column) {
  if (rows.InState(column)) return {rows.StateRow(column), true};
  return {rows.BatchRow(column), false};
}
// Eight values of it, without a branch, so that loads of several rows overlap: of bf16 the same
// bytes twice.
__device__ Packed PackedOf(const Row& row, int at) {
  const auto* v = static_cast<const float4*>(row.data) + at / (row.in_state ? 8 : 4);
  const float4 a = v[0], b = v[row.in_state ? 0 : 1];
  return {{row.in_state ? __float_as_uint(a.x) : Pack(a.x, a.y),
           row.in_state ? __float_as_uint(a.y) : Pack(a.z, a.w),
           row.in_state ? __float_as_uint(a.z) : Pack(b.x, b.y),
           row.in_state ? __float_as_uint(a.w) : Pack(b.z, b.w)}};
}
__device__ Packed PackedOf(const Bf16* row, int at) { return Packed::Of(row, at); }

// What a part's sums of a query are multiplied by, in the Totals' place.
struct alignas(16) PartWeights {
  float local, linear;
  float conv;
  int kinds;  // As in Totals.

  __device__ float Of(int kind) const {
    return kind == kLocalSums ? local : kind == kLinearSums ? linear : conv;
  }
};
// One warp's work.
template <int kDim>
class Attender : public QueryTile<kDim> {
 public:
  using Tile = QueryTile<kDim>;
  using Sums = typename Tile::Sums;
  using Tile::kKept;
  using Tile::kMaxNodes;
  // Lane l has of Sums' tile 8 b + t the dimensions 64 b + 16 (l % 4) + t and the one 8 behind.
  static constexpr int kBlockDims = 64, kBlocks = kDim / kBlockDims;

  // A warp's own place, and one behind them for each kind but the first: a warp whose part has
  // several kinds keeps those after its first there, and no two warps of a tile share the end of a
  // kind.
  __host__ __device__ static constexpr int Places(int warps) { return warps + kNumKinds - 1; }

  // A block's shared memory.
  struct Shared {
    float4* kept;     // [Places(warps), kKept]
    Totals* totals;   // [kMaxWarps, kQueries]
    int32_t* depths;  // [warps, kMaxNodes]
  };

  __device__ Attender(const AttentionStep& step, const QueryBlock& task, const Shared& shared)
      : Tile(step, task, 0, shared.kept + threadIdx.x / kWarp * kKept,
             shared.depths + threadIdx.x / kWarp * kMaxNodes),
        task_(task),
        shared_(shared),
        warps_(blockDim.x / kWarp),
        warp_(threadIdx.x / kWarp),
        keys_(RowsOf(KeySource<Bf16>(step, block_.tree, block_.kv_head), this->FirstKeyColumn(),
                     block_.segment.k_ring_row)),
        values_(RowsOf(ValueSource<Bf16>(step, block_.tree, block_.kv_head),
                       block_.segment.num_sinks, block_.segment.v_ring_row)),
        high_s_(reinterpret_cast<const Bf16*>(block_.HighS())) {}

  // What the first steps read of the state, while kernels before this one still run.
  __device__ void PrefetchState() const {
    constexpr int kLine = 128 / sizeof(Bf16), kMostSteps = 8;
    const QueryBlock::Steps& steps = task_.steps;
    const int end =
        min(min(task_.end_step, task_.begin_step + kMostSteps), steps.local + steps.features);
    for (int i = task_.begin_step; i < end; ++i) {
      if (i >= steps.local) {
        const Bf16* s = high_s_ + int64_t{i - steps.local} * kStep * kDim;
        for (int at = kLine * lane_; at < kStep * kDim; at += kLine * kWarp) Prefetch(s + at);
        continue;
      }
      // Two lanes a row, which has two lines at most.
      const int c = i * kStep + lane_ / 2, at = kLine * (lane_ % 2);
      if (at >= kDim || !values_.InState(c, c + 1)) continue;
      Prefetch(keys_.StateRow(this->KeyColumn(c)) + at);
      Prefetch(values_.StateRow(c) + at);
    }
  }

  // One loop for all kinds of steps: most of a decode's warps go through it two or three times, so
  // that what it costs is fetching its instructions.
  __device__ void Run() {
    if (task_.begin_step < task_.steps.local) this->LoadQueries();
    Sums sums = {};
#pragma unroll 1
    for (int k = 0; k < kNumKinds; ++k) {
      const Kind kind = static_cast<Kind>(k);
      const StepRange range = StepsOf(task_.steps, kind);
      const int begin = max(range.begin, task_.begin_step), end = min(range.end, task_.end_step);
#pragma unroll 1
      for (int i = begin; i < end; ++i) AddStep(kind, i - range.begin, sums);
      Finish(kind, begin < end, sums);
    }
  }

  // Where the tile has parts. What this block's warps have summed becomes the output, or a partial
  // result where other blocks have parts too; these become the output in the block that is done
  // last, where this is true. By all warps of the block; is_last: in shared memory.
  __device__ bool AddUpParts(bool* is_last) {
    StoreTotals();
    const int blocks = task_.num_parts / warps_;
    // One loop for both, which are the same instructions.
#pragma unroll 1
    for (bool of_warps = true;; of_warps = false) {
      __syncthreads();
      const bool is_partial = of_warps && blocks > 1;
      WeighParts(of_warps, of_warps ? warps_ : blocks, is_partial);
      __syncthreads();
      AddUp(of_warps, of_warps ? warps_ : blocks, is_partial);
      if (!is_partial) return true;
      __threadfence();
      __syncthreads();
      if (threadIdx.x == 0) {
        int32_t* done = step_.parts_done + task_.tile * step_.layer.kv_heads + block_.kv_head;
        *is_last = atomicAdd(done, 1) == blocks - 1;
        if (*is_last) *done = 0;
      }
      __syncthreads();
      if (!*is_last) return false;
      __threadfence();
    }
  }

  __device__ bool IsStored() const { return block_.segment.is_stored; }
  // The only row of the segment goes into the state, which nothing reads any more.
  __device__ void StoreRow() const {
    const int64_t row = block_.segment.first_row * int64_t{step_.kv_stride};
    StoreRow(KeySource<Bf16>(step_, block_.tree, block_.kv_head), row);
    StoreRow(ValueSource<Bf16>(step_, block_.tree, block_.kv_head), row);
  }

 private:
  using Tile::block_;
  using Tile::form_;
  using Tile::group_;
  using Tile::in_group_;
  using Tile::lane_;
  using Tile::queries_;
  using Tile::step_;

  __device__ ColumnRows<float> RowsOf(const RowSource& source, int first, int first_row) const {
    return {block_, source, first, first_row, source.batch, step_.kv_stride, kDim};
  }

  __device__ void StoreRow(const RowSource& source, int64_t row) const {
    const RowPointer to = StoredRow<Bf16>(step_, source, block_.segment.length);
    auto* values = static_cast<Bf16*>(const_cast<void*>(to.stored));
    for (int i = lane_; i < kDim; i += kWarp) values[i] = FromFloat<Bf16>(source.batch[row + i]);
  }

  // -- A step.

  // Step `index` of a kind.
  __device__ void AddStep(Kind kind, int index, Sums& sums) {
    const bool of_features = kind == kLinearSums && index < task_.steps.features;
    int first = index * kStep, num_columns = block_.num_columns;
    if (kind == kLinearSums && !of_features) {
      first = block_.segment.linear_begin + (index - task_.steps.features) * kStep;
      num_columns = task_.linear_end;
    }
    if (kind == kConvSums) first += task_.first_conv;
    uint32_t seen = 0xff;  // Bit kColumns h + i: query h has a weight for column i.
    if (!of_features && kind != kConvSums && !(kind == kLocalSums && this->IsLocalToAll(first))) {
      seen = this->FindCodes(first, num_columns, kind == kLocalSums ? Code::kLocal : Code::kLinear);
      if (!__any_sync(kAllLanes, seen != 0)) return;
    }
    const bool in_state = of_features || values_.InState(first, min(first + kStep, num_columns));
    // A lane's features are neighbours, its columns are not.
    const Bf16* high_s = high_s_ + (int64_t{first} + 4 * in_group_) * kDim;
    // Of the lane's columns: dimensions 8 (l / 4) .. of each kBlockDims.
    Packed values[kColumns][kBlocks];
    const auto load = [&](const auto& row_of) {
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        const auto row = row_of(i, min(this->ColumnIndex(first, i), num_columns - 1));
#pragma unroll
        for (int b = 0; b < kBlocks; ++b) {
          values[i][b] = PackedOf(row, kBlockDims * b + 8 * group_);
        }
      }
    };
    if (in_state) {
      load([&](int i, int column) {
        return of_features ? high_s + i * kDim : values_.StateRow(column);
      });
    } else {
      load([&](int, int column) { return RowOf(values_, column); });
    }
    Weights weights[1] = {};
    if (kind == kLocalSums) {
      Packed keys[2][kDim / 32];
      LoadKeys(first, in_state, keys);
      this->Score(keys, weights[0]);
      this->WeighLocal(seen, weights, sums);
    } else if (of_features) {
      this->WeighFeatures(first, weights[0]);
    } else if (kind == kLinearSums) {
      this->WeighLinear(first, task_.linear_end, seen, weights[0]);
    } else {
      this->WeighTaps(first, weights[0]);
    }
    AddRows(weights[0], values, sums);
  }

  // What a kind's steps have summed finds its place; sums are 0 again, or what the next kind's add
  // to.
  __device__ void Finish(Kind kind, bool has_steps, Sums& sums) {
    if (kind == kLinearSums) this->AddUpLanes();
    if (task_.num_parts > 1) {
      if (has_steps) {
        this->Keep(sums, PlaceOf(warp_, kind, kinds_));
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

  // Lane l's are of columns l / 4 and l / 4 + 8 of the step. in_state: V has all its rows there.
  // Where K has no longer a row of the first of them, and not yet of FirstKeyColumn, any row of the
  // ring will do: these columns have no weight.
  __device__ void LoadKeys(int first, bool in_state, Packed (&keys)[2][kDim / 32]) const {
    const auto load = [&](const auto& row_of) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const auto row =
            row_of(this->KeyColumn(min(first + 8 * j + group_, block_.num_columns - 1)));
#pragma unroll
        for (int b = 0; b < kDim / 32; ++b) keys[j][b] = PackedOf(row, 32 * b + 8 * in_group_);
      }
    };
    if (in_state) {
      load([&](int column) { return keys_.StateRow(column); });
    } else {
      load([&](int column) { return RowOf(keys_, column); });
    }
  }

  // sums += weights x values.
  __device__ void AddRows(const Weights& w, const Packed (&values)[kColumns][kBlocks],
                          Sums& sums) const {
    const uint32_t a[4] = {Pack(w[0][0], w[0][1]), Pack(w[1][0], w[1][1]), Pack(w[0][2], w[0][3]),
                           Pack(w[1][2], w[1][3])};
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
      for (int t = 0; t < 8; ++t) {
        const auto pair = [&](int i) {
          return __byte_perm(values[i][b].words[t / 2], values[i + 1][b].words[t / 2],
                             t % 2 == 0 ? 0x5410 : 0x7632);
        };
        MultiplyAdd(sums[8 * b + t], a, pair(0), pair(2));
      }
    }
  }

  // -- The result of a whole tile.

  __device__ void Store(const Sums& sums) const {
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      if (group_ + 8 * h >= this->num_queries_) continue;
      float* row = this->OutputOf(queries_[h]);
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int j = 2 * h + e;
          auto* to = reinterpret_cast<float4*>(row + kBlockDims * b + 8 * (2 * in_group_ + e));
          const auto* tiles = &sums[8 * b];
          to[0] = make_float4(tiles[0][j], tiles[1][j], tiles[2][j], tiles[3][j]);
          to[1] = make_float4(tiles[4][j], tiles[5][j], tiles[6][j], tiles[7][j]);
        }
      }
    }
  }
  // -- Results of parts.

  // Where a warp keeps its sums of a kind; kinds: which it has, or has had so far.
  __device__ float4* PlaceOf(int warp, int kind, int kinds) const {
    const bool is_first = (kinds & ((1 << kind) - 1)) == 0;
    return shared_.kept + kKept * (is_first ? warp : warps_ + kind - 1);
  }
  // Of a block of threads that has parts of the tile.
  __device__ float* Partial(int block) const {
    return step_.partials +
           (int64_t{task_.first_partial + block} * step_.layer.kv_heads + block_.kv_head) *
               PartialFloats(kDim);
  }
  __device__ float4* PartialSums(int block, int kind) const {
    return reinterpret_cast<float4*>(Partial(block)) + kKept * kind;
  }
  __device__ Totals* PartialTotals(int block) const {
    return reinterpret_cast<Totals*>(Partial(block) + kNumKinds * kQueries * kDim);
  }
  __device__ void StoreTotals() const {
    if (in_group_ != 0) return;
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      shared_.totals[warp_ * kQueries + group_ + 8 * h] = {this->largest_[h], this->local_sum_[h],
                                                           this->linear_sum_[h], kinds_};
    }
  }

  // Totals of `count` parts, of warps or of blocks, become PartWeights in shared memory. A thread
  // has part p of query q.
  __device__ void WeighParts(bool of_warps, int count, bool is_partial) {
    static_assert(kMaxWarps == WarpBlocks::kMaxBlocks && kMaxWarps == 8);
    static_assert(WarpBlocks::kMinWarps * kWarp >= kQueries * kMaxWarps);
    static_assert(sizeof(PartWeights) == sizeof(Totals));
    const int q = threadIdx.x / kMaxWarps, p = threadIdx.x % kMaxWarps;
    if (q >= kQueries) return;
    Totals part = {-INFINITY, 0.0f, 0.0f, 0};
    if (p < count) part = of_warps ? shared_.totals[p * kQueries + q] : PartialTotals(p)[q];
    Totals all = part;
    for (int offset = 1; offset < kMaxWarps; offset *= 2) {
      all.largest = fmaxf(all.largest, __shfl_xor_sync(kAllLanes, all.largest, offset));
      all.kinds |= __shfl_xor_sync(kAllLanes, all.kinds, offset);
    }
    const bool is_softmax = form_.local == Local::kSoftmax && all.largest != -INFINITY;
    const float scale = is_softmax ? __expf(part.largest - all.largest) : 1.0f;
    all.local_sum *= scale;
    for (int offset = 1; offset < kMaxWarps; offset *= 2) {
      all.local_sum += __shfl_xor_sync(kAllLanes, all.local_sum, offset);
      all.linear_sum += __shfl_xor_sync(kAllLanes, all.linear_sum, offset);
    }
    BranchFactors factors = {1.0f, 1.0f};
    if (is_partial) {
      if (p == 0) PartialTotals(task_.part / warps_)[q] = all;
    } else {
      const int head = block_.QueryAt(min(q, block_.num_queries - 1)).head;
      factors = FactorsOf(step_.layer, head, all.local_sum, all.linear_sum);
    }
    reinterpret_cast<PartWeights*>(shared_.totals)[p * kQueries + q] = {
        scale * factors.local, factors.linear, 1.0f, part.kinds};
  }

  // Adds up the parts, by their weights, into the output or into this block's partial result. A
  // warp takes some of the tiles.
  __device__ void AddUp(bool of_warps, int count, bool is_partial) const {
    constexpr int kTiles = 2, kParts = 4;  // At once: their loads overlap.
    const auto* weights = reinterpret_cast<const PartWeights*>(shared_.totals) + group_;
#pragma unroll 1
    for (int first = kTiles * warp_; first < kDim / 8; first += kTiles * warps_) {
      float4 sums[kTiles] = {};
#pragma unroll 1
      for (int kind = 0; kind < kNumKinds; ++kind) {
#pragma unroll 1
        for (int from = 0; from < count; from += kParts) {
          PartWeights of_part[kParts][kHalves];
          float4 kept[kParts][kTiles];
#pragma unroll
          for (int i = 0; i < kParts; ++i) {
            // Past the last part kinds are 0.
            const int p = from + i;
            of_part[i][0] = weights[p * kQueries];
            of_part[i][1] = weights[p * kQueries + 8];
            const int kinds = of_part[i][0].kinds;
            const float4* place = of_warps ? PlaceOf(p, kind, kinds) : PartialSums(p, kind);
#pragma unroll
            for (int t = 0; t < kTiles; ++t) {
              kept[i][t] =
                  kinds >> kind & 1 ? place[(first + t) * kWarp + lane_] : make_float4(0, 0, 0, 0);
            }
          }
#pragma unroll
          for (int i = 0; i < kParts; ++i) {
            const float weight = of_part[i][0].Of(kind), other = of_part[i][1].Of(kind);
#pragma unroll
            for (int t = 0; t < kTiles; ++t) {
              sums[t].x += weight * kept[i][t].x;
              sums[t].y += weight * kept[i][t].y;
              sums[t].z += other * kept[i][t].z;
              sums[t].w += other * kept[i][t].w;
            }
          }
        }
        if (!is_partial) continue;
        float4* to = PartialSums(task_.part / warps_, kind) + first * kWarp + lane_;
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          to[t * kWarp] = sums[t];
          sums[t] = make_float4(0, 0, 0, 0);
        }
      }
      if (!is_partial) StoreTiles(first, sums);
    }
  }

  // Two tiles, of 16 dimensions the lane's t-th of both halves, to the output.
  __device__ void StoreTiles(int first, const float4 (&sums)[2]) const {
    const int at = kBlockDims * (first / 8) + 16 * in_group_ + first % 8;
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      if (group_ + 8 * h >= this->num_queries_) continue;
      float* row = this->OutputOf(queries_[h]) + at;
      const auto& a = sums[0];
      const auto& b = sums[1];
      *reinterpret_cast<float2*>(row) = h == 0 ? make_float2(a.x, b.x) : make_float2(a.z, b.z);
      *reinterpret_cast<float2*>(row + 8) = h == 0 ? make_float2(a.y, b.y) : make_float2(a.w, b.w);
    }
  }

  const QueryBlock task_;
  const Shared shared_;
  const int warps_, warp_;
  const ColumnRows<float> keys_, values_;
  const Bf16* const high_s_;  // Where anything was folded.
  int kinds_ = 0;             // Of parts: as in Totals.
};

// Grid: blocks of the plan by warps of a block, KV heads. Shared memory: Shared::kept.
template <int kDim>
__global__ void __launch_bounds__(kMaxWarps* kWarp, 1) AttendFewKernel(AttentionStep step) {
  LetNextKernelComeUp();
  using Work = Attender<kDim>;
  __shared__ Totals totals[kMaxWarps * kQueries];
  __shared__ int32_t depths[kMaxWarps * Work::kMaxNodes];
  __shared__ bool is_last;
  const QueryBlock task = step.blocks[(blockIdx.x * blockDim.x + threadIdx.x) / kWarp];
  if (task.segment < 0) return;
  Work work(step, task, {reinterpret_cast<float4*>(SharedFloats()), totals, depths});
  work.PrefetchState();
  WaitForEarlierKernels();
  work.Run();
  // A block that has parts of a tile has nothing else.
  if (task.num_parts > 1 && !work.AddUpParts(&is_last)) return;
  // One warp of the tile, which nobody reads for any more.
  const bool is_first = task.num_parts == 1 || threadIdx.x < kWarp;
  if (is_first && work.IsStored()) work.StoreRow();
}

}  // namespace

bool AttendStoresSingleRows(const AttentionLayer& layer) {
  return TakesTensorCores(layer) && layer.heads / layer.kv_heads <= kQueries;
}

size_t PartialSize(const AttentionLayer& layer) { return PartialFloats(layer.head_dim); }

void AttendFewQueries(const AttentionStep& step, Stream& stream) {
  const int warps = step.warps_of_block;
  const int kept = step.layer.head_dim == 64 ? Attender<64>::Places(warps) * Attender<64>::kKept
                                             : Attender<128>::Places(warps) * Attender<128>::kKept;
  Launch(stream, "Attend", step.layer.head_dim == 64 ? AttendFewKernel<64> : AttendFewKernel<128>,
         dim3(step.num_blocks / warps, step.layer.kv_heads), warps * kWarp, sizeof(float4) * kept,
         step);
}

}  // namespace treeline::cuda
