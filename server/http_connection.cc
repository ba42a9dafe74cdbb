#include "server/http_connection.h"

#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

namespace treeline {

namespace {

using std::chrono::milliseconds;

// How long, and for how much, a connection that ends is still read.
constexpr milliseconds kFinishTimeout{2000};
constexpr int64_t kFinishBytes = 16 << 20;
constexpr int kFinishReads = 16;  // At a time.
// What the kernel holds for a client that does not read (it doubles the figure): without a bound
// it would be megabytes, and a slow reader would be noticed late.
constexpr int kSendBufferBytes = 128 << 10;

void SetOption(int fd, int level, int option, int value) {
  setsockopt(fd, level, option, &value, sizeof(value));
}

TimePoint Now() { return Clock::Real().Now(); }

// Waits for any of the polled events; retries where a signal interrupts.
int Poll(pollfd* polled, int count, TimePoint deadline) {
  for (;;) {
    const auto left = std::chrono::ceil<milliseconds>(deadline - Now());
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

HttpConnection::HttpConnection(std::unique_ptr<Transport> transport, const HttpLimits& limits,
                               int stop_fd)
    : transport_(std::move(transport)),
      limits_(limits),
      stop_fd_(stop_fd),
      patience_(limits.write_timeout) {
  const int fd = transport_->fd();
  SetOption(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  SetOption(fd, SOL_SOCKET, SO_SNDBUF, kSendBufferBytes);
  // A peer that vanished without a word is noticed within about a minute.
  SetOption(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  SetOption(fd, IPPROTO_TCP, TCP_KEEPIDLE, 30);
  SetOption(fd, IPPROTO_TCP, TCP_KEEPINTVL, 10);
  SetOption(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
  deadline_ = Now() + limits_.idle_timeout;
}

void HttpConnection::BeginWaiting(TimePoint now) {
  received_.erase(0, taken_);
  received_.shrink_to_fit();  // Idle connections cost little.
  taken_ = 0;
  searched_ = 0;
  answered_ = true;
  mid_request_ = false;
  skipped_line_ = false;
  deadline_ = now + limits_.idle_timeout;
}

bool HttpConnection::HeadComplete() {
  // Old clients end a body with an empty line of their own.
  if (!skipped_line_ && received_.starts_with("\r\n")) {
    received_.erase(0, 2);
    skipped_line_ = true;
  }
  const size_t end = received_.find("\n\r\n", searched_);
  searched_ = std::max<size_t>(received_.size(), 2) - 2;
  return end != std::string::npos;
}

HttpConnection::Head HttpConnection::ReceiveHead(TimePoint now) {
  for (;;) {
    const bool complete = HeadComplete();
    if (!mid_request_ && !received_.empty()) {
      mid_request_ = true;
      deadline_ = now + limits_.header_timeout;
      budget_ = limits_.max_header_bytes;
      over_budget_ = Fault::kHeaderTooLarge;
    }
    if (complete || received_.size() >= static_cast<size_t>(limits_.max_header_bytes)) {
      return Head::kReady;
    }
    const ssize_t received = Receive();
    wants_write_ = received == Transport::kWantWrite;
    if (wants_write_ || received == Transport::kWantRead) return Head::kIncomplete;
    if (received <= 0) return Head::kEnded;
  }
}

void HttpConnection::BeginFinishing(TimePoint now) {
  transport_->EndWriting();
  finishing_ = true;
  finish_budget_ = kFinishBytes;
  deadline_ = now + kFinishTimeout;
}

bool HttpConnection::ContinueFinishing() {
  // Not all there is: others wait for their turn.
  for (int i = 0; i < kFinishReads; ++i) {
    received_.clear();
    taken_ = 0;
    const ssize_t received = Receive();
    if (received == Transport::kWantRead || received == Transport::kWantWrite) return true;
    finish_budget_ -= received;
    if (received <= 0 || finish_budget_ < 0) return false;
  }
  return true;
}

void HttpConnection::BeginBody() {
  // Framing of chunks costs bytes too; what they hold is counted where it is decoded.
  constexpr int64_t kFraming = 64 << 10;
  budget_ = 2 * limits_.max_body_bytes + kFraming;
  over_budget_ = Fault::kBodyTooLarge;
  deadline_ = Now() + limits_.body_timeout;
}

bool HttpConnection::WaitFor(short events, TimePoint deadline) const {
  pollfd polled = {transport_->fd(), events, 0};
  return Poll(&polled, 1, deadline) > 0;
}

bool HttpConnection::WaitForInput(TimePoint deadline) const {
  pollfd polled[] = {{transport_->fd(), POLLIN, 0}, {stop_fd_, POLLIN, 0}};
  return Poll(polled, 2, deadline) > 0 && polled[1].revents == 0;
}

bool HttpConnection::ClientGone() const {
  pollfd polled = {transport_->fd(), POLLRDHUP, 0};
  return poll(&polled, 1, 0) > 0 && (polled.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

ssize_t HttpConnection::Fail(Fault fault) {
  fault_ = fault;
  return fault == Fault::kClosed ? 0 : -1;
}

ssize_t HttpConnection::Receive() {
  std::array<char, 16384> bytes;
  const ssize_t received = transport_->Read(bytes.data(), bytes.size());
  if (received > 0) received_.append(bytes.data(), static_cast<size_t>(received));
  return received;
}

ssize_t HttpConnection::Fill() {
  received_.clear();
  taken_ = 0;
  for (;;) {
    // A trickle that always has a byte ready must not outlive the deadline either.
    if (Now() > deadline_) return Fail(Fault::kTimeout);
    // TLS may hold bytes that the socket no longer shows, so it is asked first.
    const ssize_t received = Receive();
    if (received > 0) return received;
    if (received == 0 || received == Transport::kBroken) return Fail(Fault::kClosed);
    const bool ready =
        received == Transport::kWantWrite ? WaitFor(POLLOUT, deadline_) : WaitForInput(deadline_);
    if (!ready) return Fail(Fault::kTimeout);
  }
}

ssize_t HttpConnection::read(char* data, size_t size) {
  if (fault_ != Fault::kNone) return Fail(fault_);
  if (budget_ == 0) return Fail(over_budget_);
  if (buffered() == 0) {
    const ssize_t received = Fill();
    if (received <= 0) return received;
  }
  const size_t count = std::min({size, buffered(), static_cast<size_t>(budget_)});
  std::memcpy(data, received_.data() + taken_, count);
  taken_ += count;
  budget_ -= static_cast<int64_t>(count);
  return static_cast<ssize_t>(count);
}

bool HttpConnection::WaitToWrite(short events, TimePoint deadline) {
  pollfd polled[] = {{transport_->fd(), events, 0}, {stop_fd_, POLLIN, 0}};
  if (!last_write_deadline_) {
    const int ready = Poll(polled, 2, deadline);
    if (ready <= 0 || polled[1].revents == 0) return ready > 0;
    // One deadline for all that is left, however slowly the client takes it.
    last_write_deadline_ = Now() + kFinishTimeout;
  }
  return WaitFor(events, std::min(deadline, *last_write_deadline_));
}

ssize_t HttpConnection::write(const char* data, size_t size) {
  if (write_failed_) return -1;
  const TimePoint start = Now();
  for (;;) {
    const ssize_t sent = transport_->Write(data, size);
    if (sent >= 0) {
      patience_.Account(sent, Now() - start);
      return sent;
    }
    const short events = sent == Transport::kWantRead ? POLLIN : POLLOUT;
    if (sent == Transport::kBroken || !WaitToWrite(events, start + patience_.left())) break;
  }
  write_failed_ = true;
  return -1;
}

void HttpConnection::get_remote_ip_and_port(std::string& ip, int& port) const {
  AddressOf(transport_->fd(), getpeername, &ip, &port);
}

void HttpConnection::get_local_ip_and_port(std::string& ip, int& port) const {
  AddressOf(transport_->fd(), getsockname, &ip, &port);
}

}  // namespace treeline
