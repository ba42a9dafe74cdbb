// What an attention step has to do, as flat arrays that kernels read: which rows are attended to
// together, which groups are folded, where the sums lie that a row needs. Plain bookkeeping on the
// host, no arithmetic on activations.
//
// A committed chain is cut at group boundaries into segments that run at the same time: its groups
// are summed first, a scan over them gives each segment the S that it would have found, and what
// it reads of earlier rows comes from the state's rings or from the batch, by position.
#ifndef TREELINE_KERNELS_CUDA_ATTENTION_PLAN_H_
#define TREELINE_KERNELS_CUDA_ATTENTION_PLAN_H_

#include <cstdint>
#include <vector>

#include "kernels/params.h"

namespace treeline::cuda {

// One tree of the step. Tokens at positions below `length` are rows of the state, node i is row
// first_row + i of the batch (or rows[i], where a commit names them).
struct Tree {
  LayerState state;
  int32_t length = 0;
  int32_t first_row = 0;
  int32_t num_rows = 0;
  int32_t rows = -1;  // Where its indices begin in Plan::rows; -1: consecutive rows.
  // phi of the keys that are linear to a row of this tree, or folded: of positions from
  // features_begin to features_end. A committed token's lies at row `features` + position -
  // features_begin of the step's key features, node i's behind the committed ones.
  int32_t features_begin = 0;
  int32_t features_end = 0;
  int32_t features = 0;
  int32_t num_features = 0;  // Of these rows, from the first on, so many are wanted.
};

// Rows of a tree that are attended to together, from a state of `length` tokens. Columns are
// ordered [sinks | committed tokens from v_begin | the segment's own rows].
struct Segment {
  int32_t tree = 0;
  int32_t length = 0;
  int32_t first_row = 0;  // In the batch.
  int32_t num_rows = 0;
  int32_t nodes = -1;  // Where its rows begin in Plan::depths and ancestors; -1: a chain.
  int32_t num_sinks = 0;
  int32_t k_begin = 0;  // Committed tokens from here on are in no S: not folded, no sink.
  int32_t v_begin = 0;  // The same, or the oldest tap of the convolution.
  static constexpr int32_t kNoSums = -2, kSumsOfState = -1;
  int32_t sums = kNoSums;  // The fold whose total it reads, or one of these.

  int32_t num_columns() const { return num_sinks + (length - v_begin) + num_rows; }
};

// A group on its way into S: the sum of phi(k)^T v over positions [begin, end).
struct Fold {
  int32_t tree = 0;
  int32_t begin = 0, end = 0;
};

// A tree's folds in order: total i = decay * total i-1 + sum i.
struct Scan {
  int32_t tree = 0;
  int32_t first_fold = 0, num_folds = 0;
  bool from_nothing = false;  // Nothing was folded before: S is undefined.
};

// Queries that a block of threads handles together: (row, head) pairs of one KV head.
struct QueryBlock {
  int32_t segment = 0;
  int32_t first_query = 0;
};

// Rows of a tree whose key features a block of threads computes; first is an offset from
// Tree::features.
struct FeatureTile {
  int32_t tree = 0;
  int32_t first = 0;
};

struct Plan {
  std::vector<Tree> trees;
  std::vector<Segment> segments;
  std::vector<Fold> folds;
  std::vector<Scan> scans;
  std::vector<int32_t> rows;          // Of Tree::rows.
  std::vector<int32_t> depths;        // Of Segment::nodes.
  std::vector<uint64_t> ancestors;    // Bit i: row i of the segment is an ancestor or the row.
  std::vector<int32_t> stored_trees;  // Whose rows go into their states.
  int32_t num_feature_rows = 0;
  int32_t max_columns = 0;  // Of any segment.
  int32_t max_stored_rows = 0;
};

Plan PlanAttention(const AttentionParams& params);
Plan PlanCommit(const CommitParams& params);

// The segments' queries, `size` at a time.
std::vector<QueryBlock> CutIntoBlocks(const Plan& plan, int32_t queries_per_row, int32_t size);

// The rows whose key features are wanted, `size` at a time.
std::vector<FeatureTile> CutFeatures(const Plan& plan, int32_t size);

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_ATTENTION_PLAN_H_
