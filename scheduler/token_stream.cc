#include "scheduler/token_stream.h"

namespace treeline {

TokenStream::Wait TokenStream::Next(std::chrono::milliseconds timeout, TokenEvent* event) {
  std::unique_lock lock(mutex_);
  if (!changed_.wait_for(lock, timeout, [this] { return !events_.empty() || ended_; })) {
    return Wait::kTimeout;
  }
  if (events_.empty()) return Wait::kEnd;
  *event = std::move(events_.front());
  events_.pop_front();
  return Wait::kEvent;
}

Status TokenStream::status() const {
  std::lock_guard lock(mutex_);
  TREELINE_CHECK(ended_, "status() before the stream's end");
  return status_;
}

Usage TokenStream::usage() const {
  std::lock_guard lock(mutex_);
  TREELINE_CHECK(ended_, "usage() before the stream's end");
  return usage_;
}

PhaseTimes TokenStream::times() const {
  std::lock_guard lock(mutex_);
  TREELINE_CHECK(ended_, "times() before the stream's end");
  return times_;
}

void TokenStream::NotifyBy(std::function<void()> notify) {
  std::lock_guard lock(mutex_);
  notify_ = std::make_shared<const std::function<void()>>(std::move(notify));
}

void TokenStream::Wake(const Notify& notify) {
  changed_.notify_all();
  if (notify != nullptr) (*notify)();
}

void TokenStream::Push(TokenEvent event) {
  Notify notify;
  {
    std::lock_guard lock(mutex_);
    TREELINE_CHECK(!ended_, "an event pushed after the stream's end");
    events_.push_back(std::move(event));
    notify = notify_;
  }
  Wake(notify);
}

void TokenStream::End(const Status& status, const Usage& usage, const PhaseTimes& times) {
  Notify notify;
  {
    std::lock_guard lock(mutex_);
    if (ended_) return;
    ended_ = true;
    status_ = status;
    usage_ = usage;
    times_ = times;
    notify = notify_;
  }
  Wake(notify);
}

}  // namespace treeline
