// An HTTP/1.1 server for APIs: exact routes, JSON errors, bearer keys, request ids, trace
// contexts, TLS, and limits on everything a client can make it hold. Built on cpp-httplib's parser;
// knows nothing of what the routes mean. A thread answers each request; requests beyond
// the cap are answered with 429, except on routes for probes. Connections without a
// request cost no thread (server/connection_poller.h).
#ifndef TREELINE_SERVER_HTTP_SERVER_H_
#define TREELINE_SERVER_HTTP_SERVER_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/base/clock.h"
#include "engine/base/json.h"
#include "engine/base/status.h"
#include "server/api_keys.h"
#include "server/http_connection.h"
#include "server/tls.h"
#include "server/trace_context.h"

namespace treeline {

// One request, and the answer being made for it. Handlers run on the connection's thread.
class HttpExchange {
 public:
  // Sends a part of a streamed body at once; false where the client has gone.
  using Writer = std::function<bool(const std::string&)>;
  using Body = std::function<void(const Writer&)>;

  struct Request {
    std::string method;
    std::string path;
    std::string body;
    std::string id;      // The client's x-request-id, or one made here.
    std::string accept;  // What it would like to be answered with; may be empty.
    ApiKey key;          // Whose it is; without a name where no keys are asked for.
    TimePoint arrival;
  };
  struct Response {
    int status = 200;
    std::string content_type = "application/json";
    std::vector<std::pair<std::string, std::string>> headers;
    std::string body;
    Body stream;  // Where set, makes the body instead.
  };

  HttpExchange(Request request, std::function<bool()> client_gone)
      : request_(std::move(request)), client_gone_(std::move(client_gone)) {}

  const Request& request() const { return request_; }
  // True also after HttpServer::Abort.
  bool ClientGone() const { return client_gone_(); }

  void Reply(const Json& json);
  void ReplyText(const std::string& text, const std::string& content_type);
  void ReplyError(const Status& status);
  // `body` runs after this handler has returned.
  void ReplyStream(const std::string& content_type, Body body);
  // Nobody reads an answer: the log and the metrics say 499.
  void Abandon() { response_.status = 499; }

  // What else the log tells of the request, by name; numbers.
  void SetNotes(OrderedJson notes) { notes_ = std::move(notes); }

  const Response& response() const { return response_; }
  const OrderedJson& notes() const { return notes_; }

 private:
  const Request request_;
  const std::function<bool()> client_gone_;
  Response response_;
  OrderedJson notes_ = OrderedJson::object();
};

class HttpServer {
 public:
  using Handler = std::function<void(HttpExchange&)>;

  // What became of a request.
  struct Record {
    std::string method;
    std::string route;  // "/v1/models/" for all below it; "unknown" where none fits.
    int status = 0;     // 499: the client left before the answer.
    std::string id;
    TraceContext trace;
    Duration duration{};
    OrderedJson notes = OrderedJson::object();
  };

  struct Options {
    std::string host = "127.0.0.1";
    int port = 0;  // 0: any free one.
    // Requests answered at once. Somewhat more connections may be open; when all are, those
    // that have waited longest for a request are closed for new ones.
    int32_t max_connections = 1024;
    HttpLimits limits;
    const ApiKeys* api_keys = nullptr;               // Null: everybody may ask.
    const TlsContext* tls = nullptr;                 // Null: plain HTTP.
    std::function<void(const Record&)> on_response;  // Any thread.
    // Why a request to an API route was refused here: "unauthorized", "too_many_connections",
    // "too_large", "too_slow", "malformed". Any thread.
    std::function<void(std::string_view)> on_refused;
  };

  enum class RouteKind {
    kApi,    // Needs a key where keys are asked for; refused beyond the cap.
    kProbe,  // Always answered.
  };

  explicit HttpServer(Options options);
  ~HttpServer();  // Abort and Stop.

  // REQUIRES: before Start. A path that ends in '/' stands for all paths below it ("/" for itself).
  void Route(const std::string& method, const std::string& path, RouteKind kind, Handler handler);

  // Listens and serves. UNAVAILABLE where the address cannot be bound; INVALID_ARGUMENT where
  // the system does not grant as many open files as connections.
  Status Start();
  int port() const;
  // Closes the listening socket and idle connections, lets running handlers finish and their
  // answers go out, and returns when every thread has ended. Idempotent.
  void Stop();
  // Tells running handlers that their client has gone: before Stop, where it must not wait.
  void Abort();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace treeline

#endif  // TREELINE_SERVER_HTTP_SERVER_H_
