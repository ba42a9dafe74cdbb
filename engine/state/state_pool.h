// The memory of all states: a fixed number of equal slots, allocated at start. The
// pool knows how many tokens each slot holds; StateLayout knows what the bytes mean.
// Acquiring a slot clears nothing: what a state of no tokens may read is empty.
// One thread at a time (the scheduler's).
#ifndef TREELINE_ENGINE_STATE_STATE_POOL_H_
#define TREELINE_ENGINE_STATE_STATE_POOL_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/base/status.h"
#include "engine/state/state_layout.h"
#include "engine/state/state_slot.h"

namespace treeline {

// A copy of one state, taken at some length; outlives the slot it came from. Holds the live
// bytes only (StateLayout::LiveRanges). Immutable; cheap to copy, the bytes are shared.
class StateSnapshot {
 public:
  int32_t length() const { return length_; }
  size_t bytes() const { return bytes_; }

 private:
  friend class StatePool;
  Buffer data_;
  int32_t length_ = 0;
  size_t bytes_ = 0;
};

class StatePool : public StateSlotOwner {
 public:
  // `backend` must outlive the pool, and the pool its slots. RESOURCE_EXHAUSTED where the
  // memory is not to be had.
  static StatusOr<std::unique_ptr<StatePool>> Create(Backend& backend, StateLayout layout,
                                                     int32_t num_slots);

  // An empty state. RESOURCE_EXHAUSTED when all slots are in use.
  StatusOr<StateSlot> Acquire();
  void ReleaseSlot(int32_t index) override;

  int32_t num_slots() const { return static_cast<int32_t>(lengths_.size()); }
  int32_t free_slots() const { return static_cast<int32_t>(free_.size()); }
  bool in_use(int32_t index) const { return lengths_[index] >= 0; }
  const StateLayout& layout() const { return layout_; }

  // Tokens committed to a slot in use.
  int32_t length(int32_t index) const { return lengths_[index]; }
  void Advance(int32_t index, int32_t tokens) { lengths_[index] += tokens; }
  // The slot's bytes on the device.
  void* data(int32_t index) const;

  // Copies a slot's state. RESOURCE_EXHAUSTED where memory is short; the slot is unchanged.
  StatusOr<StateSnapshot> Snapshot(const StateSlot& slot);
  // Makes the slot what it was when the snapshot was taken of it, or of another slot of this
  // pool.
  void Restore(const StateSlot& slot, const StateSnapshot& snapshot);

 private:
  StatePool(Backend& backend, StateLayout layout, int32_t num_slots, Buffer memory);

  Backend& backend_;
  const StateLayout layout_;
  const Buffer memory_;
  std::vector<int32_t> lengths_;  // [num_slots] -1: free.
  std::vector<int32_t> free_;     // The next one last.
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_STATE_STATE_POOL_H_
