#include "server/http_connection.h"

#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace treeline {

namespace {

using std::chrono::milliseconds;

// How long, and for how much, a connection that ends is still read.
constexpr milliseconds kFinishTimeout{2000};
constexpr int64_t kFinishBytes = 16 << 20;

void SetOption(int fd, int level, int option, int value) {
  setsockopt(fd, level, option, &value, sizeof(value));
}

// Waits for any of the polled events; retries where a signal interrupts.
int Poll(pollfd* polled, int count, std::chrono::steady_clock::time_point deadline) {
  for (;;) {
    const auto left = std::chrono::ceil<milliseconds>(deadline - std::chrono::steady_clock::now());
    const int ready = poll(polled, count, static_cast<int>(std::max<int64_t>(left.count(), 0)));
    if (ready >= 0 || errno != EINTR) return ready;
  }
}

void AddressOf(int fd, int (*get)(int, sockaddr*, socklen_t*), std::string* ip, int* port) {
  sockaddr_storage address;
  socklen_t size = sizeof(address);
  char host[NI_MAXHOST];
  char service[NI_MAXSERV];
  if (get(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return;
  if (getnameinfo(reinterpret_cast<sockaddr*>(&address), size, host, sizeof(host), service,
                  sizeof(service), NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return;
  }
  *ip = host;
  *port = std::atoi(service);
}

}  // namespace

HttpConnection::HttpConnection(int fd, const HttpLimits& limits, int stop_fd)
    : fd_(fd), limits_(limits), stop_fd_(stop_fd) {
  SetOption(fd_, IPPROTO_TCP, TCP_NODELAY, 1);
  // A peer that vanished without a word is noticed within about a minute.
  SetOption(fd_, SOL_SOCKET, SO_KEEPALIVE, 1);
  SetOption(fd_, IPPROTO_TCP, TCP_KEEPIDLE, 30);
  SetOption(fd_, IPPROTO_TCP, TCP_KEEPINTVL, 10);
  SetOption(fd_, IPPROTO_TCP, TCP_KEEPCNT, 3);
}

HttpConnection::~HttpConnection() { close(fd_); }

void HttpConnection::SetLimits(int64_t bytes, milliseconds timeout, Fault when_exceeded) {
  budget_ = bytes;
  deadline_ = std::chrono::steady_clock::now() + timeout;
  over_budget_ = when_exceeded;
}

bool HttpConnection::WaitForRequest() {
  // A new connection has come to ask something: it gets no idle time.
  const milliseconds patience = first_request_ ? limits_.header_timeout : limits_.idle_timeout;
  first_request_ = false;
  taken_ = 0;
  if (begin_ == end_ && !WaitForInput(std::chrono::steady_clock::now() + patience)) return false;
  SetLimits(limits_.max_header_bytes, limits_.header_timeout, Fault::kHeaderTooLarge);
  return true;
}

void HttpConnection::BeginBody() {
  // Framing of chunks costs bytes too; what they hold is counted where it is decoded.
  constexpr int64_t kFraming = 64 << 10;
  SetLimits(2 * limits_.max_body_bytes + kFraming, limits_.body_timeout, Fault::kBodyTooLarge);
}

bool HttpConnection::WaitFor(short events, Instant deadline) const {
  pollfd polled = {fd_, events, 0};
  return Poll(&polled, 1, deadline) > 0;
}

bool HttpConnection::WaitForInput(Instant deadline) const {
  pollfd polled[] = {{fd_, POLLIN, 0}, {stop_fd_, POLLIN, 0}};
  return Poll(polled, 2, deadline) > 0 && polled[1].revents == 0;
}

bool HttpConnection::Stopping() const {
  pollfd polled = {stop_fd_, POLLIN, 0};
  return poll(&polled, 1, 0) > 0;
}

bool HttpConnection::ClientGone() const {
  pollfd polled = {fd_, POLLRDHUP, 0};
  return poll(&polled, 1, 0) > 0 && (polled.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

void HttpConnection::Finish() {
  shutdown(fd_, SHUT_WR);
  const Instant deadline = std::chrono::steady_clock::now() + kFinishTimeout;
  for (int64_t total = 0; total < kFinishBytes && WaitFor(POLLIN, deadline);) {
    const ssize_t received = recv(fd_, buffer_.data(), buffer_.size(), MSG_DONTWAIT);
    if (received <= 0) return;
    total += received;
  }
}

ssize_t HttpConnection::Fail(Fault fault) {
  fault_ = fault;
  return fault == Fault::kClosed ? 0 : -1;
}

ssize_t HttpConnection::Fill() {
  // A trickle that always has a byte ready must not outlive the deadline either.
  const bool late = std::chrono::steady_clock::now() > deadline_;
  if (late || !WaitForInput(deadline_)) return Fail(Fault::kTimeout);
  const ssize_t received = recv(fd_, buffer_.data(), buffer_.size(), MSG_DONTWAIT);
  if (received <= 0) return Fail(Fault::kClosed);
  begin_ = 0;
  end_ = static_cast<size_t>(received);
  return received;
}

ssize_t HttpConnection::read(char* data, size_t size) {
  if (fault_ != Fault::kNone) return Fail(fault_);
  if (budget_ == 0) return Fail(over_budget_);
  if (begin_ == end_) {
    const ssize_t received = Fill();
    if (received <= 0) return received;
  }
  const size_t count = std::min({size, end_ - begin_, static_cast<size_t>(budget_)});
  std::memcpy(data, buffer_.data() + begin_, count);
  begin_ += count;
  budget_ -= static_cast<int64_t>(count);
  taken_ += static_cast<int64_t>(count);
  return static_cast<ssize_t>(count);
}

ssize_t HttpConnection::write(const char* data, size_t size) {
  if (write_failed_) return -1;
  Instant deadline = std::chrono::steady_clock::now() + limits_.write_timeout;
  if (Stopping()) {  // One deadline for all that is left, however slowly the client takes it.
    if (!last_write_deadline_) {
      last_write_deadline_ = std::chrono::steady_clock::now() + kFinishTimeout;
    }
    deadline = *last_write_deadline_;
  }
  while (WaitFor(POLLOUT, deadline)) {
    const ssize_t sent = send(fd_, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) return sent;
    if (errno != EAGAIN && errno != EINTR) break;
  }
  write_failed_ = true;
  return -1;
}

void HttpConnection::get_remote_ip_and_port(std::string& ip, int& port) const {
  AddressOf(fd_, getpeername, &ip, &port);
}

void HttpConnection::get_local_ip_and_port(std::string& ip, int& port) const {
  AddressOf(fd_, getsockname, &ip, &port);
}

}  // namespace treeline
