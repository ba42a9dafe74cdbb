// The columns that a piece of a tree attends to, and where their rows lie. Plain
// bookkeeping, no arithmetic on activations.
#ifndef TREELINE_KERNELS_CPU_ATTENTION_SEGMENT_H_
#define TREELINE_KERNELS_CPU_ATTENTION_SEGMENT_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/params.h"

namespace treeline::cpu {

// Queries handled together: (row, head) pairs that share a KV head.
inline constexpr int32_t kQueryBlock = 32;
// Rows converted to fp32 at a time.
inline constexpr int32_t kRowBlock = 64;

// Consecutive rows of K or V: head_dim values each, `stride` values apart.
struct RowRange {
  const void* data = nullptr;
  StateType type = StateType::kF32;
  int64_t stride = 0;
  int32_t first_column = 0;
  int32_t count = 0;
};

// What lies in the columns from `begin` to `end`, in order; empty ranges are left out.
std::vector<RowRange> Columns(const std::vector<RowRange>& ranges, int32_t begin, int32_t end);

// Rows of one tree that are attended to together, from a state of `length` tokens. Columns
// are ordered [sink rows | ring rows from v_begin | the segment's own rows]; along any path
// that is the order of positions (sinks first).
struct Segment {
  const AttentionTree* tree = nullptr;
  int32_t length = 0;
  int32_t first_row = 0;  // In the batch.
  int32_t num_rows = 0;
  bool is_chain = true;
  // Where not a chain:
  std::vector<int32_t> depths;      // [num_rows]
  std::vector<uint64_t> ancestors;  // [num_rows] bit i: row i is an ancestor or the row itself

  int32_t num_sinks = 0;  // Committed sink rows.
  int32_t k_begin = 0;    // First ring position whose K row is read: not folded, no sink.
  int32_t v_begin = 0;    // First ring position whose V row is read: k_begin, or the oldest conv
                          // tap. Sinks are read from their own rows alone.

  int32_t node_column(int32_t row) const { return num_sinks + length - v_begin + row; }
  // Of a committed token.
  int32_t column_of(int32_t position) const {
    return position < num_sinks ? position : num_sinks + position - v_begin;
  }
  int32_t num_columns() const { return node_column(num_rows); }
  int32_t depth(int32_t row) const { return is_chain ? row : depths[row]; }
  int32_t position(int32_t row) const { return length + depth(row); }
  int32_t column_position(int32_t column) const {
    if (column < num_sinks) return column;
    const int32_t row = column - node_column(0);
    return row < 0 ? column - num_sinks + v_begin : position(row);
  }
};

// gamma of docs/attention.md.
inline int32_t GroupOf(const AttentionForm& form, int32_t position) {
  return form.has_groups() ? position / form.group_size : 0;
}

// True if S holds anything after `length` tokens. Before that its memory is undefined.
inline bool HasFolded(const AttentionForm& form, int32_t length) {
  return form.has_linear() && GroupOf(form, length) >= form.lag();
}

// A segment of `num_rows` rows of `tree`, of which `done` have been committed before.
Segment MakeSegment(const AttentionLayer& layer, const AttentionTree& tree, int32_t done,
                    int32_t num_rows);

// Positions below this may be linear to some row of the segment.
int32_t LinearEnd(const AttentionForm& form, const Segment& segment);

// The rows of a ring for positions from `begin` to `end`, as columns from `first_column` on; two
// ranges where they wrap.
std::vector<RowRange> RingRows(const AttentionLayer& layer, const void* ring, int32_t ring_rows,
                               int32_t kv_head, int32_t begin, int32_t end, int32_t first_column);

// The rows behind a segment's columns for one KV head: of K (from k_begin on) or of V (all).
// At most 4 ranges: sinks, the ring in one or two pieces, the segment's own rows.
std::vector<RowRange> KeyRows(const AttentionParams& params, const Segment& segment,
                              int32_t kv_head);
std::vector<RowRange> ValueRows(const AttentionParams& params, const Segment& segment,
                                int32_t kv_head);

// The rows of one group but its sinks, as columns 0 to count - 1.
struct GroupRows {
  int32_t count = 0;
  std::vector<RowRange> keys, values;
};

// Of a group whose tokens are all in the rings.
GroupRows CommittedGroup(const AttentionLayer& layer, const LayerState& state, int32_t group,
                         int32_t kv_head);
// Of a group whose tokens are in the rings or in the segment, a chain.
GroupRows SegmentGroup(const AttentionParams& params, const Segment& segment, int32_t group,
                       int32_t kv_head);

}  // namespace treeline::cpu

#endif  // TREELINE_KERNELS_CPU_ATTENTION_SEGMENT_H_
