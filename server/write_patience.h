// How long a client may let its answer wait. It begins with a limit; a kilobyte taken
// gives a second back, up to the limit, so that a client slower than 1 KiB/s is dropped after that
// time, however it spreads what it takes.
#ifndef TREELINE_SERVER_WRITE_PATIENCE_H_
#define TREELINE_SERVER_WRITE_PATIENCE_H_

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "engine/base/clock.h"

namespace treeline {

class WritePatience {
 public:
  explicit WritePatience(Duration limit) : limit_(limit), left_(limit) {}

  // For the next write.
  Duration left() const { return left_; }
  // It took `waited`, and the client took `bytes`.
  void Account(int64_t bytes, Duration waited) {
    const Duration earned =
        bytes * std::chrono::duration_cast<Duration>(std::chrono::seconds(1)) / 1024;
    left_ = std::min(limit_, left_ - waited + earned);
  }

 private:
  const Duration limit_;
  Duration left_;
};

}  // namespace treeline

#endif  // TREELINE_SERVER_WRITE_PATIENCE_H_
