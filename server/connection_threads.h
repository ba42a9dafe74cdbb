// The threads that answer requests: made when one is needed, kept for the next. As many
// as may run at once at most; what comes beyond waits for one.
#ifndef TREELINE_SERVER_CONNECTION_THREADS_H_
#define TREELINE_SERVER_CONNECTION_THREADS_H_

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "server/http_connection.h"

namespace treeline {

class ConnectionThreads {
 public:
  using Connection = std::unique_ptr<HttpConnection>;

  // `serve` is called on any of the threads.
  ConnectionThreads(size_t max_threads, std::function<void(Connection)> serve)
      : max_threads_(max_threads), serve_(std::move(serve)) {}
  ~ConnectionThreads() { Join(); }

  // Any thread; never blocks.
  void Serve(Connection connection);
  // Returns when all connections have been served. Nothing may be added after.
  void Join();

 private:
  void Work();

  const size_t max_threads_;
  const std::function<void(Connection)> serve_;
  std::mutex mutex_;
  std::condition_variable changed_;
  // Protected by mutex_:
  std::deque<Connection> connections_;
  std::vector<std::thread> threads_;
  size_t busy_ = 0;  // Threads that serve.
  bool stopping_ = false;
};

}  // namespace treeline

#endif  // TREELINE_SERVER_CONNECTION_THREADS_H_
