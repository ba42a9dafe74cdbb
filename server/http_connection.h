// One client's connection, within limits: bytes and time for a request's head and for
// its body, time for answers that the client does not take. While it waits for a head the
// poller owns it and no call blocks; from then on it is cpp-httplib's stream, on the thread
// that answers. Also tells whether the client is still there.
#ifndef TREELINE_SERVER_HTTP_CONNECTION_H_
#define TREELINE_SERVER_HTTP_CONNECTION_H_

#include <httplib.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "engine/base/clock.h"
#include "server/transport.h"
#include "server/write_patience.h"

namespace treeline {

struct HttpLimits {
  int64_t max_header_bytes = 32 << 10;
  int64_t max_body_bytes = 8 << 20;
  std::chrono::milliseconds header_timeout{10'000};  // From the first byte to a complete head.
  std::chrono::milliseconds body_timeout{60'000};    // From there until its body is.
  std::chrono::milliseconds idle_timeout{75'000};    // Before a request.
  // How long answers may wait for a client to read: see WritePatience.
  std::chrono::milliseconds write_timeout{30'000};
};

class HttpConnection : public httplib::Stream {
 public:
  // What ended a read early.
  enum class Fault { kNone, kClosed, kTimeout, kHeaderTooLarge, kBodyTooLarge };

  // `limits` outlives this. Once `stop_fd` is readable the server stops: what the client has not
  // sent by then is not waited for, and it has two seconds to take its answer.
  HttpConnection(std::unique_ptr<Transport> transport, const HttpLimits& limits, int stop_fd);
  HttpConnection(const HttpConnection&) = delete;
  HttpConnection& operator=(const HttpConnection&) = delete;

  // -- While it waits for a request. Nothing blocks.

  // Of the next request: forgets what is known of the one before.
  void BeginWaiting(TimePoint now);
  // kReady: a request can be answered, if only to say what is wrong with it: its head is complete
  // or too large. kEnded: the client has left.
  enum class Head { kIncomplete, kReady, kEnded };
  Head ReceiveHead(TimePoint now);
  bool wants_write() const { return wants_write_; }  // TLS, to go on.
  // A part of the current request was received.
  bool mid_request() const { return mid_request_; }
  bool idle() const { return answered_ && !mid_request_; }  // Between two requests.
  // Until when it may wait. Where a part of a request has come by then, it deserves an answer.
  TimePoint deadline() const { return deadline_; }

  // The end of a connection: says so, then reads on until the client closes too, since closing
  // with unread bytes would reset the connection and the client might lose its answer.
  void BeginFinishing(TimePoint now);
  // False once the client has closed, or sends without an end.
  bool ContinueFinishing();
  bool finishing() const { return finishing_; }

  // -- While a request is answered. Calls may block, within the limits.

  // The head was read: the body's limits hold.
  void BeginBody();

  Fault fault() const { return fault_; }
  // The client closed its end, or the connection is dead.
  bool ClientGone() const;

  // httplib::Stream. Errors are -1, an orderly end 0.
  bool is_readable() const override { return fault_ == Fault::kNone; }
  bool is_writable() const override { return !write_failed_ && !ClientGone(); }
  ssize_t read(char* data, size_t size) override;
  ssize_t write(const char* data, size_t size) override;
  void get_remote_ip_and_port(std::string& ip, int& port) const override;
  void get_local_ip_and_port(std::string& ip, int& port) const override;
  socket_t socket() const override { return transport_->fd(); }

 private:
  size_t buffered() const { return received_.size() - taken_; }
  bool HeadComplete();
  // Appends to received_. As Transport::Read.
  ssize_t Receive();
  // Waits until the socket is ready for `events`; false at the deadline.
  bool WaitFor(short events, TimePoint deadline) const;
  // Waits for a byte to read; false at the deadline, or where the server stops first.
  bool WaitForInput(TimePoint deadline) const;
  ssize_t Fill();
  ssize_t Fail(Fault fault);
  // As WaitFor, but cuts the time short once the server stops.
  bool WaitToWrite(short events, TimePoint deadline);

  const std::unique_ptr<Transport> transport_;
  const HttpLimits& limits_;
  const int stop_fd_;

  std::string received_;  // From taken_ on not read yet.
  size_t taken_ = 0;
  size_t searched_ = 0;  // The head does not end before here in received_.
  TimePoint deadline_{};
  bool answered_ = false;  // A request was.
  bool mid_request_ = false;
  bool skipped_line_ = false;  // Before this request.
  bool wants_write_ = false;
  bool finishing_ = false;
  int64_t finish_budget_ = 0;  // Bytes.

  // Of the part of a request that is being read.
  int64_t budget_ = 0;
  Fault over_budget_ = Fault::kHeaderTooLarge;

  Fault fault_ = Fault::kNone;
  bool write_failed_ = false;
  WritePatience patience_;
  std::optional<TimePoint> last_write_deadline_;  // Set by the first wait while the server stops.
};

}  // namespace treeline

#endif  // TREELINE_SERVER_HTTP_CONNECTION_H_
