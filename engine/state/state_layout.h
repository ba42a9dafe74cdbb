// Which bytes a sequence's state has: for every layer S, z, the sink rows and the
// two rings (docs/attention.md, "State"), one after the other in a slot. Immutable.
#ifndef TREELINE_ENGINE_STATE_STATE_LAYOUT_H_
#define TREELINE_ENGINE_STATE_STATE_LAYOUT_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/params.h"

namespace treeline {

// `size` bytes from `offset` in a slot.
struct ByteRange {
  size_t offset = 0;
  size_t size = 0;
};

class StateLayout {
 public:
  StateLayout() = default;
  // Only the forms and shapes of the layers are read.
  explicit StateLayout(const std::vector<AttentionLayer>& layers);

  // Of one sequence.
  size_t bytes() const { return bytes_; }
  int32_t num_layers() const { return static_cast<int32_t>(layers_.size()); }

  // Pointers into the slot that begins at `slot`, a device address aligned to 64 bytes.
  LayerState At(void* slot, int32_t layer) const;

  // The bytes that matter after `length` tokens: everything else in the slot may hold anything.
  // In order, not touching. What a snapshot holds.
  std::vector<ByteRange> LiveRanges(int32_t length) const;

 private:
  struct Layer {
    AttentionForm form;
    int32_t kv_heads, k_ring_rows, v_ring_rows;
    size_t row_bytes;  // Of one head's K or V row.
    size_t s_head_bytes, z_head_bytes;
    size_t s, z, sink_k, sink_v, ring_k, ring_v;  // Offsets in the slot.
  };
  void AddLiveRanges(const Layer& layer, int32_t length, std::vector<ByteRange>& ranges) const;

  std::vector<Layer> layers_;
  size_t bytes_ = 0;
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_STATE_STATE_LAYOUT_H_
