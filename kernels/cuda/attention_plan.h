// What an attention step has to do, as flat arrays that kernels read: which rows are attended to
// together, which groups are folded, where the sums lie that a row needs. Plain bookkeeping on the
// host, no arithmetic on activations.
//
// A committed chain is cut at group boundaries into segments that run at the same time: its groups
// are summed first, a scan over them gives each segment the S that it would have found, and what
// it reads of earlier rows comes from the state's rings or from the batch, by position.
#ifndef TREELINE_KERNELS_CUDA_ATTENTION_PLAN_H_
#define TREELINE_KERNELS_CUDA_ATTENTION_PLAN_H_

#include <array>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/params.h"

namespace treeline::cuda {

// One tree of the step. Tokens at positions below `length` are rows of the state, node i is row
// first_row + i of the batch (or rows[i], where a commit names them).
struct Tree {
  int64_t state_offset = 0;  // Bytes from the plan's origin to the tree's state, in every layer.
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
  int32_t group = 0;      // Of the token at `length`.
  int32_t first_row = 0;  // In the batch.
  int32_t num_rows = 0;
  int32_t nodes = -1;  // Where its rows begin in Plan::depths and ancestors; -1: a chain.
  int32_t num_sinks = 0;
  int32_t k_begin = 0;  // Committed tokens from here on are in no S: not folded, no sink.
  int32_t v_begin = 0;  // The same, or the oldest tap of the convolution.
  int32_t k_ring_row = 0, v_ring_row = 0;  // Of these positions.
  // The columns that have left the window of some row: linear to it, or nothing where there is no
  // feature map. From k_begin's on; the same number twice where there are none.
  int32_t linear_begin = 0, linear_end = 0;
  static constexpr int32_t kNoSums = -2, kSumsOfState = -1;
  int32_t sums = kNoSums;  // The fold whose total it reads, or one of these.
  bool is_stored = false;  // One row, which Attend's kernel itself stores when it is done with it.

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

// Queries that are attended to together: (row, head) pairs of one KV head, heads first.
struct QueryBlock {
  int32_t segment = -1;                   // -1: nothing to do.
  int32_t first_row = 0, first_head = 0;  // In the segment; among the heads that share the KV head.
  int32_t num_queries = 0;
  int32_t num_columns = 0;  // The segment's rows after the block's last one are invisible to it.

  // Of WarpBlocks: the work in steps of kStep local columns, features, columns that may be linear,
  // columns that the convolution reaches.
  struct Steps {
    int32_t local = 0, features = 0, linear = 0, conv = 0;
    int32_t count() const { return local + features + linear + conv; }
  };
  Steps steps;
  int32_t linear_end = 0;  // Segment::linear_end, as far as there are columns.
  int32_t first_conv = 0;  // The first column that the convolution reaches.
  // A block that is one of several parts takes these steps. The parts lie behind one another.
  int32_t begin_step = 0, end_step = 0;
  int32_t part = 0, num_parts = 1;
  // Where the parts are in several blocks of threads:
  int32_t tile = 0;           // counts such tiles,
  int32_t first_partial = 0;  // and here their blocks' results begin.
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
  int32_t num_rows = 0;  // Of the batch, up to the last segment's last one.
};

// Bytes from one state to another. REQUIRES: LieAlike.
int64_t StateOffset(const LayerState& first, const LayerState& state);
// Whether from every part of one state to that of the other it is as far.
bool LieAlike(const LayerState& first, const LayerState& state);

// Layers that are attended to on tensor cores: with bf16 rings, and a shape that there is a kernel
// for. Their states have S as split_float.h says.
bool TakesTensorCores(const AttentionLayer& layer);

// origin: any state. store_single_rows: what Segment::is_stored says.
Plan PlanAttention(const AttentionParams& params, const LayerState& origin, bool store_single_rows);
Plan PlanCommit(const CommitParams& params, const LayerState& origin);

// The queries of segments that have from `least` to `most`, `size` at a time.
std::vector<QueryBlock> CutIntoBlocks(const Plan& plan, int32_t queries_per_row, int32_t size,
                                      int32_t least = 0,
                                      int32_t most = std::numeric_limits<int32_t>::max());

// Of segments with no more queries than a warp takes: blocks that are one warp's work, `warps` of
// them in a block of threads. Where these are too few for a GPU they are in parts, a multiple of
// `warps`, and a block of threads has parts of one tile.
struct WarpBlocks {
  static constexpr int32_t kQueries = 16, kMaxWarps = 8, kMinWarps = 4;
  static constexpr int32_t kMaxBlocks = 8;  // Of threads, of a tile.
  // Columns and features are attended to so many at a time.
  static constexpr int32_t kStep = 16;

  std::vector<QueryBlock> blocks;  // Padded to a multiple of `warps`.
  int32_t warps = kMaxWarps;
  int32_t num_tiles = 0;     // In several blocks of threads,
  int32_t num_partials = 0;  // of so many in all.
};
WarpBlocks CutIntoWarpBlocks(const Plan& plan, const AttentionLayer& layer,
                             int32_t num_multiprocessors);

// Of segments with more queries than a warp takes: the work of blocks of threads. Where these are
// too few for a GPU, in parts.
struct WideBlocks {
  static constexpr int32_t kQueries = 64, kStep = 32, kMaxParts = 8;
  // By p: how many tiles of p parts, of one KV head each, run at once.
  using TilesAtOnce = std::array<int32_t, kMaxParts + 1>;

  std::vector<QueryBlock> blocks;  // The parts of a tile are neighbours.
  int32_t parts = 1;               // Of every tile.
  int32_t num_tiles = 0;           // In parts,
  int32_t num_partials = 0;        // of so many in all.
};
WideBlocks CutIntoWideBlocks(const Plan& plan, const AttentionLayer& layer,
                             const WideBlocks::TilesAtOnce& at_once);

// The rows whose key features are wanted, `size` at a time.
std::vector<FeatureTile> CutFeatures(const Plan& plan, int32_t size);

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_ATTENTION_PLAN_H_
