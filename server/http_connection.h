// One client's socket, as cpp-httplib reads and writes it, within limits: bytes and
// time for a header and for a body, time for a write that makes no progress. Also tells
// whether the client is still there. Belongs to one thread.
#ifndef TREELINE_SERVER_HTTP_CONNECTION_H_
#define TREELINE_SERVER_HTTP_CONNECTION_H_

#include <httplib.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

namespace treeline {

struct HttpLimits {
  int64_t max_header_bytes = 64 << 10;
  int64_t max_body_bytes = 8 << 20;
  std::chrono::milliseconds header_timeout{10'000};  // Until a header is complete.
  std::chrono::milliseconds body_timeout{60'000};    // From there until its body is.
  std::chrono::milliseconds idle_timeout{75'000};    // Between requests.
  std::chrono::milliseconds write_timeout{30'000};   // Without a byte taken by the client.
};

class HttpConnection : public httplib::Stream {
 public:
  // What ended a read early.
  enum class Fault { kNone, kClosed, kTimeout, kHeaderTooLarge, kBodyTooLarge };

  // Takes the socket. `limits` outlives this. Once `stop_fd` is readable the server stops: what
  // the client has not sent by then is not waited for, and it has two seconds to take its answer.
  HttpConnection(int fd, const HttpLimits& limits, int stop_fd);
  ~HttpConnection() override;
  HttpConnection(const HttpConnection&) = delete;
  HttpConnection& operator=(const HttpConnection&) = delete;

  // Waits for a request's first byte; from then on the header's limits hold. False where none
  // came in time, the client left, or the server stops.
  bool WaitForRequest();
  // The header is complete: the body's limits hold.
  void BeginBody();

  Fault fault() const { return fault_; }
  // A part of the current request was read.
  bool mid_request() const { return taken_ > 0; }
  // The client closed its end, or the connection is dead.
  bool ClientGone() const;
  // Ends the connection such that the client still receives what was written, even if it is
  // in the middle of sending: closing with unread bytes would reset the connection.
  void Finish();

  // httplib::Stream. Errors are -1, an orderly end 0.
  bool is_readable() const override { return fault_ == Fault::kNone; }
  bool is_writable() const override { return !write_failed_ && !ClientGone(); }
  ssize_t read(char* data, size_t size) override;
  ssize_t write(const char* data, size_t size) override;
  void get_remote_ip_and_port(std::string& ip, int& port) const override;
  void get_local_ip_and_port(std::string& ip, int& port) const override;
  socket_t socket() const override { return fd_; }

 private:
  using Instant = std::chrono::steady_clock::time_point;

  void SetLimits(int64_t bytes, std::chrono::milliseconds timeout, Fault when_exceeded);
  // Waits until the socket is ready for `events`; false at the deadline.
  bool WaitFor(short events, Instant deadline) const;
  // Waits for a byte to read; false at the deadline, or where the server stops first.
  bool WaitForInput(Instant deadline) const;
  bool Stopping() const;
  ssize_t Fill();
  ssize_t Fail(Fault fault);

  const int fd_;
  const HttpLimits& limits_;
  const int stop_fd_;

  // Of the part of a request that is being read.
  int64_t budget_ = 0;
  Instant deadline_{};
  Fault over_budget_ = Fault::kHeaderTooLarge;
  int64_t taken_ = 0;  // Bytes of the current request that were read.
  bool first_request_ = true;

  Fault fault_ = Fault::kNone;
  bool write_failed_ = false;
  std::optional<Instant> last_write_deadline_;  // Set by the first write while the server stops.
  std::array<char, 16384> buffer_;
  size_t begin_ = 0;  // buffer_[begin_, end_) was received and not read yet.
  size_t end_ = 0;
};

}  // namespace treeline

#endif  // TREELINE_SERVER_HTTP_CONNECTION_H_
