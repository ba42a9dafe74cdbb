// A few threads that run short jobs in the order they come. Thread-safe.
#ifndef TREELINE_SERVER_WORK_QUEUE_H_
#define TREELINE_SERVER_WORK_QUEUE_H_

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace treeline {

class WorkQueue {
 public:
  explicit WorkQueue(int num_threads);
  ~WorkQueue() { Stop(); }

  // Never blocks. After Stop, the job is dropped.
  void Run(std::function<void()> job);
  // Runs what is queued, then ends the threads. REQUIRES: not called by a job.
  void Stop();

 private:
  void Work();

  std::mutex mutex_;
  std::condition_variable changed_;
  // Protected by mutex_:
  std::deque<std::function<void()>> jobs_;
  bool stopping_ = false;

  std::vector<std::thread> threads_;
};

}  // namespace treeline

#endif  // TREELINE_SERVER_WORK_QUEUE_H_
