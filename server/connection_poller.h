// Accepts clients and keeps their connections while they have no request to answer:
// new ones until a head is complete, idle ones between requests, ended ones until the client
// closes. One thread and epoll for all, so that silent, slow and idle clients cost a few
// hundred bytes each and no thread. When as many are open as may be, the one that has waited
// longest makes room for the next.
#ifndef TREELINE_SERVER_CONNECTION_POLLER_H_
#define TREELINE_SERVER_CONNECTION_POLLER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "engine/base/clock.h"
#include "engine/base/status.h"
#include "server/http_connection.h"
#include "server/tls.h"

namespace treeline {

class ConnectionPoller {
 public:
  using Connection = std::unique_ptr<HttpConnection>;

  struct Options {
    std::string host;
    int port = 0;                     // 0: any free one.
    int32_t max_open = 0;             // Connections, wherever they are.
    const TlsContext* tls = nullptr;  // Null: plain HTTP.
  };

  // `limits`, `stop_fd` and what `options` point to outlive this.
  ConnectionPoller(Options options, const HttpLimits& limits, int stop_fd);
  ~ConnectionPoller();

  // UNAVAILABLE where the address cannot be bound.
  Status Listen();
  int port() const { return port_; }
  int listening_fd() const { return listening_fd_; }

  // Starts the thread, which calls `on_request` with each connection that has a request.
  // REQUIRES: Listen was OK.
  void Start(std::function<void(Connection)> on_request);
  // Gives a connection back, to wait for its next request. Any thread.
  void Wait(Connection connection);
  // Ends a connection in an orderly way. Any thread.
  void Finish(Connection connection);
  // The connection was destroyed elsewhere. Any thread.
  void Forget();

  // Returns once `stop_fd`, which must be readable, was seen: no request is passed on any more.
  void AwaitStop();
  // After AwaitStop, when nobody will give a connection back: returns when those that end have
  // ended, two seconds later at most.
  void Join();

 private:
  void Run();
  void Poll(int timeout_ms);
  void Accept();
  bool EvictOne();
  void TakeReturned();
  void BeginStop();
  // Looks for what has come; the connection moves on where a request is ready or the client left.
  void Progress(int fd);
  // Now and then: closes, or lets answer, those whose time is up.
  void Sweep(TimePoint now);
  void Watch(const HttpConnection& connection);
  Connection Remove(int fd);
  void Close(int fd);
  void Wake();

  const Options options_;
  const HttpLimits& limits_;
  const int stop_fd_;
  const int epoll_fd_;
  const int wake_fd_;
  int listening_fd_ = -1;
  int port_ = 0;
  std::function<void(Connection)> on_request_;
  std::atomic<int32_t> open_{0};
  std::promise<void> stop_seen_;
  std::atomic<bool> none_returns_{false};

  // Touched by the thread only.
  std::unordered_map<int, Connection> waiting_;  // By socket.
  bool accepting_ = false;
  bool stopping_ = false;
  TimePoint next_sweep_{};

  std::mutex mutex_;
  std::vector<Connection> returned_;  // Protected by mutex_.

  std::thread thread_;
};

}  // namespace treeline

#endif  // TREELINE_SERVER_CONNECTION_POLLER_H_
