// The time, as something a test can hold in its hand. Code that measures or
// waits takes a Clock&; nothing in the engine or scheduler reads the system's.
// Thread-safe.
#ifndef TREELINE_ENGINE_BASE_CLOCK_H_
#define TREELINE_ENGINE_BASE_CLOCK_H_

#include <atomic>
#include <chrono>

namespace treeline {

// Monotonic; only differences mean something.
using TimePoint = std::chrono::steady_clock::time_point;
using Duration = std::chrono::steady_clock::duration;

inline double ToSeconds(Duration d) { return std::chrono::duration<double>(d).count(); }

class Clock {
 public:
  virtual ~Clock() = default;
  virtual TimePoint Now() const = 0;

  // The machine's monotonic clock.
  static const Clock& Real();
};

// Stands still until told to move.
class FakeClock : public Clock {
 public:
  TimePoint Now() const override { return TimePoint(Duration(now_.load())); }
  void Advance(Duration d) { now_ += d.count(); }

 private:
  std::atomic<Duration::rep> now_{0};
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_BASE_CLOCK_H_
