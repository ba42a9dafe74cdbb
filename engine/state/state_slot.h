// A StateSlot is one sequence's place in the StatePool: its constant-size state on
// the device and the number of tokens committed to it. Destroying it returns it to
// the pool. Move-only. Only the scheduler's thread touches slots.
#ifndef TREELINE_ENGINE_STATE_STATE_SLOT_H_
#define TREELINE_ENGINE_STATE_STATE_SLOT_H_

#include <cstdint>
#include <utility>

namespace treeline {

// Gets slots back. StatePool is the real one.
class StateSlotOwner {
 public:
  virtual ~StateSlotOwner() = default;
  virtual void ReleaseSlot(int32_t index) = 0;
};

class StateSlot {
 public:
  StateSlot(StateSlotOwner* owner, int32_t index) : owner_(owner), index_(index) {}
  StateSlot(StateSlot&& other) noexcept
      : owner_(std::exchange(other.owner_, nullptr)), index_(other.index_) {}
  StateSlot& operator=(StateSlot&& other) noexcept {
    std::swap(owner_, other.owner_);
    std::swap(index_, other.index_);
    return *this;
  }
  ~StateSlot() {
    if (owner_ != nullptr) owner_->ReleaseSlot(index_);
  }

  // The slot's number in its pool: what a Batch names it by.
  int32_t index() const { return index_; }

 private:
  StateSlotOwner* owner_;
  int32_t index_;
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_STATE_STATE_SLOT_H_
