#include "server/serve.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spdlog/spdlog.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "scheduler/fake_engine.h"
#include "server/byte_tokenizer.h"
#include "server/test_client.h"

namespace treeline {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string WriteFile(const std::string& name, const std::string& text) {
  const std::string path = ::testing::TempDir() + "/" + name;
  std::ofstream(path) << text;
  return path;
}

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
  void Start(ServeConfig config) {
    // Made by its first user, in a library that thread sanitizers do not see into.
    spdlog::default_logger_raw();
    std::filesystem::remove(port_file_);
    config.set_port(0);
    config.set_port_file(port_file_);
    thread_ = std::thread([this, config] { status_ = Serve(config, LoadFakeModel); });
    while (!std::filesystem::exists(port_file_)) std::this_thread::yield();
    std::ifstream(port_file_) >> port_;
  }
  void Signal() { pthread_kill(thread_.native_handle(), SIGTERM); }

  int ReadyStatus() {
    TestClient client(port_);
    client.Get("/ready");
    return client.Read().status;
  }

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

TEST(ApiKeysTest, OneALine) {
  EXPECT_THAT(*ReadApiKeys(WriteFile("keys", "# ours\n\nfirst \r\nsecond")),
              ElementsAre("first", "second"));
  EXPECT_EQ(ReadApiKeys(WriteFile("none", "# nobody\n")).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(ReadApiKeys("/no/such/file").status().code(), StatusCode::kNotFound);
}

TEST(ServeErrorsTest, ComeOutBeforeAndAfterLoading) {
  ServeConfig config;
  config.set_api_key_file("/no/such/file");
  bool loaded = false;
  EXPECT_EQ(Serve(config,
                  [&]() -> StatusOr<LoadedModel> {
                    loaded = true;
                    return Internal("not reached");
                  })
                .code(),
            StatusCode::kNotFound);
  EXPECT_FALSE(loaded);
  const Status status =
      Serve(ServeConfig(), []() -> StatusOr<LoadedModel> { return NotFound("no model there"); });
  EXPECT_THAT(Message(status), HasSubstr("no model there"));
}

}  // namespace
}  // namespace treeline
