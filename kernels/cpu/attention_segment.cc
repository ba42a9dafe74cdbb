#include "kernels/cpu/attention_segment.h"

#include <cstddef>

namespace treeline::cpu {
namespace {

size_t ElementSize(StateType type) { return type == StateType::kF32 ? 4 : 2; }

// The rows of one KV head inside [kv_heads, rows, head_dim].
const std::byte* HeadRows(const void* data, const AttentionLayer& layer, int32_t kv_head,
                          int32_t rows) {
  return static_cast<const std::byte*>(data) +
         int64_t{kv_head} * rows * layer.head_dim * ElementSize(layer.state_type);
}

std::vector<RowRange> Rows(const AttentionParams& params, const Segment& segment, int32_t kv_head,
                           const void* sinks, const void* ring, int32_t ring_rows, int32_t begin,
                           const float* nodes) {
  const AttentionLayer& layer = *params.layer;
  const int32_t d = layer.head_dim;
  std::vector<RowRange> ranges;
  if (segment.num_sinks > 0) {
    ranges.push_back({HeadRows(sinks, layer, kv_head, layer.form.sinks), layer.state_type, d, 0,
                      segment.num_sinks});
  }
  const std::vector<RowRange> committed =
      RingRows(layer, ring, ring_rows, kv_head, begin, segment.length, segment.column_of(begin));
  ranges.insert(ranges.end(), committed.begin(), committed.end());
  ranges.push_back({nodes + int64_t{segment.first_row} * params.kv_stride + kv_head * d,
                    StateType::kF32, params.kv_stride, segment.node_column(0), segment.num_rows});
  return ranges;
}

}  // namespace

std::vector<RowRange> Columns(const std::vector<RowRange>& ranges, int32_t begin, int32_t end) {
  std::vector<RowRange> parts;
  for (const RowRange& range : ranges) {
    const int32_t first = std::max(begin, range.first_column);
    const int32_t last = std::min(end, range.first_column + range.count);
    if (first >= last) continue;
    const int64_t values = (first - range.first_column) * range.stride;
    const int64_t bytes = values * static_cast<int64_t>(ElementSize(range.type));
    parts.push_back({static_cast<const std::byte*>(range.data) + bytes, range.type, range.stride,
                     first, last - first});
  }
  return parts;
}

std::vector<RowRange> RingRows(const AttentionLayer& layer, const void* ring, int32_t ring_rows,
                               int32_t kv_head, int32_t begin, int32_t end, int32_t first_column) {
  std::vector<RowRange> ranges;
  for (int32_t position = begin; position < end;) {
    const int32_t slot = position % ring_rows;
    const int32_t count = std::min(end - position, ring_rows - slot);
    const size_t offset = size_t(slot) * layer.head_dim * ElementSize(layer.state_type);
    ranges.push_back({HeadRows(ring, layer, kv_head, ring_rows) + offset, layer.state_type,
                      layer.head_dim, first_column + position - begin, count});
    position += count;
  }
  return ranges;
}

Segment MakeSegment(const AttentionLayer& layer, const AttentionTree& tree, int32_t done,
                    int32_t num_rows) {
  const AttentionForm& form = layer.form;
  Segment segment;
  segment.tree = &tree;
  segment.length = tree.length + done;
  segment.first_row = tree.first_row + done;
  segment.num_rows = num_rows;
  if (!tree.commit) {
    for (int32_t i = 1; i < num_rows; ++i) {
      if (tree.parents[i] != i - 1) segment.is_chain = false;
    }
  }
  if (!segment.is_chain) {
    for (int32_t i = 0; i < num_rows; ++i) {
      const int32_t parent = tree.parents[i];
      segment.depths.push_back(parent < 0 ? 0 : segment.depths[parent] + 1);
      segment.ancestors.push_back((uint64_t{1} << i) |
                                  (parent < 0 ? 0 : segment.ancestors[parent]));
    }
  }
  if (form.has_groups()) {
    segment.num_sinks = std::min(segment.length, form.sinks);
    segment.k_begin =
        std::max(0, (GroupOf(form, segment.length) - form.lag() + 1) * form.group_size);
  }
  segment.v_begin = std::min(segment.k_begin, segment.length - std::max(0, form.conv_taps() - 1));
  segment.k_begin = std::max(segment.k_begin, segment.num_sinks);
  segment.v_begin = std::max(segment.v_begin, segment.num_sinks);
  return segment;
}

int32_t LinearEnd(const AttentionForm& form, const Segment& segment) {
  if (!form.has_linear()) return 0;
  int32_t last = segment.length;
  for (int32_t r = 0; r < segment.num_rows; ++r) last = std::max(last, segment.position(r));
  return form.window_begin(last);
}

std::vector<RowRange> KeyRows(const AttentionParams& params, const Segment& segment,
                              int32_t kv_head) {
  const LayerState& state = segment.tree->state;
  return Rows(params, segment, kv_head, state.sink_k, state.ring_k, params.layer->k_ring_rows,
              segment.k_begin, params.k);
}

std::vector<RowRange> ValueRows(const AttentionParams& params, const Segment& segment,
                                int32_t kv_head) {
  const LayerState& state = segment.tree->state;
  return Rows(params, segment, kv_head, state.sink_v, state.ring_v, params.layer->v_ring_rows,
              segment.v_begin, params.v);
}

GroupRows CommittedGroup(const AttentionLayer& layer, const LayerState& state, int32_t group,
                         int32_t kv_head) {
  const int32_t begin = std::max(group * layer.form.group_size, layer.form.sinks);
  const int32_t end = std::max(begin, (group + 1) * layer.form.group_size);
  return {end - begin, RingRows(layer, state.ring_k, layer.k_ring_rows, kv_head, begin, end, 0),
          RingRows(layer, state.ring_v, layer.v_ring_rows, kv_head, begin, end, 0)};
}

GroupRows SegmentGroup(const AttentionParams& params, const Segment& segment, int32_t group,
                       int32_t kv_head) {
  const AttentionForm& form = params.layer->form;
  const int32_t begin = std::max(group * form.group_size, form.sinks);
  const int32_t end = std::max(begin, (group + 1) * form.group_size);
  const auto rows = [&](const std::vector<RowRange>& ranges) {
    std::vector<RowRange> parts = Columns(ranges, segment.column_of(begin), segment.column_of(end));
    for (RowRange& part : parts) part.first_column -= segment.column_of(begin);
    return parts;
  };
  return {end - begin, rows(KeyRows(params, segment, kv_head)),
          rows(ValueRows(params, segment, kv_head))};
}

}  // namespace treeline::cpu
