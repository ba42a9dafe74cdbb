#include "kernels/cpu/thread_pool.h"

#include <system_error>

namespace treeline {
namespace {

// Loops follow each other within microseconds during a step, so a waiting thread first
// spins for about that long before it sleeps (or, for the caller, yields).
constexpr int kSpins = 4000;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int32_t num_threads) {
  try {
    for (int32_t i = 1; i < num_threads; ++i) {
      workers_.emplace_back([this, i] { WorkerLoop(i); });
    }
  } catch (const std::system_error&) {
    // The system grants no more threads; the ones there are do the work.
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::ParallelFor(int64_t num_tasks, const std::function<void(int64_t, int32_t)>& task) {
  if (workers_.empty() || num_tasks <= 1) {
    for (int64_t i = 0; i < num_tasks; ++i) task(i, 0);
    return;
  }
  task_ = &task;
  num_tasks_ = num_tasks;
  next_task_.store(0);
  open_.store(true);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    generation_.fetch_add(1);
  }
  wake_.notify_all();
  RunTasks(0);
  open_.store(false);
  for (int spins = 0; active_workers_.load() != 0; ++spins) {
    if (spins < kSpins) {
      Pause();
    } else {
      std::this_thread::yield();
    }
  }
}

void ThreadPool::RunTasks(int32_t thread) {
  for (;;) {
    const int64_t index = next_task_.fetch_add(1, std::memory_order_relaxed);
    if (index >= num_tasks_) return;
    (*task_)(index, thread);
  }
}

void ThreadPool::WorkerLoop(int32_t thread) {
  uint64_t seen = 0;
  for (;;) {
    for (int spins = 0; spins < kSpins && generation_.load() == seen; ++spins) Pause();
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return generation_.load() != seen || stopping_; });
      if (stopping_) return;
      seen = generation_.load();
    }
    active_workers_.fetch_add(1);
    if (open_.load()) RunTasks(thread);
    active_workers_.fetch_sub(1);
  }
}

}  // namespace treeline
