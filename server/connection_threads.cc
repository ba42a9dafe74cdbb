#include "server/connection_threads.h"

#include <system_error>
#include <utility>

namespace treeline {

void ConnectionThreads::Serve(Connection connection) {
  std::lock_guard<std::mutex> lock(mutex_);
  connections_.push_back(std::move(connection));
  if (busy_ + connections_.size() > threads_.size() && threads_.size() < max_threads_) {
    try {
      threads_.emplace_back([this] { Work(); });
    } catch (const std::system_error&) {
      // The system grants no more threads: the connection waits for one that exists.
      if (threads_.empty()) throw;
    }
  }
  changed_.notify_one();
}

void ConnectionThreads::Join() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void ConnectionThreads::Work() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return !connections_.empty() || stopping_; });
    if (connections_.empty()) return;
    Connection connection = std::move(connections_.front());
    connections_.pop_front();
    ++busy_;
    lock.unlock();
    serve_(std::move(connection));
    lock.lock();
    --busy_;
  }
}

}  // namespace treeline
