#include "server/connection_poller.h"

#include <netdb.h>
#include <netinet/in.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <tuple>
#include <utility>

namespace treeline {

namespace {

constexpr int kListenBacklog = 1024;
// How often deadlines are looked at.
constexpr std::chrono::milliseconds kTick{50};

TimePoint Now() { return Clock::Real().Now(); }

void Add(int epoll_fd, int fd, uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

// A socket that listens at an address; -1 with errno where it cannot.
int ListenAt(const addrinfo& address) {
  const int fd = socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  // No SO_REUSEPORT: two servers would share a port without noticing.
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(fd, address.ai_addr, address.ai_addrlen) == 0 && listen(fd, kListenBacklog) == 0) {
    return fd;
  }
  const int error = errno;
  close(fd);
  errno = error;
  return -1;
}

int PortOf(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
  if (address.ss_family == AF_INET6) {
    return ntohs(reinterpret_cast<const sockaddr_in6&>(address).sin6_port);
  }
  return ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

}  // namespace

ConnectionPoller::ConnectionPoller(Options options, const HttpLimits& limits, int stop_fd)
    : options_(std::move(options)),
      limits_(limits),
      stop_fd_(stop_fd),
      epoll_fd_(epoll_create1(EPOLL_CLOEXEC)),
      wake_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  TREELINE_CHECK(epoll_fd_ >= 0 && wake_fd_ >= 0);
}

ConnectionPoller::~ConnectionPoller() {
  Join();
  if (listening_fd_ >= 0) close(listening_fd_);
  close(wake_fd_);
  close(epoll_fd_);
}

Status ConnectionPoller::Listen() {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int error =
      getaddrinfo(options_.host.c_str(), std::to_string(options_.port).c_str(), &hints, &found);
  std::string reason = error != 0 ? gai_strerror(error) : "no such address";
  for (const addrinfo* at = found; at != nullptr && listening_fd_ < 0; at = at->ai_next) {
    listening_fd_ = ListenAt(*at);
    if (listening_fd_ < 0) reason = std::strerror(errno);
  }
  if (found != nullptr) freeaddrinfo(found);
  if (listening_fd_ < 0) {
    return MakeStatus(StatusCode::kUnavailable, "cannot listen on {} port {}: {}", options_.host,
                      options_.port, reason);
  }
  port_ = PortOf(listening_fd_);
  return OkStatus();
}

void ConnectionPoller::Start(std::function<void(Connection)> on_request) {
  on_request_ = std::move(on_request);
  Add(epoll_fd_, wake_fd_, EPOLLIN);
  Add(epoll_fd_, stop_fd_, EPOLLIN);
  thread_ = std::thread([this] { Run(); });
}

void ConnectionPoller::AwaitStop() { stop_seen_.get_future().wait(); }

void ConnectionPoller::Join() {
  if (!thread_.joinable()) return;
  none_returns_ = true;
  Wake();
  thread_.join();
}

void ConnectionPoller::Wake() {
  const uint64_t one = 1;
  // A counter that is full is readable too.
  std::ignore = ::write(wake_fd_, &one, sizeof(one));
}

void ConnectionPoller::Wait(Connection connection) {
  connection->BeginWaiting(Now());
  {
    std::lock_guard<std::mutex> lock(mutex_);
    returned_.push_back(std::move(connection));
  }
  Wake();
}

void ConnectionPoller::Finish(Connection connection) {
  connection->BeginFinishing(Now());
  {
    std::lock_guard<std::mutex> lock(mutex_);
    returned_.push_back(std::move(connection));
  }
  Wake();
}

void ConnectionPoller::Forget() {
  --open_;
  Wake();
}

void ConnectionPoller::Run() {
  while (true) {
    if (!stopping_ && accepting_ != (open_ < options_.max_open || !waiting_.empty())) {
      accepting_ = !accepting_;
      if (accepting_) {
        Add(epoll_fd_, listening_fd_, EPOLLIN);
      } else {
        epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, listening_fd_, nullptr);
      }
    }
    const bool last_round = none_returns_;  // Read before what was returned is taken.
    try {
      Poll(static_cast<int>(kTick.count()));
      TakeReturned();
      Sweep(Now());
    } catch (const std::exception& error) {  // Out of memory or threads: the others live on.
      spdlog::error("a connection was dropped: {}", error.what());
    }
    if (stopping_ && last_round && waiting_.empty()) return;
  }
}

void ConnectionPoller::Poll(int timeout_ms) {
  std::array<epoll_event, 128> events;
  const int count =
      epoll_wait(epoll_fd_, events.data(), static_cast<int>(events.size()), timeout_ms);
  for (int i = 0; i < count; ++i) {
    const int fd = events[i].data.fd;
    if (fd == wake_fd_) {
      uint64_t value;
      std::ignore = ::read(wake_fd_, &value, sizeof(value));
    } else if (fd == stop_fd_) {
      BeginStop();
    } else if (fd == listening_fd_) {
      Accept();
    } else {
      Progress(fd);
    }
  }
}

void ConnectionPoller::BeginStop() {
  stopping_ = true;
  epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, stop_fd_, nullptr);
  close(std::exchange(listening_fd_, -1));
  std::erase_if(waiting_, [](const auto& entry) { return !entry.second->finishing(); });
  stop_seen_.set_value();
}

void ConnectionPoller::Accept() {
  while (open_ < options_.max_open || EvictOne()) {
    const int fd = accept4(listening_fd_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
      // Out of files: whoever waits longest makes room, like at the cap.
      if ((errno == EMFILE || errno == ENFILE) && EvictOne()) continue;
      return;
    }
    auto transport =
        options_.tls != nullptr ? options_.tls->Accept(fd) : std::make_unique<Transport>(fd);
    if (transport == nullptr) continue;
    ++open_;
    auto connection = std::make_unique<HttpConnection>(std::move(transport), limits_, stop_fd_);
    waiting_[fd] = std::move(connection);
    Watch(*waiting_[fd]);
  }
}

bool ConnectionPoller::EvictOne() {
  // Connections that end go first, then idle ones, then those whose first request is not there
  // yet; of each the one whose time is up first.
  const auto rank = [](const HttpConnection& connection) {
    return std::tuple(!connection.finishing(), !connection.idle(), connection.deadline());
  };
  auto victim = waiting_.begin();
  for (auto at = waiting_.begin(); at != waiting_.end(); ++at) {
    if (rank(*at->second) < rank(*victim->second)) victim = at;
  }
  if (victim == waiting_.end()) return false;
  Close(victim->first);
  return true;
}

void ConnectionPoller::TakeReturned() {
  std::vector<Connection> returned;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    returned.swap(returned_);
  }
  for (Connection& connection : returned) {
    if (stopping_ && !connection->finishing()) {
      --open_;
      continue;
    }
    const int fd = connection->socket();
    waiting_[fd] = std::move(connection);
    Watch(*waiting_[fd]);
    Progress(fd);  // The next request may lie in a buffer already.
  }
}

void ConnectionPoller::Watch(const HttpConnection& connection) {
  Add(epoll_fd_, connection.socket(), EPOLLIN | EPOLLRDHUP);
}

ConnectionPoller::Connection ConnectionPoller::Remove(int fd) {
  epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, fd, nullptr);
  const auto found = waiting_.find(fd);
  Connection connection = std::move(found->second);
  waiting_.erase(found);
  return connection;
}

void ConnectionPoller::Close(int fd) {
  Remove(fd);
  --open_;
}

void ConnectionPoller::Progress(int fd) {
  const auto found = waiting_.find(fd);
  if (found == waiting_.end()) return;  // Evicted in this round.
  HttpConnection& connection = *found->second;
  if (connection.finishing()) {
    if (!connection.ContinueFinishing()) Close(fd);
    return;
  }
  switch (connection.ReceiveHead(Now())) {
    case HttpConnection::Head::kReady:
      return on_request_(Remove(fd));
    case HttpConnection::Head::kEnded:
      return Close(fd);
    case HttpConnection::Head::kIncomplete:
      break;
  }
  if (connection.wants_write()) {  // Rare: a handshake that meets a full socket.
    epoll_event event{};
    event.events = EPOLLIN | EPOLLRDHUP | EPOLLOUT;
    event.data.fd = fd;
    epoll_ctl(epoll_fd_, EPOLL_CTL_MOD, fd, &event);
  }
}

void ConnectionPoller::Sweep(TimePoint now) {
  if (now < next_sweep_) return;
  next_sweep_ = now + kTick;
  std::vector<int> late;
  for (const auto& [fd, connection] : waiting_) {
    if (connection->deadline() <= now) late.push_back(fd);
  }
  for (const int fd : late) {
    const HttpConnection& connection = *waiting_.at(fd);
    if (connection.mid_request() && !connection.finishing()) {
      on_request_(Remove(fd));  // Whoever answers finds the rest missing and says so.
    } else {
      Close(fd);
    }
  }
}

}  // namespace treeline
