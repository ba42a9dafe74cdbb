#include "engine/state/state_layout.h"

#include <algorithm>

namespace treeline {
namespace {

constexpr size_t kAlignment = 64;

size_t Aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Appends a range, joined to the one before where they touch.
void Append(std::vector<ByteRange>& ranges, size_t offset, size_t size) {
  if (size == 0) return;
  if (!ranges.empty() && ranges.back().offset + ranges.back().size == offset) {
    ranges.back().size += size;
  } else {
    ranges.push_back({offset, size});
  }
}

// The rows of positions [begin, end) in every head of a ring.
void AppendRing(std::vector<ByteRange>& ranges, size_t ring, int32_t kv_heads, int32_t rows,
                size_t row_bytes, int32_t begin, int32_t end) {
  if (begin >= end) return;
  const int32_t first = begin % rows, past = (end - 1) % rows + 1;
  for (int32_t head = 0; head < kv_heads; ++head) {
    const size_t base = ring + size_t(head) * rows * row_bytes;
    if (first < past) {
      Append(ranges, base + first * row_bytes, (past - first) * row_bytes);
    } else {
      Append(ranges, base, past * row_bytes);
      Append(ranges, base + first * row_bytes, (rows - first) * row_bytes);
    }
  }
}

}  // namespace

StateLayout::StateLayout(const std::vector<AttentionLayer>& layers) {
  const auto place = [this](size_t size) {
    const size_t offset = bytes_;
    bytes_ += Aligned(size);
    return offset;
  };
  for (const AttentionLayer& layer : layers) {
    Layer l;
    l.form = layer.form;
    l.kv_heads = layer.kv_heads;
    l.k_ring_rows = layer.k_ring_rows;
    l.v_ring_rows = layer.v_ring_rows;
    l.row_bytes = layer.head_dim * (layer.state_type == StateType::kF32 ? 4 : 2);
    l.s_head_bytes = size_t(layer.feature_dim()) * layer.head_dim * sizeof(float);
    l.z_head_bytes = layer.form.has_normaliser() ? layer.feature_dim() * sizeof(float) : 0;
    const size_t sinks = size_t(l.kv_heads) * l.form.sinks * l.row_bytes;
    l.s = place(l.kv_heads * l.s_head_bytes);
    l.z = place(l.kv_heads * l.z_head_bytes);
    l.sink_k = place(sinks);
    l.sink_v = place(sinks);
    l.ring_k = place(size_t(l.kv_heads) * l.k_ring_rows * l.row_bytes);
    l.ring_v = place(size_t(l.kv_heads) * l.v_ring_rows * l.row_bytes);
    layers_.push_back(l);
  }
}

LayerState StateLayout::At(void* slot, int32_t layer) const {
  const Layer& l = layers_[layer];
  std::byte* base = static_cast<std::byte*>(slot);
  LayerState state;
  state.s = reinterpret_cast<float*>(base + l.s);
  state.z = reinterpret_cast<float*>(base + l.z);
  state.sink_k = base + l.sink_k;
  state.sink_v = base + l.sink_v;
  state.ring_k = base + l.ring_k;
  state.ring_v = base + l.ring_v;
  return state;
}

std::vector<ByteRange> StateLayout::LiveRanges(int32_t length) const {
  std::vector<ByteRange> ranges;
  for (const Layer& layer : layers_) AddLiveRanges(layer, length, ranges);
  return ranges;
}

void StateLayout::AddLiveRanges(const Layer& layer, int32_t length,
                                std::vector<ByteRange>& ranges) const {
  const AttentionForm& form = layer.form;
  int32_t sinks = 0, k_begin = 0;  // k_begin: the first position that is not folded.
  if (form.has_groups()) {
    sinks = std::min(length, form.sinks);
    const int32_t unfolded_group = length / form.group_size - form.lag() + 1;
    k_begin = std::max(0, unfolded_group * form.group_size);
    if (form.has_linear() && unfolded_group > 0) {
      Append(ranges, layer.s, layer.kv_heads * layer.s_head_bytes);
      Append(ranges, layer.z, layer.kv_heads * layer.z_head_bytes);
    }
    for (const size_t rows : {layer.sink_k, layer.sink_v}) {
      for (int32_t head = 0; head < layer.kv_heads; ++head) {
        Append(ranges, rows + size_t(head) * form.sinks * layer.row_bytes, sinks * layer.row_bytes);
      }
    }
  }
  // Sinks are read from their own rows, never from the rings.
  const int32_t v_begin = std::min(k_begin, length - std::max(0, form.conv_taps() - 1));
  AppendRing(ranges, layer.ring_k, layer.kv_heads, layer.k_ring_rows, layer.row_bytes,
             std::max(k_begin, sinks), length);
  AppendRing(ranges, layer.ring_v, layer.kv_heads, layer.v_ring_rows, layer.row_bytes,
             std::max(v_begin, sinks), length);
}

}  // namespace treeline
