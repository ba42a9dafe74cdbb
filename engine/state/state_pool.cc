#include "engine/state/state_pool.h"

namespace treeline {

StatusOr<std::unique_ptr<StatePool>> StatePool::Create(Backend& backend, StateLayout layout,
                                                       int32_t num_slots) {
  TREELINE_ASSIGN_OR_RETURN(Buffer memory, backend.Allocate(layout.bytes() * num_slots));
  return std::unique_ptr<StatePool>(
      new StatePool(backend, std::move(layout), num_slots, std::move(memory)));
}

StatePool::StatePool(Backend& backend, StateLayout layout, int32_t num_slots, Buffer memory)
    : backend_(backend),
      layout_(std::move(layout)),
      memory_(std::move(memory)),
      lengths_(num_slots, -1) {
  for (int32_t i = num_slots - 1; i >= 0; --i) free_.push_back(i);
}

StatusOr<StateSlot> StatePool::Acquire() {
  if (free_.empty()) return ResourceExhausted("all {} state slots are in use", num_slots());
  const int32_t index = free_.back();
  free_.pop_back();
  lengths_[index] = 0;
  return StateSlot(this, index);
}

void StatePool::ReleaseSlot(int32_t index) {
  TREELINE_CHECK(in_use(index));
  lengths_[index] = -1;
  free_.push_back(index);
}

void* StatePool::data(int32_t index) const {
  return static_cast<std::byte*>(memory_.get()) + layout_.bytes() * index;
}

StatusOr<StateSnapshot> StatePool::Snapshot(const StateSlot& slot) {
  const std::vector<ByteRange> ranges = layout_.LiveRanges(length(slot.index()));
  StateSnapshot snapshot;
  snapshot.length_ = length(slot.index());
  for (const ByteRange& range : ranges) snapshot.bytes_ += range.size;
  TREELINE_ASSIGN_OR_RETURN(snapshot.data_, backend_.Allocate(snapshot.bytes_));
  std::byte* to = static_cast<std::byte*>(snapshot.data_.get());
  const std::byte* from = static_cast<const std::byte*>(data(slot.index()));
  std::vector<CopyParams> pieces;
  for (const ByteRange& range : ranges) {
    pieces.push_back({to, from + range.offset, static_cast<int64_t>(range.size)});
    to += range.size;
  }
  backend_.CopyPieces(pieces);
  return snapshot;
}

void StatePool::Restore(const StateSlot& slot, const StateSnapshot& snapshot) {
  const std::byte* from = static_cast<const std::byte*>(snapshot.data_.get());
  std::byte* to = static_cast<std::byte*>(data(slot.index()));
  std::vector<CopyParams> pieces;
  for (const ByteRange& range : layout_.LiveRanges(snapshot.length())) {
    pieces.push_back({to + range.offset, from, static_cast<int64_t>(range.size)});
    from += range.size;
  }
  backend_.CopyPieces(pieces);
  lengths_[slot.index()] = snapshot.length();
}

}  // namespace treeline
