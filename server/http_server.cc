#include "server/http_server.h"

#include <netinet/in.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <optional>
#include <random>
#include <thread>

#include "server/connection_threads.h"
#include "server/status_codes.h"

namespace treeline {

namespace {

// Threads beyond the connection cap: they answer probes and say 503 to others.
constexpr int32_t kReserveThreads = 16;
constexpr std::chrono::milliseconds kProbePatience{500};
constexpr int kListenBacklog = 1024;
constexpr char kRetryAfterSeconds[] = "1";
constexpr char kUnknownRoute[] = "unknown";
constexpr size_t kMaxRequestIdBytes = 128;

std::string MakeRequestId() {
  thread_local std::mt19937_64 generator{std::random_device{}()};
  return fmt::format("{:016x}{:016x}", generator(), generator());
}

// httplib decodes percent-escapes in headers, so an id may hold line breaks: echo only plain ones.
bool IsPlainId(const std::string& id) {
  return !id.empty() && id.size() <= kMaxRequestIdBytes &&
         std::all_of(id.begin(), id.end(), [](unsigned char c) {
           return std::isalnum(c) || c == '-' || c == '_' || c == '.';
         });
}

// The time does not tell how much of the key was right.
bool SameKey(const std::string& key, const std::string& given) {
  unsigned char different = key.size() != given.size();
  for (size_t i = 0; i < given.size(); ++i) {
    different |= static_cast<unsigned char>(given[i] ^ key[i % std::max<size_t>(key.size(), 1)]);
  }
  return different == 0;
}

// Why a request's framing is not accepted: an HTTP status and a reason. What is ambiguous
// here is how requests are smuggled past proxies.
struct Refusal {
  int status;
  std::string reason;
};

std::optional<Refusal> CheckFraming(const httplib::Request& request) {
  const size_t lengths = request.get_header_value_count("Content-Length");
  const size_t codings = request.get_header_value_count("Transfer-Encoding");
  if (lengths + codings > 1) {
    return Refusal{400, "more than one of Content-Length and Transfer-Encoding"};
  }
  const std::string length = request.get_header_value("Content-Length");
  if (lengths > 0 && (length.empty() || length.size() > 18 ||
                      !std::all_of(length.begin(), length.end(),
                                   [](unsigned char c) { return std::isdigit(c); }))) {
    return Refusal{400, "Content-Length is not a number"};
  }
  if (codings > 0 && request.get_header_value("Transfer-Encoding") != "chunked") {
    return Refusal{501, "only the transfer encoding 'chunked' is supported"};
  }
  if (request.method != "POST") {
    if (codings > 0 || (lengths > 0 && length.find_first_not_of('0') != std::string::npos)) {
      return Refusal{400, "only POST requests may have a body"};
    }
    return std::nullopt;
  }
  if (lengths + codings == 0) return Refusal{411, "Content-Length is missing"};
  if (request.has_header("Content-Encoding")) {
    return Refusal{415, "compressed bodies are not supported; leave Content-Encoding out"};
  }
  if (request.is_multipart_form_data()) {
    return Refusal{415, "send the body as application/json"};
  }
  return std::nullopt;
}

}  // namespace

void HttpExchange::Reply(const Json& json) { response_.body = Dump(json); }

void HttpExchange::ReplyText(const std::string& text, const std::string& content_type) {
  response_.body = text;
  response_.content_type = content_type;
}

void HttpExchange::ReplyError(const Status& status) {
  response_.status = HttpStatus(status);
  response_.body = Dump(ErrorBody(status));
  if (response_.status == 429 || response_.status == 503) {
    response_.headers.emplace_back("Retry-After", kRetryAfterSeconds);
  }
}

void HttpExchange::ReplyStream(const std::string& content_type, Body body) {
  response_.content_type = content_type;
  response_.stream = std::move(body);
}

class HttpServer::Impl : public httplib::Server {
 public:
  using Handler = HttpServer::Handler;  // Not httplib's.

  explicit Impl(HttpServer::Options options);
  ~Impl() override;

  void Route(const std::string& method, const std::string& path, RouteKind kind, Handler handler) {
    routes_.push_back({method, path, kind, std::move(handler)});
  }
  Status Start();
  void Stop();
  void Abort() { aborting_ = true; }
  int port() const { return port_; }

 private:
  struct RouteEntry {
    std::string method;
    std::string path;
    RouteKind kind;
    Handler handler;

    bool Matches(const std::string& asked) const {
      return path.back() == '/' ? asked.size() > path.size() && asked.starts_with(path)
                                : asked == path;
    }
  };

  // What one connection's thread knows of the request in hand.
  struct Session {
    HttpConnection* connection;
    bool over_capacity;
    bool close = false;  // The connection ends after this answer.
    const RouteEntry* route = nullptr;
    std::shared_ptr<HttpExchange> exchange = nullptr;
    TimePoint arrival{};
    Record record{};
  };

  bool process_and_close_socket(socket_t fd) override;
  void Serve(HttpConnection* connection, bool over_capacity);
  // One request; false where the connection must end.
  bool ServeOne(HttpConnection* connection, bool over_capacity);
  // Answers what httplib gave up on without a word.
  void AnswerSilence(Session* session);

  // httplib's hooks, in the order they run.
  HandlerResponse BeforeRouting(const httplib::Request& request, httplib::Response& response);
  void HandleGet(const httplib::Request& request, httplib::Response& response);
  void HandlePost(const httplib::Request& request, httplib::Response& response,
                  const httplib::ContentReader& reader);
  HandlerResponse FillError(httplib::Response& response);
  void BeforeHeaders(httplib::Response& response);

  std::optional<Refusal> FindRoute(const std::string& method, const std::string& path);
  std::optional<Refusal> CheckAccess(const httplib::Request& request) const;
  void Refuse(const Refusal& refusal, httplib::Response* response);
  void Handle(const httplib::Request& request, std::string body, httplib::Response* response);
  void SendStream(httplib::Response* response);

  const HttpServer::Options options_;
  std::vector<RouteEntry> routes_;
  int port_ = 0;
  // Connections beyond the cap are there for probes, which are quick.
  HttpLimits over_capacity_limits_;
  int stop_fd_;  // Readable once the server stops.
  std::atomic<bool> stopping_{false};
  std::atomic<bool> aborting_{false};
  std::atomic<int32_t> connections_{0};
  std::thread listener_;
  // httplib passes requests, not connections; each thread serves one connection at a time.
  static thread_local Session* session_;
};

thread_local HttpServer::Impl::Session* HttpServer::Impl::session_ = nullptr;

HttpServer::Impl::Impl(HttpServer::Options options)
    : options_(std::move(options)),
      over_capacity_limits_(options_.limits),
      stop_fd_(eventfd(0, EFD_CLOEXEC)) {
  TREELINE_CHECK(stop_fd_ >= 0);
  over_capacity_limits_.header_timeout = std::min(options_.limits.header_timeout, kProbePatience);
  // What httplib tells clients of a connection's life; WaitForRequest decides it.
  set_keep_alive_timeout(
      std::chrono::ceil<std::chrono::seconds>(options_.limits.idle_timeout).count());
  set_keep_alive_max_count(1'000'000);
  const size_t threads = options_.max_connections + kReserveThreads;
  new_task_queue = [threads] { return new ConnectionThreads(threads); };
  // httplib would set SO_REUSEPORT: two servers would share a port without noticing.
  set_socket_options([](socket_t fd) {
    const int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  });
  set_payload_max_length(options_.limits.max_body_bytes);
  set_pre_routing_handler(
      [this](const httplib::Request& q, httplib::Response& r) { return BeforeRouting(q, r); });
  const auto get = [this](const httplib::Request& q, httplib::Response& r) { HandleGet(q, r); };
  Get(".*", get);
  Post(".*", [this](const httplib::Request& q, httplib::Response& r,
                    const httplib::ContentReader& reader) { HandlePost(q, r, reader); });
  set_error_handler(HandlerWithResponse(
      [this](const httplib::Request&, httplib::Response& r) { return FillError(r); }));
  set_exception_handler([](const httplib::Request&, httplib::Response& response,
                           std::exception_ptr) { response.status = 500; });
  set_post_routing_handler(
      [this](const httplib::Request&, httplib::Response& r) { BeforeHeaders(r); });
}

HttpServer::Impl::~Impl() {
  Abort();
  Stop();
  close(stop_fd_);
}

Status HttpServer::Impl::Start() {
  errno = 0;
  if (options_.port == 0) {
    port_ = bind_to_any_port(options_.host);
  } else {
    port_ = bind_to_port(options_.host, options_.port) ? options_.port : -1;
  }
  if (port_ <= 0) {
    return MakeStatus(StatusCode::kUnavailable, "cannot listen on {} port {}: {}", options_.host,
                      options_.port, errno != 0 ? std::strerror(errno) : "no such address");
  }
  ::listen(svr_sock_, kListenBacklog);  // httplib's own backlog of 5 drops bursts.
  listener_ = std::thread([this] { listen_after_bind(); });
  while (!is_running()) std::this_thread::yield();  // stop() before that would be lost.
  return OkStatus();
}

void HttpServer::Impl::Stop() {
  if (stopping_.exchange(true)) return;
  const uint64_t one = 1;
  TREELINE_CHECK(::write(stop_fd_, &one, sizeof(one)) == sizeof(one));
  if (!listener_.joinable()) return;
  stop();
  listener_.join();
}

bool HttpServer::Impl::process_and_close_socket(socket_t fd) {
  const bool over_capacity = ++connections_ > options_.max_connections;
  HttpConnection connection(fd, over_capacity ? over_capacity_limits_ : options_.limits, stop_fd_);
  try {
    Serve(&connection, over_capacity);
  } catch (const std::exception& error) {  // Out of memory, at most: this connection ends.
    spdlog::error("a connection was dropped: {}", error.what());
  }
  --connections_;
  return true;
}

void HttpServer::Impl::Serve(HttpConnection* connection, bool over_capacity) {
  while (!stopping_ && connection->WaitForRequest()) {
    if (!ServeOne(connection, over_capacity)) {
      if (!aborting_) connection->Finish();
      return;
    }
  }
}

bool HttpServer::Impl::ServeOne(HttpConnection* connection, bool over_capacity) {
  Session session{.connection = connection, .over_capacity = over_capacity};
  session.arrival = Clock::Real().Now();
  session.record.route = kUnknownRoute;
  session_ = &session;
  bool client_closes = false;
  const bool answered =
      process_request(*connection, /*close_connection=*/over_capacity, client_closes,
                      [&](httplib::Request&) { connection->BeginBody(); });
  session_ = nullptr;
  if (session.record.status == 0) AnswerSilence(&session);
  if (session.record.status != 0) {
    if (session.exchange != nullptr) session.record.note = session.exchange->note();
    session.record.duration = Clock::Real().Now() - session.arrival;
    if (options_.on_response) options_.on_response(session.record);
  }
  return answered && !client_closes && !over_capacity && !session.close &&
         connection->fault() == HttpConnection::Fault::kNone;
}

void HttpServer::Impl::AnswerSilence(Session* session) {
  HttpConnection* connection = session->connection;
  const bool too_large = connection->fault() == HttpConnection::Fault::kHeaderTooLarge;
  const bool too_slow =
      connection->fault() == HttpConnection::Fault::kTimeout && connection->mid_request();
  if (!too_large && !too_slow) return;
  session->record.status = too_large ? 431 : 408;
  const std::string body =
      Dump(ErrorBody(session->record.status,
                     too_large ? "the header is too large" : "the request came too slowly"));
  const std::string response = fmt::format(
      "HTTP/1.1 {}\r\nContent-Type: application/json\r\nConnection: close\r\n"
      "Content-Length: {}\r\n\r\n{}",
      too_large ? "431 Request Header Fields Too Large" : "408 Request Timeout", body.size(), body);
  connection->write(response.data(), response.size());
}

std::optional<Refusal> HttpServer::Impl::FindRoute(const std::string& asked_method,
                                                   const std::string& path) {
  const std::string method = asked_method == "HEAD" ? "GET" : asked_method;
  bool path_known = false;
  for (const RouteEntry& route : routes_) {
    if (!route.Matches(path)) continue;
    path_known = true;
    session_->record.route = route.path;
    if (route.method != method) continue;
    session_->route = &route;
    return std::nullopt;
  }
  if (path_known) return Refusal{405, fmt::format("{} does not take {}", path, asked_method)};
  return Refusal{404, fmt::format("there is nothing at {}", path)};
}

std::optional<Refusal> HttpServer::Impl::CheckAccess(const httplib::Request& request) const {
  if (session_->route->kind == RouteKind::kProbe) return std::nullopt;
  if (!options_.api_keys.empty()) {
    const std::string given = request.get_header_value("Authorization");
    bool known = false;
    for (const std::string& key : options_.api_keys) known |= SameKey("Bearer " + key, given);
    if (!known) return Refusal{401, "a valid API key is needed: Authorization: Bearer KEY"};
  }
  if (session_->over_capacity) {
    if (options_.on_over_capacity) options_.on_over_capacity();
    return Refusal{503, "too many connections; try again later"};
  }
  return std::nullopt;
}

void HttpServer::Impl::Refuse(const Refusal& refusal, httplib::Response* response) {
  response->status = refusal.status;
  response->body = Dump(ErrorBody(refusal.status, refusal.reason));
  response->set_header("Content-Type", "application/json");
  if (refusal.status == 503) response->set_header("Retry-After", kRetryAfterSeconds);
  if (refusal.status == 401) response->set_header("WWW-Authenticate", "Bearer");
}

// Decides everything that needs no body, before a body is read.
httplib::Server::HandlerResponse HttpServer::Impl::BeforeRouting(const httplib::Request& request,
                                                                 httplib::Response& response) {
  session_->record.method = request.method;
  const std::string id = request.get_header_value("x-request-id");
  session_->record.id = IsPlainId(id) ? id : MakeRequestId();
  std::optional<Refusal> refusal = CheckFraming(request);
  if (!refusal) refusal = FindRoute(request.method, request.path);
  if (!refusal) refusal = CheckAccess(request);
  if (!refusal) return HandlerResponse::Unhandled;
  // An unread body, or one of unknown length, would be taken for the next request.
  if (request.method == "POST" || refusal->status == 400) session_->close = true;
  Refuse(*refusal, &response);
  return HandlerResponse::Handled;
}

void HttpServer::Impl::HandleGet(const httplib::Request& request, httplib::Response& response) {
  Handle(request, "", &response);
}

void HttpServer::Impl::HandlePost(const httplib::Request& request, httplib::Response& response,
                                  const httplib::ContentReader& reader) {
  const auto max_bytes = static_cast<size_t>(options_.limits.max_body_bytes);
  std::string body;
  bool too_large = false;
  const bool complete = reader([&](const char* data, size_t size) {
    too_large = size > max_bytes - body.size();
    if (!too_large) body.append(data, size);
    return !too_large;
  });
  if (complete) return Handle(request, std::move(body), &response);
  session_->close = true;
  using Fault = HttpConnection::Fault;
  const Fault fault = session_->connection->fault();
  if (too_large || fault == Fault::kBodyTooLarge || response.status == 413) {
    Refuse({413, fmt::format("the body is larger than {} bytes", max_bytes)}, &response);
  } else if (fault == Fault::kTimeout) {
    Refuse({408, "the body came too slowly"}, &response);
  } else {
    Refuse({400, "the body is incomplete or not framed as its header says"}, &response);
  }
}

void HttpServer::Impl::Handle(const httplib::Request& request, std::string body,
                              httplib::Response* response) {
  HttpConnection* connection = session_->connection;
  HttpExchange::Request exchange_request{request.method, request.path, std::move(body),
                                         session_->record.id, session_->arrival};
  session_->exchange = std::make_shared<HttpExchange>(
      std::move(exchange_request),
      [this, connection] { return aborting_ || connection->ClientGone(); });
  session_->route->handler(*session_->exchange);

  const HttpExchange::Response& answer = session_->exchange->response();
  if (answer.status == 499) session_->close = true;
  response->status = answer.status;
  for (const auto& [name, value] : answer.headers) response->set_header(name, value);
  if (answer.stream) {
    SendStream(response);
  } else {
    response->set_content(answer.body, answer.content_type);
  }
}

void HttpServer::Impl::SendStream(httplib::Response* response) {
  // Runs once, on this thread, after the header has been sent.
  response->set_chunked_content_provider(
      session_->exchange->response().content_type, [](size_t, httplib::DataSink& sink) {
        bool writable = true;
        const HttpExchange::Writer writer = [&](const std::string& part) {
          writable =
              writable && !session_->exchange->ClientGone() && sink.write(part.data(), part.size());
          return writable;
        };
        session_->exchange->response().stream(writer);
        writable = writable && session_->exchange->response().status != 499;
        if (!writable) session_->record.status = 499;
        if (writable) sink.done();  // A cut answer must not look complete.
        return writable;
      });
}

// httplib found the request malformed, or nothing set a body: our form of error.
httplib::Server::HandlerResponse HttpServer::Impl::FillError(httplib::Response& response) {
  if (!response.body.empty()) return HandlerResponse::Unhandled;
  using Fault = HttpConnection::Fault;
  const Fault fault = session_->connection->fault();
  session_->close = true;
  Refusal refusal{response.status, "the request is malformed"};
  if (fault == Fault::kHeaderTooLarge) {
    refusal = {431, "the header is too large"};
  } else if (fault == Fault::kTimeout) {
    refusal = {408, "the request came too slowly"};
  } else if (response.status == 414) {
    refusal.reason = "the path is too long";
  } else if (response.status >= 500) {
    refusal.reason = "the server failed on this request";
  }
  Refuse(refusal, &response);
  return HandlerResponse::Handled;
}

void HttpServer::Impl::BeforeHeaders(httplib::Response& response) {
  session_->record.status = response.status;
  if (session_->record.id.empty()) session_->record.id = MakeRequestId();
  response.set_header("x-request-id", session_->record.id);
  if (session_->close) {
    response.headers.erase("Connection");
    response.headers.erase("Keep-Alive");
    response.set_header("Connection", "close");
  }
}

HttpServer::HttpServer(Options options) : impl_(std::make_unique<Impl>(std::move(options))) {}
HttpServer::~HttpServer() = default;

void HttpServer::Route(const std::string& method, const std::string& path, RouteKind kind,
                       Handler handler) {
  impl_->Route(method, path, kind, std::move(handler));
}

Status HttpServer::Start() { return impl_->Start(); }
int HttpServer::port() const { return impl_->port(); }
void HttpServer::Stop() { impl_->Stop(); }
void HttpServer::Abort() { impl_->Abort(); }

}  // namespace treeline
