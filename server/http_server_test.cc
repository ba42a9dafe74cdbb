#include "server/http_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <deque>
#include <fstream>
#include <mutex>
#include <thread>

#include "server/test_client.h"

namespace treeline {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

// Something that happened on another thread, to be waited for.
class Event {
 public:
  void Set() {
    std::lock_guard<std::mutex> lock(mutex_);
    set_ = true;
    changed_.notify_all();
  }
  bool Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, std::chrono::minutes(1), [&] { return set_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool set_ = false;
};

class HttpServerTest : public ::testing::Test {
 protected:
  HttpServer::Options Options() {
    HttpServer::Options options;
    options.limits.max_header_bytes = 4096;
    options.limits.max_body_bytes = 10'000;
    options.on_response = [this](const HttpServer::Record& record) {
      std::lock_guard<std::mutex> lock(mutex_);
      records_.push_back(record);
      changed_.notify_all();
    };
    options.on_refused = [this](std::string_view reason) {
      std::lock_guard<std::mutex> lock(mutex_);
      refusals_.emplace_back(reason);
    };
    return options;
  }

  void StartServer(HttpServer::Options options) {
    using Kind = HttpServer::RouteKind;
    server_ = std::make_unique<HttpServer>(std::move(options));
    server_->Route("GET", "/health", Kind::kProbe, [](HttpExchange& e) {
      e.Reply({{"status", "ok"}});
    });
    server_->Route("GET", "/things/", Kind::kApi,
                   [](HttpExchange& e) { e.Reply(e.request().path); });
    server_->Route("POST", "/echo", Kind::kApi,
                   [](HttpExchange& e) { e.ReplyText(e.request().body, "text/plain"); });
    server_->Route("POST", "/fail", Kind::kApi,
                   [](HttpExchange& e) { e.ReplyError(ResourceExhausted("the queue is full")); });
    server_->Route("POST", "/throw", Kind::kApi, [](HttpExchange&) { throw std::bad_alloc(); });
    server_->Route("GET", "/wait", Kind::kApi, [this](HttpExchange& e) {
      waiting_.Set();
      while (!e.ClientGone()) std::this_thread::yield();
      e.Abandon();
    });
    server_->Route("GET", "/endless", Kind::kApi, [](HttpExchange& e) {
      e.ReplyStream("text/event-stream", [](const HttpExchange::Writer& write) {
        while (write(std::string(1 << 16, 'x'))) {
        }
      });
    });
    server_->Route("GET", "/parts", Kind::kApi, [](HttpExchange& e) {
      e.ReplyStream("text/event-stream", [](const HttpExchange::Writer& write) {
        for (const char* part : {"a\n\n", "b\n\n", "c\n\n"}) write(part);
      });
    });
    ASSERT_EQ(server_->Start(), OkStatus());
  }
  void StartServer() { StartServer(Options()); }
  int port() const { return server_->port(); }

  // The next finished request.
  HttpServer::Record NextRecord() {
    std::unique_lock<std::mutex> lock(mutex_);
    EXPECT_TRUE(
        changed_.wait_for(lock, std::chrono::minutes(1), [&] { return !records_.empty(); }));
    if (records_.empty()) return {};
    const HttpServer::Record record = records_.front();
    records_.pop_front();
    return record;
  }

  Event waiting_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<HttpServer::Record> records_;
  std::vector<std::string> refusals_;
  std::unique_ptr<HttpServer> server_;  // Last: its threads use the others.
};

TEST_F(HttpServerTest, RoutesAndErrorsAreJson) {
  StartServer();
  TestClient client(port());
  client.Get("/health");
  TestClient::Response response = client.Read();
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.body, R"({"status":"ok"})");
  EXPECT_EQ(response.headers["content-type"], "application/json");

  client.Get("/things/a/b");
  EXPECT_EQ(client.Read().body, "\"/things/a/b\"");
  client.Get("/nowhere");
  response = client.Read();
  EXPECT_EQ(response.status, 404);
  EXPECT_EQ(response.body,
            R"({"error":{"code":null,"message":"there is nothing at /nowhere","param":null,)"
            R"("type":"not_found_error"}})");
  client.Get("/echo");
  EXPECT_EQ(client.Read().status, 405);
  client.Get("/things/");  // Nothing below.
  EXPECT_EQ(client.Read().status, 404);
}

TEST_F(HttpServerTest, HandlersErrorsAndExceptions) {
  StartServer();
  TestClient client(port());
  client.Post("/fail", "");
  TestClient::Response response = client.Read();
  EXPECT_EQ(response.status, 429);
  EXPECT_EQ(response.headers["retry-after"], "1");
  EXPECT_THAT(response.body, HasSubstr("the queue is full"));
  client.Post("/throw", "x");
  EXPECT_EQ(client.Read().status, 500);
  TestClient(port()).Get("/health");  // Still there.
}

TEST_F(HttpServerTest, KeepAliveAndPipelining) {
  StartServer();
  TestClient client(port());
  const std::string one = "POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\none";
  const std::string two =
      "POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
      "2\r\ntw\r\n1\r\no\r\n0\r\n\r\n";
  client.Send(one + two + one);
  EXPECT_EQ(client.Read().body, "one");
  EXPECT_EQ(client.Read().body, "two");
  EXPECT_EQ(client.Read().body, "one");
  client.Get("/health", "Connection: close\r\n");
  EXPECT_EQ(client.Read().status, 200);
  EXPECT_TRUE(client.ReadToEnd());
}

TEST_F(HttpServerTest, ARequestIsASpanOfItsClientsTrace) {
  StartServer();
  TestClient client(port());
  client.Get("/health", "Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n");
  const std::string echoed = client.Read().headers["traceparent"];
  const TraceContext trace = NextRecord().trace;
  EXPECT_EQ(trace.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
  EXPECT_EQ(trace.parent_span_id, "00f067aa0ba902b7");
  EXPECT_EQ(echoed, trace.Header());
  client.Get("/nowhere", "Traceparent: 00-%0d%0aEvil:%20yes\r\n");
  EXPECT_EQ(client.Read().headers["traceparent"].size(), 55u);
  EXPECT_EQ(NextRecord().trace.parent_span_id, "");
}

TEST_F(HttpServerTest, RequestIdsAreEchoedWhereHarmless) {
  StartServer();
  TestClient client(port());
  client.Get("/health", "X-Request-Id: abc-1.2_3\r\n");
  EXPECT_EQ(client.Read().headers["x-request-id"], "abc-1.2_3");
  EXPECT_EQ(NextRecord().id, "abc-1.2_3");
  client.Get("/health");
  EXPECT_EQ(client.Read().headers["x-request-id"].size(), 32u);
  client.Get("/health", "X-Request-Id: a%0d%0aEvil:%20yes\r\n");
  const TestClient::Response response = client.Read();
  EXPECT_EQ(response.headers.at("x-request-id").size(), 32u);
  EXPECT_EQ(response.headers.count("evil"), 0u);
}

TEST_F(HttpServerTest, KeysAreAskedForButNotByProbes) {
  const std::string path = ::testing::TempDir() + "/keys";
  std::ofstream(path) << "one 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b\n"
                         "two d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa\n";
  const std::unique_ptr<ApiKeys> keys = *ApiKeys::Read(path);
  HttpServer::Options options = Options();
  options.api_keys = keys.get();
  StartServer(std::move(options));
  for (const auto& [header, status] : {std::pair<const char*, int>{"", 401},
                                       {"Authorization: Bearer secre\r\n", 401},
                                       {"Authorization: Bearer secrets\r\n", 401},
                                       {"Authorization: Bearer \r\n", 401},
                                       {"Authorization: secret\r\n", 401},
                                       {"Authorization: Bearer secret\r\n", 200},
                                       {"Authorization: Bearer other\r\n", 200}}) {
    TestClient client(port());
    client.Get("/things/x", header);
    EXPECT_EQ(client.Read().status, status) << header;
  }
  TestClient client(port());
  client.Get("/health");
  EXPECT_EQ(client.Read().status, 200);
  server_->Stop();
  EXPECT_EQ(refusals_, std::vector<std::string>(5, "unauthorized"));
}

TEST_F(HttpServerTest, AmbiguousOrUnsupportedFramingIsRefused) {
  StartServer();
  const std::pair<std::string, int> kCases[] = {
      {"POST /echo HTTP/1.1\r\n\r\n", 411},
      {"POST /echo HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400},
      {"POST /echo HTTP/1.1\r\nContent-Length: 3x\r\n\r\nabc", 400},
      {"POST /echo HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400},
      {"POST /echo HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc", 400},
      {"POST /echo HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\nabc", 501},
      {"POST /echo HTTP/1.1\r\nContent-Length: 3\r\nContent-Encoding: gzip\r\n\r\nabc", 415},
      {"POST /echo HTTP/1.1\r\nContent-Length: 3\r\nContent-Type: multipart/form-data; "
       "boundary=x\r\n\r\nabc",
       415},
      {"GET /health HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 400},
      {"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n", 400},
      {"nonsense\r\n\r\n", 400},
      {"GET /" + std::string(3000, 'a') + " HTTP/9.9\r\n\r\n", 400}};
  for (const auto& [bytes, status] : kCases) {
    TestClient client(port());
    client.Send(bytes);
    const TestClient::Response response = client.Read();
    EXPECT_EQ(response.status, status) << bytes;
    EXPECT_THAT(response.body, HasSubstr("\"error\"")) << bytes;
    EXPECT_TRUE(client.ReadToEnd()) << bytes;  // Nothing after it is taken for a request.
  }
}

TEST_F(HttpServerTest, EndlessHeaderIsCutOff) {
  StartServer();
  // One line without an end; many lines without an end; a request line without an end.
  const std::pair<std::string, std::string> kCases[] = {{"GET /health HTTP/1.1\r\nX: ", "aaaaaaaa"},
                                                        {"GET /health HTTP/1.1\r\n", "X: aaaa\r\n"},
                                                        {"", "aaaaaaaa"}};
  for (const auto& [start, repeated] : kCases) {
    TestClient client(port());
    std::string bytes = start;
    while (bytes.size() < 20'000) bytes += repeated;
    client.Send(bytes);
    EXPECT_EQ(client.Read().status, 431) << start;
    EXPECT_TRUE(client.ReadToEnd());
  }
}

TEST_F(HttpServerTest, OneEmptyLineBeforeARequestIsSkippedAndNoMore) {
  StartServer();
  TestClient client(port());
  client.Send("\r\nGET /health HTTP/1.1\r\n\r\n");
  EXPECT_EQ(client.Read().status, 200);
  TestClient endless(port());
  std::string lines;
  while (lines.size() < 20'000) lines += "\r\n";
  endless.Send(lines);
  EXPECT_EQ(endless.Read().status, 400);
  EXPECT_TRUE(endless.ReadToEnd());
}

TEST_F(HttpServerTest, BodiesPastTheCapAreRefusedHoweverTheyCome) {
  StartServer();
  const std::string whole(10'000, 'b');
  TestClient fits(port());
  fits.Post("/echo", whole);
  EXPECT_EQ(fits.Read().body, whole);

  TestClient announced(port());
  announced.Post("/echo", whole + "b");
  EXPECT_EQ(announced.Read().status, 413);

  TestClient huge(port());
  huge.Send("POST /echo HTTP/1.1\r\nContent-Length: 999999999999\r\n\r\n" +
            std::string(200'000, 'b'));
  EXPECT_EQ(huge.Read().status, 413);
  EXPECT_TRUE(huge.ReadToEnd());

  TestClient chunked(port());
  chunked.Send("POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
  for (int i = 0; i < 11; ++i) chunked.Send("3e8\r\n" + std::string(1000, 'c') + "\r\n");
  const TestClient::Response response = chunked.Read();
  EXPECT_EQ(response.status, 413);
  EXPECT_THAT(response.body, HasSubstr("10000 bytes"));
  EXPECT_TRUE(chunked.ReadToEnd());

  // A chunk's size line that never ends is bounded too.
  TestClient endless_size(port());
  endless_size.Send("POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" +
                    std::string(200'000, '0'));
  EXPECT_EQ(endless_size.Read().status, 413);
}

// Of the limits on time each is tried alone, so that on a busy machine no other is up before it.
TEST_F(HttpServerTest, SilentAndIdleClientsAreDropped) {
  HttpServer::Options options = Options();
  options.limits.idle_timeout = milliseconds(50);
  StartServer(std::move(options));

  TestClient silent(port());  // Connects and says nothing: closed without a word.
  EXPECT_EQ(silent.Read().status, 0);

  int status = 0;
  while (status == 0) {  // So busy, it was as good as silent.
    TestClient idle(port());
    idle.Get("/health");
    status = idle.Read().status;
    EXPECT_TRUE(idle.ReadToEnd());
  }
  EXPECT_EQ(status, 200);
}

TEST_F(HttpServerTest, ClientsThatStopInTheHeaderAreDropped) {
  HttpServer::Options options = Options();
  options.limits.header_timeout = milliseconds(50);
  StartServer(std::move(options));
  for (const char* part : {"GET /health HTTP/1.1\r\nX: y", "GET /hea"}) {
    TestClient client(port());
    client.Send(part);
    EXPECT_EQ(client.Read().status, 408) << part;
    EXPECT_TRUE(client.ReadToEnd()) << part;
  }
}

TEST_F(HttpServerTest, ClientsThatStopInTheBodyAreDropped) {
  HttpServer::Options options = Options();
  options.limits.body_timeout = milliseconds(50);
  StartServer(std::move(options));
  TestClient client(port());
  client.Send("POST /echo HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc");
  EXPECT_EQ(client.Read().status, 408);
  EXPECT_TRUE(client.ReadToEnd());
}

TEST_F(HttpServerTest, AClientThatLeavesIsNoticedBeforeTheAnswer) {
  StartServer();
  TestClient client(port());
  client.Get("/wait");
  ASSERT_TRUE(waiting_.Wait());
  client.Close();
  const HttpServer::Record record = NextRecord();
  EXPECT_EQ(record.route, "/wait");
  EXPECT_EQ(record.status, 499);
}

TEST_F(HttpServerTest, AClientThatLeavesAStreamEndsIt) {
  StartServer();
  TestClient client(port());
  client.Get("/endless");
  ASSERT_TRUE(client.ReadUntil("xxx"));
  client.Close();
  EXPECT_EQ(NextRecord().status, 499);
}

TEST_F(HttpServerTest, ASlowReaderTimesOutAndStallsNobody) {
  HttpServer::Options options = Options();
  options.limits.write_timeout = milliseconds(100);
  StartServer(std::move(options));
  TestClient slow(port());
  slow.Get("/endless");  // And never reads.
  TestClient other(port());
  other.Get("/health");
  EXPECT_EQ(other.Read().status, 200);
  std::vector<int> statuses = {NextRecord().status, NextRecord().status};
  EXPECT_THAT(statuses, ::testing::UnorderedElementsAre(200, 499));
}

TEST_F(HttpServerTest, StreamsAreChunked) {
  StartServer();
  TestClient client(port());
  client.Get("/parts", "Accept-Encoding: gzip, br\r\n");
  TestClient::Response response = client.Read();
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.headers["content-type"], "text/event-stream");
  EXPECT_EQ(response.headers.count("content-encoding"), 0u);
  EXPECT_EQ(response.body, "a\n\nb\n\nc\n\n");
  client.Get("/health");  // The connection lives on.
  EXPECT_EQ(client.Read().status, 200);
}

TEST_F(HttpServerTest, BeyondTheCapOnlyProbesAreAnswered) {
  HttpServer::Options options = Options();
  options.max_connections = 4;
  StartServer(std::move(options));
  std::vector<std::unique_ptr<TestClient>> busy;
  for (int i = 0; i < 4; ++i) {
    busy.push_back(std::make_unique<TestClient>(port()));
    busy.back()->Get("/endless");
    ASSERT_TRUE(busy.back()->ReadUntil("xxx"));  // Its thread has it now.
  }
  TestClient probe(port());
  probe.Get("/health");
  EXPECT_EQ(probe.Read().status, 200);
  EXPECT_TRUE(probe.ReadToEnd());  // It may not stay.
  TestClient refused(port());
  refused.Post("/echo", "x");
  TestClient::Response response = refused.Read();
  EXPECT_EQ(response.status, 429);
  EXPECT_EQ(response.headers["retry-after"], "1");
  server_->Abort();
  server_->Stop();
  EXPECT_EQ(refusals_, std::vector<std::string>{"too_many_connections"});
}

TEST_F(HttpServerTest, IdleAndSilentConnectionsMakeRoomForNewOnes) {
  HttpServer::Options options = Options();
  options.max_connections = 16;
  StartServer(std::move(options));
  // More than may be open: clients that keep their connection, never ask, or never finish asking.
  std::vector<std::unique_ptr<TestClient>> clients;
  for (int i = 0; i < 600; ++i) {
    clients.push_back(std::make_unique<TestClient>(port()));
    if (i % 3 == 0) {
      clients.back()->Get("/parts");
      EXPECT_EQ(clients.back()->Read().status, 200) << i;
    } else if (i % 3 == 1) {
      clients.back()->Send("GET /parts HTTP/1.1\r\nX: ");
    }
  }
  TestClient last(port());
  last.Post("/echo", "x");
  EXPECT_EQ(last.Read().body, "x");
  EXPECT_TRUE(clients.front()->ReadToEnd());  // Closed: it had waited longest.
}

TEST_F(HttpServerTest, StopEndsIdleAndWaitingConnections) {
  StartServer();
  TestClient idle(port());
  idle.Get("/health");
  EXPECT_EQ(idle.Read().status, 200);
  TestClient waiting(port());
  waiting.Get("/wait");
  ASSERT_TRUE(waiting_.Wait());
  TestClient silent(port());
  server_->Abort();
  server_->Stop();  // Returns although three clients hold their connections.
  EXPECT_TRUE(idle.ReadToEnd());
}

TEST_F(HttpServerTest, ATakenPortIsAnError) {
  StartServer();
  HttpServer::Options options;
  options.port = port();
  HttpServer second(options);
  const Status status = second.Start();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(Message(status), HasSubstr("port " + std::to_string(port())));
}

}  // namespace
}  // namespace treeline
