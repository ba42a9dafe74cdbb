// The stages of an attention step on the GPU, in the order in which attention.cc runs them. Each
// enqueues one kernel over everything the plan lists.
#ifndef TREELINE_KERNELS_CUDA_ATTENTION_STAGES_H_
#define TREELINE_KERNELS_CUDA_ATTENTION_STAGES_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/split_float.h"
#include "kernels/cuda/stream.h"
#include "kernels/params.h"

namespace treeline::cuda {

// What kernels see of a step: all pointers are device memory. A kernel takes it by value.
struct AttentionStep {
  AttentionLayer layer;
  // Of layer.form, whose methods are the host's.
  int32_t lag = 0, conv_taps = 0, feature_dim = 0;
  int32_t heads_per_kv = 1;
  bool has_linear = false, has_normaliser = false;
  bool splits_s = false;  // States have S as split_float.h says.

  // As in AttentionParams and CommitParams.
  const float* q = nullptr;
  const float* k = nullptr;
  const float* v = nullptr;
  float* out = nullptr;
  int32_t q_stride = 0, kv_stride = 0;
  LayerState state;  // The origin: Tree::state_offset leads from it to the trees'.

  // Of the plan.
  int32_t num_rows = 0;  // Of q and out.
  int32_t num_blocks = 0, num_feature_tiles = 0;
  int32_t warps_of_block = 0;  // Warps of a block of threads, where each takes one of `blocks`.
  int32_t num_wide_blocks = 0;
  int32_t wide_parts = 1;          // Neighbours of wide_blocks that share a tile's steps,
  bool parts_in_clusters = false;  // and add up what they have as a cluster.
  int32_t num_folds = 0, num_scans = 0, num_stored_trees = 0;
  int32_t max_columns = 0, max_stored_rows = 0;
  const Tree* trees = nullptr;
  const Segment* segments = nullptr;
  const Fold* folds = nullptr;
  const Scan* scans = nullptr;
  const QueryBlock* blocks = nullptr;
  const QueryBlock* wide_blocks = nullptr;
  const FeatureTile* feature_tiles = nullptr;
  const int32_t* rows = nullptr;
  const int32_t* depths = nullptr;
  const uint64_t* ancestors = nullptr;
  const int32_t* stored_trees = nullptr;

  float* query_features = nullptr;  // [num_rows, heads, feature_dim]
  float* key_features = nullptr;    // [Plan::num_feature_rows, kv_heads, feature_dim]
  // [folds, kv_heads, feature_dim * (head_dim + 1)]: a fold's S, then its z. First each group's own
  // sums, after the scan the totals.
  float* sums = nullptr;
  // On tensor cores the same totals' S as they are read, [folds, kv_heads, feature_dim, head_dim].
  SplitHigh* high_sums = nullptr;
  // Of blocks that are parts of a tile's work (attend_few_queries.cu, attend_many_queries.cu).
  float* partials = nullptr;
  int32_t* parts_done = nullptr;  // [tiles, kv_heads] zero between kernels
  void* kv_bf16 = nullptr;  // [num_rows, 2, kv_heads, head_dim] bf16, of attend_many_queries.cu
};

// What attention wants of the batch's rows: phi of the queries, where there is linear attention,
// and kv_bf16, where there are wide blocks.
void PrepareRows(const AttentionStep& step, Stream& stream);
// phi of the keys that tiles of FeatureTileRows rows name.
int32_t FeatureTileRows(const AttentionLayer& layer);
void ComputeKeyFeatures(const AttentionStep& step, Stream& stream);

// Each fold's own sums, then their totals.
void SumFolds(const AttentionStep& step, Stream& stream);
void ScanFolds(const AttentionStep& step, Stream& stream);

// Every query's output in fp32. REQUIRES: blocks are cut to AttendBlockSize.
void Attend(const AttentionStep& step, int32_t block_size, Stream& stream);
// Queries of a block of threads; 0: so many columns do not fit this GPU.
int32_t AttendBlockSize(const AttentionLayer& layer, const Plan& plan, Stream& stream);

// The same on tensor cores, of `blocks`, which are WarpBlocks, and of `wide_blocks`. REQUIRES:
// TakesTensorCores.
void AttendFewQueries(const AttentionStep& step, Stream& stream);
void AttendManyQueries(const AttentionStep& step, Stream& stream);
// As CutIntoWideBlocks asks.
WideBlocks::TilesAtOnce WideTilesAtOnce(const AttentionLayer& layer, Stream& stream);
// True where AttendFewQueries stores rows of which a segment has only one.
bool AttendStoresSingleRows(const AttentionLayer& layer);
// Floats of a partial result of a warp's queries, of one KV head.
size_t PartialSize(const AttentionLayer& layer);

// The last totals of every scan become its state's S and z.
void StoreSums(const AttentionStep& step, Stream& stream);

// Where a layer's rows come from and go to, as in AttentionStep.
struct StoredLayer {
  LayerState state;
  const float* k = nullptr;
  const float* v = nullptr;
};
// Rows of the stored trees go into rings and sinks, in num_layers layers of the step's kind: device
// memory, or null for the step's own.
void StoreRows(const AttentionStep& step, const StoredLayer* layers, int32_t num_layers,
               Stream& stream);

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_ATTENTION_STAGES_H_
