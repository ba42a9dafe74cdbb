#include "server/serve.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <new>
#include <semaphore>
#include <thread>

#include "scheduler/fake_engine.h"
#include "server/byte_tokenizer.h"
#include "server/test_client.h"

namespace treeline {
namespace {

using ::testing::HasSubstr;

constexpr char kSecretLine[] =
    "a 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b\n";

std::string WriteFile(const std::string& name, const std::string& text) {
  const std::string path = ::testing::TempDir() + "/" + name;
  std::ofstream(path) << text;
  return path;
}

// A port that nobody listens at, and that the system gives to nobody else while this lives: a
// server that asks for it by number may have it.
class ReservedPort {
 public:
  ReservedPort() : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    const int on = 1;
    setsockopt(fd_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(bind(fd_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
  }
  ~ReservedPort() { close(fd_); }
  ReservedPort(const ReservedPort&) = delete;
  ReservedPort& operator=(const ReservedPort&) = delete;

  int port() const { return port_; }

 private:
  const int fd_;
  int port_ = 0;
};

StatusOr<LoadedModel> LoadFakeModel() {
  LoadedModel model;
  model.name = "fake";
  model.device = "cpu";
  model.engine = std::make_unique<FakeEngine>(EngineLimits{
      .vocab_size = ByteTokenizer::kVocabSize, .max_context = 100'000, .num_slots = 2});
  model.tokenizer = std::make_unique<ByteTokenizer>();
  return model;
}

// A server in a thread, whose signals go to that thread only.
class ServeTest : public ::testing::Test {
 protected:
  void Start(ServeConfig config,
             const std::function<StatusOr<LoadedModel>()>& load = LoadFakeModel) {
    // Made by its first user, in a library that thread sanitizers do not see into.
    spdlog::default_logger_raw();
    std::filesystem::remove(port_file_);
    config.set_port(0);
    config.set_port_file(port_file_);
    thread_ = std::thread([this, config, load] { status_ = Serve(config, load); });
    while (!std::filesystem::exists(port_file_)) std::this_thread::yield();
    std::ifstream(port_file_) >> port_;
  }
  void Signal(int signal = SIGTERM) { pthread_kill(thread_.native_handle(), signal); }

  int StatusOf(const std::string& path, const std::string& headers = "") {
    TestClient client(port_);
    client.Get(path, headers);
    return client.Read().status;
  }
  int ReadyStatus() { return StatusOf("/ready"); }

  const std::string port_file_ = ::testing::TempDir() + "/port";
  int port_ = 0;
  Status status_ = Internal("still running");
  std::thread thread_;
};

TEST_F(ServeTest, DrainsThenStops) {
  Start(ServeConfig());
  EXPECT_EQ(ReadyStatus(), 200);
  TestClient streaming(port_);
  streaming.Post("/v1/completions",
                 R"({"prompt": "x", "max_tokens": 2000, "ignore_eos": true, "stream": true})");
  ASSERT_TRUE(streaming.ReadUntil("data: "));
  Signal();
  EXPECT_TRUE(streaming.ReadUntil("data: [DONE]"));
  thread_.join();
  EXPECT_EQ(status_, OkStatus());
}

TEST_F(ServeTest, ASecondSignalCancelsWhatRuns) {
  ServeConfig config;
  config.set_drain_timeout_seconds(100'000);
  Start(config);
  TestClient streaming(port_);
  streaming.Post("/v1/completions",
                 R"({"prompt": "x", "max_tokens": 90000, "ignore_eos": true, "stream": true})");
  ASSERT_TRUE(streaming.ReadUntil("data: "));
  Signal();
  while (ReadyStatus() != 503) std::this_thread::yield();
  Signal();
  EXPECT_TRUE(streaming.ReadUntil("the server is shutting down"));
  EXPECT_FALSE(streaming.ReadUntil("data: [DONE]"));
  thread_.join();
  EXPECT_EQ(status_, OkStatus());
}

TEST_F(ServeTest, StopsAsEverWhereTheDeviceIsLost) {
  ServeConfig config;
  config.set_drafter("none");  // What steps cost is not measured: the probe is all that runs first.
  Start(config, []() -> StatusOr<LoadedModel> {
    StatusOr<LoadedModel> model = LoadFakeModel();
    auto* engine = static_cast<FakeEngine*>(model->engine.get());
    engine->set_on_step([engine](const Batch& batch) {
      if (batch.num_tokens() < 10) return;
      engine->FailNextStep(MakeStatus(StatusCode::kUnavailable, "the device fell off the bus"));
    });
    return model;
  });
  EXPECT_EQ(StatusOf("/health"), 200);
  TestClient client(port_);
  client.Post("/v1/completions", R"({"prompt": "more than ten bytes", "max_tokens": 5})");
  EXPECT_EQ(client.Read().status, 503);
  EXPECT_EQ(ReadyStatus(), 503);
  EXPECT_EQ(StatusOf("/health"), 503);
  Signal();
  thread_.join();
  EXPECT_EQ(status_, OkStatus());
}

// A client that stopped in the middle of its request held the server for a minute.
TEST_F(ServeTest, AnUnfinishedRequestDoesNotHoldUpStopping) {
  Start(ServeConfig());
  TestClient unfinished(port_);
  unfinished.Send("POST /v1/completions HTTP/1.1\r\nContent-Length: 100\r\n\r\n{");
  EXPECT_EQ(ReadyStatus(), 200);
  Signal();
  thread_.join();  // Within the test's own time limit.
  EXPECT_EQ(status_, OkStatus());
}

TEST_F(ServeTest, HangupReadsTheKeysAgain) {
  ServeConfig config;
  config.set_api_keys_file(WriteFile("keys", std::string(kSecretLine)));
  Start(config);
  const std::string header = "Authorization: Bearer password\r\n";
  EXPECT_EQ(StatusOf("/v1/models"), 401);
  EXPECT_EQ(StatusOf("/v1/models", "Authorization: Bearer secret\r\n"), 200);
  EXPECT_EQ(StatusOf("/v1/models", header), 401);
  WriteFile("keys", "b 5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8\n");
  Signal(SIGHUP);
  while (StatusOf("/v1/models", header) != 200) std::this_thread::yield();
  EXPECT_EQ(StatusOf("/v1/models", "Authorization: Bearer secret\r\n"), 401);
  EXPECT_EQ(ReadyStatus(), 200);  // It went on.
  Signal();
  thread_.join();
  EXPECT_EQ(status_, OkStatus());
}

TEST_F(ServeTest, TheAdminAddressHasTheMetricsToItself) {
  ServeConfig config;
  const ReservedPort admin_port;
  config.set_admin_port(admin_port.port());
  Start(config);
  EXPECT_EQ(StatusOf("/metrics"), 404);
  EXPECT_EQ(StatusOf("/health"), 200);
  port_ = admin_port.port();
  for (const char* path : {"/metrics", "/version", "/health", "/ready"}) {
    EXPECT_EQ(StatusOf(path), 200) << path;
  }
  EXPECT_EQ(StatusOf("/v1/models"), 404);
  Signal();
  thread_.join();
  EXPECT_EQ(status_, OkStatus());
}

// A load that lasts until it is let go on, in a server that listens from the start.
class LoadingTest : public ServeTest {
 protected:
  LoadingTest() {
    port_ = reserved_.port();
    ServeConfig config;
    config.set_port(port_);
    thread_ = std::thread([this, config, may_end = may_end_, ended = ended_] {
      status_ = Serve(config, [may_end, ended]() -> StatusOr<LoadedModel> {
        may_end->acquire();
        StatusOr<LoadedModel> model = LoadFakeModel();
        ended->release();
        return model;
      });
    });
    // There is nothing to connect to before it listens.
    while (!TestClient::CanConnect(port_)) std::this_thread::yield();
  }

  const ReservedPort reserved_;
  // Owned by the load too, which may outlive the server.
  std::shared_ptr<std::binary_semaphore> may_end_ = std::make_shared<std::binary_semaphore>(0);
  std::shared_ptr<std::binary_semaphore> ended_ = std::make_shared<std::binary_semaphore>(0);
};

TEST_F(LoadingTest, ProbesAreAnsweredAndRequestsComeTooEarly) {
  EXPECT_EQ(StatusOf("/health"), 200);
  EXPECT_EQ(StatusOf("/v1/models"), 503);
  TestClient client(port_);
  client.Post("/v1/completions", R"({"prompt": "x"})");
  TestClient::Response response = client.Read();
  EXPECT_EQ(response.status, 503);
  EXPECT_EQ(response.headers["retry-after"], "2");
  EXPECT_THAT(response.body, HasSubstr("the model is being loaded"));
  client.Get("/ready");
  response = client.Read();
  EXPECT_EQ(response.status, 503);
  EXPECT_THAT(response.body, HasSubstr("the model is being loaded"));
  client.Get("/metrics");
  EXPECT_THAT(client.Read().body, HasSubstr("reason=\"loading\"} 2\n"));

  may_end_->release();
  while (ReadyStatus() != 200) std::this_thread::yield();
  EXPECT_EQ(StatusOf("/v1/models"), 200);
  Signal();
  thread_.join();
  EXPECT_EQ(status_, OkStatus());
}

TEST_F(LoadingTest, ASignalStopsAtOnce) {
  EXPECT_EQ(StatusOf("/health"), 200);
  Signal();
  thread_.join();  // Although the load goes on.
  EXPECT_EQ(status_.code(), StatusCode::kCancelled);
  may_end_->release();
  ended_->acquire();
}

TEST(ServeErrorsTest, ComeOutBeforeAndAfterLoading) {
  ServeConfig config;
  config.set_api_keys_file("/no/such/file");
  bool loaded = false;
  EXPECT_EQ(Serve(config,
                  [&]() -> StatusOr<LoadedModel> {
                    loaded = true;
                    return Internal("not reached");
                  })
                .code(),
            StatusCode::kNotFound);
  EXPECT_FALSE(loaded);
  ServeConfig any_port;  // Bug: the default port may be somebody else's.
  any_port.set_port(0);
  const Status status =
      Serve(any_port, []() -> StatusOr<LoadedModel> { return NotFound("no model there"); });
  EXPECT_THAT(Message(status), HasSubstr("no model there"));
  // Bug: it came out of a thread, and ended the process without a word.
  const Status short_of_memory =
      Serve(any_port, []() -> StatusOr<LoadedModel> { throw std::bad_alloc(); });
  EXPECT_THAT(Message(short_of_memory), HasSubstr("--dtype"));
  ServeConfig half_tls;
  half_tls.set_tls_cert("cert.pem");
  EXPECT_THAT(Message(Serve(half_tls, LoadFakeModel)), HasSubstr("--tls-key"));
}

}  // namespace
}  // namespace treeline
