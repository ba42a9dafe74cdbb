// The stages of an attention step on the GPU, in the order in which attention.cc runs them. Each
// enqueues one kernel over everything the plan lists.
#ifndef TREELINE_KERNELS_CUDA_ATTENTION_STAGES_H_
#define TREELINE_KERNELS_CUDA_ATTENTION_STAGES_H_

#include <cstdint>

#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/stream.h"
#include "kernels/params.h"

namespace treeline::cuda {

// What kernels see of a step: all pointers are device memory. A kernel takes it by value.
struct AttentionStep {
  AttentionLayer layer;
  // Of layer.form, whose methods are the host's.
  int32_t lag = 0, conv_taps = 0, feature_dim = 0;
  bool has_linear = false, has_normaliser = false;

  // As in AttentionParams and CommitParams.
  const float* q = nullptr;
  const float* k = nullptr;
  const float* v = nullptr;
  float* out = nullptr;
  int32_t q_stride = 0, kv_stride = 0;
  int32_t num_rows = 0;  // Of q and out.
  int32_t num_feature_tiles = 0;

  const Tree* trees = nullptr;
  const Segment* segments = nullptr;
  const Fold* folds = nullptr;
  const Scan* scans = nullptr;
  const QueryBlock* blocks = nullptr;
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
};

// phi of the queries, and of the keys that tiles of FeatureTileRows rows name.
int32_t FeatureTileRows(const AttentionLayer& layer);
void ComputeQueryFeatures(const AttentionStep& step, Stream& stream);
void ComputeKeyFeatures(const AttentionStep& step, Stream& stream);

// Each fold's own sums, then their totals.
void SumFolds(const AttentionStep& step, int32_t num_folds, Stream& stream);
void ScanFolds(const AttentionStep& step, int32_t num_scans, Stream& stream);

// How queries are attended to, which follows from the layer and the GPU: with bf16 rings on tensor
// cores, where there is a kernel for it, else in fp32.
struct AttendMethod {
  bool tensor_cores = false;
  int32_t block_size = 0;  // Queries of a block of threads; 0: too many columns for this GPU.
};
AttendMethod ChooseAttendMethod(const AttentionLayer& layer, int32_t max_columns,
                                int32_t most_queries, Stream& stream);
// Every query's output. REQUIRES: blocks are cut to the method's size.
void Attend(const AttentionStep& step, int32_t num_blocks, const AttendMethod& method,
            int32_t max_columns, Stream& stream);

// Attend's kernel on tensor cores: blocks of kTensorCoreQueries queries, or of half as many.
inline constexpr int32_t kTensorCoreQueries = 32;
bool TakesTensorCores(const AttentionLayer& layer, int32_t max_columns, Stream& stream);
void AttendWithTensorCores(const AttentionStep& step, int32_t num_blocks, int32_t block_size,
                           int32_t max_columns, Stream& stream);

// The last totals of every scan become its state's S and z.
void StoreSums(const AttentionStep& step, int32_t num_scans, Stream& stream);
// Rows of the stored trees go into rings and sinks.
void StoreRows(const AttentionStep& step, int32_t num_trees, int32_t max_rows, Stream& stream);

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_ATTENTION_STAGES_H_
