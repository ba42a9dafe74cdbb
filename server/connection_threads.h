// The threads that serve connections: made when needed, kept for the next one, never
// more than a fixed number. When all are busy, accepting waits (the kernel queues).
#ifndef TREELINE_SERVER_CONNECTION_THREADS_H_
#define TREELINE_SERVER_CONNECTION_THREADS_H_

#include <httplib.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace treeline {

class ConnectionThreads : public httplib::TaskQueue {
 public:
  explicit ConnectionThreads(size_t max_threads) : max_threads_(max_threads) {}

  void enqueue(std::function<void()> job) override;
  void shutdown() override;

 private:
  void Work();

  const size_t max_threads_;
  std::mutex mutex_;
  std::condition_variable changed_;
  // Protected by mutex_:
  std::deque<std::function<void()>> jobs_;
  std::vector<std::thread> threads_;
  size_t busy_ = 0;  // Jobs that wait for their thread or run.
  bool stopping_ = false;
};

}  // namespace treeline

#endif  // TREELINE_SERVER_CONNECTION_THREADS_H_
