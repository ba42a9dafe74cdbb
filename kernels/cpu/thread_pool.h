// The one pool of threads that all CPU kernels share. A parallel loop hands out
// task indices; which thread runs a task never changes what it computes.
#ifndef TREELINE_KERNELS_CPU_THREAD_POOL_H_
#define TREELINE_KERNELS_CPU_THREAD_POOL_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace treeline {

class ThreadPool {
 public:
  // num_threads counts the caller: 1 starts no thread. Where the system grants fewer, there are
  // fewer.
  explicit ThreadPool(int32_t num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int32_t num_threads() const { return static_cast<int32_t>(workers_.size()) + 1; }

  // Calls task(index, thread) for every index in [0, num_tasks), each once, and returns when
  // all are done; thread is in [0, num_threads()). One call at a time; tasks must not call it.
  void ParallelFor(int64_t num_tasks, const std::function<void(int64_t, int32_t)>& task);

 private:
  void WorkerLoop(int32_t thread);
  void RunTasks(int32_t thread);

  std::vector<std::thread> workers_;

  // The loop in progress. A worker counts itself into active_workers_ before it looks at open_;
  // the caller closes the loop before it waits for active_workers_ to reach zero. So task_ and
  // num_tasks_ change only while no worker reads them, and the caller never waits for a
  // worker that has not yet woken.
  std::atomic<bool> open_{false};
  std::atomic<int32_t> active_workers_{0};
  std::atomic<int64_t> next_task_{0};
  const std::function<void(int64_t, int32_t)>* task_ = nullptr;
  int64_t num_tasks_ = 0;

  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};  // Counts loops; changed under mutex_.
  bool stopping_ = false;                // Guarded by mutex_.
};

}  // namespace treeline

#endif  // TREELINE_KERNELS_CPU_THREAD_POOL_H_
