#include "server/http_server.h"

#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <utility>

#include "server/connection_poller.h"
#include "server/connection_threads.h"
#include "server/request_id.h"
#include "server/status_codes.h"

namespace treeline {

namespace {

// Beyond the cap: threads that answer probes and say 429 to others, connections for them.
constexpr int32_t kReserveThreads = 16;
constexpr int32_t kReserveConnections = 128;
// What the process opens besides connections: the log, files of the model, epoll.
constexpr int32_t kOtherFiles = 64;
constexpr char kUnknownRoute[] = "unknown";

// Raises the soft limit on open files, which is often 1024, as far as the system lets it.
Status AllowFiles(int64_t count) {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_cur < static_cast<rlim_t>(count)) {
    limit.rlim_cur = std::min(limit.rlim_max, static_cast<rlim_t>(count));
    setrlimit(RLIMIT_NOFILE, &limit);
  }
  if (limit.rlim_cur >= static_cast<rlim_t>(count)) return OkStatus();
  return InvalidArgument(
      "max_connections needs {} open files, but this process may have only {}; lower it, or raise "
      "`ulimit -n`",
      count, limit.rlim_cur);
}

// Why a request's framing is not accepted: an HTTP status and a reason. What is ambiguous
// here is how requests are smuggled past proxies.
struct Refusal {
  int status;
  std::string reason;
};

std::string_view RefusalReason(int status) {
  switch (status) {
    case 401:
      return "unauthorized";
    case 408:
      return "too_slow";
    case 413:
      return "too_large";
    case 429:
      return "too_many_connections";
    default:
      return "malformed";
  }
}

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
    response_.headers.emplace_back("Retry-After", std::to_string(RetryAfterSeconds(status)));
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
  int port() const { return poller_.port(); }

 private:
  struct RouteEntry {
    std::string method;
    std::string path;
    RouteKind kind;
    Handler handler;

    bool Matches(const std::string& asked) const {
      const bool is_prefix = path.size() > 1 && path.back() == '/';
      return is_prefix ? asked.size() > path.size() && asked.starts_with(path) : asked == path;
    }
  };

  // What one connection's thread knows of the request in hand.
  struct Session {
    HttpConnection* connection;
    bool over_capacity;
    bool close = false;  // The connection ends after this answer.
    const RouteEntry* route = nullptr;
    ApiKey key{};
    bool refused = false;  // Here, not by a handler.
    std::shared_ptr<HttpExchange> exchange = nullptr;
    TimePoint arrival{};
    Record record{};
  };

  using Connection = ConnectionPoller::Connection;

  // httplib's own way to serve, which is not used: nothing listens there.
  bool process_and_close_socket(socket_t) override { return false; }
  void Serve(Connection connection);
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
  std::optional<Refusal> CheckAccess(const httplib::Request& request);
  void Refuse(const Refusal& refusal, httplib::Response* response);
  void Handle(const httplib::Request& request, std::string body, httplib::Response* response);
  void SendStream(httplib::Response* response);

  const HttpServer::Options options_;
  std::vector<RouteEntry> routes_;
  const int stop_fd_;  // Readable once the server stops.
  std::atomic<bool> stopping_{false};
  std::atomic<bool> aborting_{false};
  std::atomic<int32_t> answering_{0};  // Requests.
  bool started_ = false;
  ConnectionPoller poller_;
  ConnectionThreads threads_;
  // httplib passes requests, not connections; each thread serves one connection at a time.
  static thread_local Session* session_;
};

thread_local HttpServer::Impl::Session* HttpServer::Impl::session_ = nullptr;

HttpServer::Impl::Impl(HttpServer::Options options)
    : options_(std::move(options)),
      stop_fd_(eventfd(0, EFD_CLOEXEC)),
      poller_({.host = options_.host,
               .port = options_.port,
               .max_open = options_.max_connections + kReserveConnections,
               .tls = options_.tls},
              options_.limits, stop_fd_),
      threads_(options_.max_connections + kReserveThreads,
               [this](Connection connection) { Serve(std::move(connection)); }) {
  TREELINE_CHECK(stop_fd_ >= 0);
  // What httplib tells clients of a connection's life; the poller decides it.
  set_keep_alive_timeout(
      std::chrono::ceil<std::chrono::seconds>(options_.limits.idle_timeout).count());
  set_keep_alive_max_count(1'000'000);
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
  TREELINE_RETURN_IF_ERROR(
      AllowFiles(int64_t{options_.max_connections} + kReserveConnections + kOtherFiles));
  TREELINE_RETURN_IF_ERROR(poller_.Listen());
  svr_sock_ = poller_.listening_fd();  // httplib cuts streams short where it has none.
  poller_.Start([this](Connection connection) { threads_.Serve(std::move(connection)); });
  started_ = true;
  return OkStatus();
}

void HttpServer::Impl::Stop() {
  if (stopping_.exchange(true) || !started_) return;
  const uint64_t one = 1;
  TREELINE_CHECK(::write(stop_fd_, &one, sizeof(one)) == sizeof(one));
  poller_.AwaitStop();
  threads_.Join();
  poller_.Join();
}

void HttpServer::Impl::Serve(Connection connection) {
  const bool over_capacity = ++answering_ > options_.max_connections;
  bool goes_on = false;
  try {
    goes_on = ServeOne(connection.get(), over_capacity);
  } catch (const std::exception& error) {  // Out of memory, at most: this connection ends.
    spdlog::error("a connection was dropped: {}", error.what());
  }
  --answering_;
  if (aborting_) {
    connection.reset();
    poller_.Forget();
  } else if (goes_on) {
    poller_.Wait(std::move(connection));
  } else {
    poller_.Finish(std::move(connection));
  }
}

bool HttpServer::Impl::ServeOne(HttpConnection* connection, bool over_capacity) {
  Session session{.connection = connection, .over_capacity = over_capacity};
  session.arrival = Clock::Real().Now();
  session.record.route = kUnknownRoute;
  session.record.id = RequestId("");  // Until the client's own are known.
  session.record.trace = StartSpan("");
  session_ = &session;
  bool client_closes = false;
  const bool answered =
      process_request(*connection, /*close_connection=*/over_capacity, client_closes,
                      [&](httplib::Request&) { connection->BeginBody(); });
  session_ = nullptr;
  if (session.record.status == 0) AnswerSilence(&session);
  if (session.refused && session.route != nullptr && session.route->kind == RouteKind::kApi &&
      options_.on_refused) {
    options_.on_refused(RefusalReason(session.record.status));
  }
  if (session.record.status != 0) {
    if (session.exchange != nullptr) session.record.notes = session.exchange->notes();
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

std::optional<Refusal> HttpServer::Impl::CheckAccess(const httplib::Request& request) {
  if (session_->route->kind == RouteKind::kProbe) return std::nullopt;
  if (options_.api_keys != nullptr) {
    constexpr std::string_view kScheme = "Bearer ";
    const std::string given = request.get_header_value("Authorization");
    std::optional<ApiKey> key;
    if (given.starts_with(kScheme)) key = options_.api_keys->Find(given.substr(kScheme.size()));
    if (!key) return Refusal{401, "a valid API key is needed: Authorization: Bearer KEY"};
    session_->key = *std::move(key);
  }
  if (session_->over_capacity) return Refusal{429, "too many requests at once; try again later"};
  return std::nullopt;
}

void HttpServer::Impl::Refuse(const Refusal& refusal, httplib::Response* response) {
  response->status = refusal.status;
  response->body = Dump(ErrorBody(refusal.status, refusal.reason));
  response->set_header("Content-Type", "application/json");
  session_->refused = true;
  if (refusal.status == 429) response->set_header("Retry-After", "1");
  if (refusal.status == 401) response->set_header("WWW-Authenticate", "Bearer");
}

// Decides everything that needs no body, before a body is read.
httplib::Server::HandlerResponse HttpServer::Impl::BeforeRouting(const httplib::Request& request,
                                                                 httplib::Response& response) {
  session_->record.method = request.method;
  // httplib decodes percent-escapes in headers, so it may hold line breaks.
  session_->record.id = RequestId(request.get_header_value("x-request-id"));
  session_->record.trace = StartSpan(request.get_header_value("traceparent"));
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
  HttpExchange::Request exchange_request{.method = request.method,
                                         .path = request.path,
                                         .body = std::move(body),
                                         .id = session_->record.id,
                                         .accept = request.get_header_value("Accept"),
                                         .key = session_->key,
                                         .arrival = session_->arrival};
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
  response.set_header("x-request-id", session_->record.id);
  response.set_header("traceparent", session_->record.trace.Header());
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
