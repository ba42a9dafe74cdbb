// Finds the clients that do not take their answers, for transports whose writes block no
// thread that would notice.
#ifndef TREELINE_SERVER_SLOW_CLIENTS_H_
#define TREELINE_SERVER_SLOW_CLIENTS_H_

#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "engine/base/clock.h"

namespace treeline {

// An answer that is being written.
class PendingAnswer {
 public:
  virtual ~PendingAnswer() = default;
  // Drops the client where it has let a write wait for too long.
  virtual void DropIfLate(TimePoint now) = 0;
};

// Thread-safe.
class SlowClients {
 public:
  void Watch(const std::shared_ptr<PendingAnswer>& answer) {
    std::lock_guard<std::mutex> lock(mutex_);
    answers_[answer.get()] = answer;
  }
  void Forget(const PendingAnswer* answer) {
    std::lock_guard<std::mutex> lock(mutex_);
    answers_.erase(answer);
  }
  void DropLate(TimePoint now) {
    std::vector<std::shared_ptr<PendingAnswer>> answers;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      for (const auto& [_, weak] : answers_) {
        if (auto answer = weak.lock()) answers.push_back(std::move(answer));
      }
    }
    for (const auto& answer : answers) answer->DropIfLate(now);
  }

 private:
  std::mutex mutex_;
  std::unordered_map<const PendingAnswer*, std::weak_ptr<PendingAnswer>>
      answers_;  // Protected by mutex_.
};

}  // namespace treeline

#endif  // TREELINE_SERVER_SLOW_CLIENTS_H_
