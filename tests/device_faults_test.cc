// What becomes of requests when a device has no memory left, or fails for good: from the backend
// up to what HTTP's clients are told.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <semaphore>
#include <string>
#include <utility>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/backend/cuda_backend.h"
#include "engine/base/json.h"
#include "engine/model/checkpoint.h"
#include "engine/model_engine.h"
#include "server/http_api.h"
#include "server/http_server.h"
#include "server/intake.h"
#include "server/metrics.h"
#include "server/runtime.h"
#include "server/test_client.h"
#include "tests/faulty_backend.h"

namespace treeline {
namespace {

using ::testing::HasSubstr;

constexpr char kModel[] = "tests/testdata/checkpoints/hybrid";
constexpr int kManySteps = 100'000;
constexpr int32_t kUnfinished = 1'000'000;  // Tokens: more than there will be.

std::unique_ptr<FaultyBackend> MakeBackend(const std::string& device) {
  const bool on_gpu = device == "cuda";
  auto backend = on_gpu ? CreateCudaBackend({}) : CreateCpuBackend({.threads = 1});
  if (!backend.ok()) {
    ADD_FAILURE() << backend.status();
    return nullptr;
  }
  return std::make_unique<FaultyBackend>(*std::move(backend), on_gpu);
}

StatusOr<std::unique_ptr<ModelEngine>> LoadEngine(std::unique_ptr<Backend> backend,
                                                  const ModelEngine::Options& options) {
  TREELINE_ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, Checkpoint::Open(kModel));
  return ModelEngine::Load(*checkpoint, options, std::move(backend));
}

// Names the device. A GPU that was lost stays lost to the process: the test that loses it comes
// last.
class DeviceFaultsTest : public ::testing::TestWithParam<std::string> {};

TEST_P(DeviceFaultsTest, StatesThatDoNotFitAreToldOfAtStart) {
  auto backend = MakeBackend(GetParam());
  ASSERT_NE(backend, nullptr);
  ModelEngine::Options options;
  options.state_memory = size_t{1} << 40;
  options.max_slots = 1 << 30;
  const Status status = LoadEngine(std::move(backend), options).status();
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(status), HasSubstr("cannot allocate"));
  EXPECT_THAT(Message(status), HasSubstr("lower --state-memory or --max-slots"));
}

TEST(CpuFaultsTest, WeightsThatDoNotFitAreToldOfAtStart) {
  auto backend = MakeBackend("cpu");
  ASSERT_NE(backend, nullptr);
  backend->TakeAllMemory();
  const Status status = LoadEngine(std::move(backend), {}).status();
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(status), HasSubstr("the weights do not fit"));
  EXPECT_THAT(Message(status), HasSubstr("--dtype"));
}

// Bug: nobody waits for a part of a prompt, and its failure was the next step's.
TEST(CpuFaultsTest, AStepThatIsAskedNothingTellsOfItsFailure) {
  auto backend = MakeBackend("cpu");
  ASSERT_NE(backend, nullptr);
  backend->set_survives([] { return false; });
  const auto engine = LoadEngine(std::move(backend), {}).value();
  const StateSlot slot = engine->AcquireSlot().value();
  Batch batch;
  batch.AddChain(slot.index(), std::vector<int32_t>{10, 11, 12});
  EXPECT_EQ(engine->Step(batch).status().code(), StatusCode::kUnavailable);
}

// Greedy, for prompts of so many tokens.
std::string Body(int32_t prompt_tokens, int32_t max_tokens, bool stream = false) {
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < prompt_tokens; ++i) prompt.push_back(10 + i * 7 % 200);
  const Json body = {{"prompt", prompt},
                     {"max_tokens", max_tokens},
                     {"temperature", 0},
                     {"ignore_eos", true},
                     {"stream", stream}};
  return body.dump();
}

// A model of two slots, answering over HTTP.
class ServedDeviceFaultsTest : public DeviceFaultsTest {
 protected:
  void SetUp() override {
    auto backend = MakeBackend(GetParam());
    ASSERT_NE(backend, nullptr);
    backend_ = backend.get();
    backend_->set_survives([this] {
      steps_allowed_.acquire();
      return survives_.load();
    });
    LoadedModel model;
    model.name = "m";
    model.device = GetParam();
    ModelEngine::Options options;
    options.max_slots = 2;
    options.max_context = 2 * kUnfinished;
    auto engine = LoadEngine(std::move(backend), options);
    ASSERT_TRUE(engine.ok()) << engine.status();
    model.engine = *std::move(engine);
    model.tokenizer = Checkpoint::Open(kModel).value()->LoadTokenizer().value();
    auto runtime = Runtime::Create({}, std::move(model), metrics_);
    ASSERT_TRUE(runtime.ok()) << runtime.status();
    runtime_ = *std::move(runtime);
    model_.emplace(HttpApi::Model{.service = runtime_->service()});
    api_.Register(&server_);
    api_.RegisterAdmin(&server_, /*with_probes=*/false);
    api_.Serve(*model_);
    ASSERT_EQ(server_.Start(), OkStatus());
  }
  void TearDown() override {
    steps_allowed_.release(kManySteps);
    server_.Stop();
  }

  TestClient::Response Get(const std::string& path) {
    TestClient client(server_.port());
    client.Get(path);
    return client.Read();
  }
  TestClient::Response Complete(const std::string& body) {
    TestClient client(server_.port());
    client.Post("/v1/completions", body);
    return client.Read();
  }
  std::string Text(const TestClient::Response& response) {
    EXPECT_EQ(response.status, 200) << response.body;
    return Json::parse(response.body)["choices"][0]["text"];
  }
  bool MetricsHave(const std::string& line) {
    return Get("/metrics").body.find(line) != std::string::npos;
  }

  void StepUntilMetricsHave(const std::string& line) {
    while (!MetricsHave(line)) steps_allowed_.release(1);
  }

  void ExpectShortMemoryCostsTheStepAlone();
  void ExpectALostDeviceEndsEverything();

  std::counting_semaphore<> steps_allowed_{0};
  std::atomic<bool> survives_{true};
  Metrics metrics_{{.model_name = "m", .version = "1", .device = "d"}};
  Intake intake_{metrics_, Clock::Real()};
  FaultyBackend* backend_ = nullptr;  // The engine's.
  std::unique_ptr<Runtime> runtime_;
  std::optional<HttpApi::Model> model_;
  // A ping to the request that waits would take its status along.
  HttpApi api_{{.version = "1", .ping_interval = std::chrono::hours(1)}, metrics_, intake_};
  HttpServer server_{{}};
};

void ServedDeviceFaultsTest::ExpectShortMemoryCostsTheStepAlone() {
  steps_allowed_.release(kManySteps);
  const std::string small = Body(3, 5), large = Body(400, 5);
  const std::string text = Text(Complete(small));
  backend_->TakeAllMemory();
  const TestClient::Response failed = Complete(large);
  EXPECT_EQ(failed.status, 500);
  EXPECT_THAT(failed.body, HasSubstr("no memory for a step of this size"));
  EXPECT_THAT(failed.body, HasSubstr("--max-batch-tokens"));
  // What fits the memory that there is goes on.
  EXPECT_EQ(Get("/ready").status, 200);
  EXPECT_EQ(Text(Complete(small)), text);
  backend_->GiveMemoryBack();
  EXPECT_EQ(Complete(large).status, 200);
  EXPECT_EQ(Get("/ready").status, 200);
  while (steps_allowed_.try_acquire()) {
  }
}

void ServedDeviceFaultsTest::ExpectALostDeviceEndsEverything() {
  TestClient streaming(server_.port()), whole(server_.port()), queued(server_.port());
  streaming.Post("/v1/completions", Body(3, kUnfinished, /*stream=*/true), "Connection: close\r\n");
  steps_allowed_.release(50);
  ASSERT_TRUE(streaming.ReadUntil("data: "));
  // One at a time: of two that arrive together either may run, and a stream that runs has its 200.
  whole.Post("/v1/completions", Body(3, kUnfinished));
  StepUntilMetricsHave("treeline_num_requests_running{model_name=\"m\"} 2\n");
  queued.Post("/v1/completions", Body(3, kUnfinished, /*stream=*/true));
  StepUntilMetricsHave("treeline_num_requests_waiting{model_name=\"m\"} 1\n");
  EXPECT_EQ(Get("/health").status, 200);

  survives_ = false;
  steps_allowed_.release(kManySteps);
  EXPECT_TRUE(streaming.ReadUntil("the engine failed"));
  EXPECT_FALSE(streaming.ReadUntil("data: [DONE]"));
  for (TestClient* client : {&whole, &queued}) {
    const TestClient::Response response = client->Read();
    EXPECT_EQ(response.status, 503);
    EXPECT_THAT(response.body, HasSubstr("the engine failed"));
    EXPECT_THAT(response.body, HasSubstr("lost"));
  }
  for (const char* path : {"/health", "/ready"}) {
    const TestClient::Response response = Get(path);
    EXPECT_EQ(response.status, 503) << path;
    EXPECT_THAT(response.body, HasSubstr("must be restarted")) << path;
  }
  const TestClient::Response refused = Complete(Body(3, 1));
  EXPECT_EQ(refused.status, 503);
  EXPECT_THAT(refused.body, HasSubstr("must be restarted"));
  EXPECT_TRUE(MetricsHave("treeline_state_slots_used{model_name=\"m\"} 0\n"));
  EXPECT_TRUE(MetricsHave("reason=\"device_lost\"} 1\n"));
  EXPECT_TRUE(runtime_->scheduler().Idle());
}

TEST_P(ServedDeviceFaultsTest, ShortMemoryCostsAStepAndALostDeviceAll) {
  steps_allowed_.release(1);
  ASSERT_EQ(runtime_->service().Probe(), OkStatus());
  EXPECT_EQ(Get("/ready").status, 200);
  ExpectShortMemoryCostsTheStepAlone();
  ExpectALostDeviceEndsEverything();
}

std::string DeviceName(const ::testing::TestParamInfo<std::string>& info) { return info.param; }

INSTANTIATE_TEST_SUITE_P(Devices, DeviceFaultsTest, ::testing::Values("cpu", "cuda"), DeviceName);
INSTANTIATE_TEST_SUITE_P(Devices, ServedDeviceFaultsTest, ::testing::Values("cpu", "cuda"),
                         DeviceName);

}  // namespace
}  // namespace treeline
