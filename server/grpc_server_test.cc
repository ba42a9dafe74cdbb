// The whole way of a call, over sockets, with a fake engine below the scheduler.
#include "server/grpc_server.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <semaphore>
#include <thread>

#include "engine/base/file.h"
#include "proto/inference.grpc.pb.h"
#include "scheduler/fake_engine.h"
#include "scheduler/scheduler.h"
#include "server/byte_tokenizer.h"
#include "server/metrics.h"
#include "server/test_certificate.h"

namespace treeline {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kTemplate[] =
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

// A letter is followed by the next one; after z comes the end; else a.
int32_t NextLetter(std::span<const int32_t> prefix) {
  const int32_t last = prefix.back();
  if (last >= 'a' && last < 'z') return last + 1;
  return last == 'z' ? ByteTokenizer::kEos : 'a';
}

// Tells how many slots are in use.
class SlotCounter : public Metrics {
 public:
  SlotCounter() : Metrics({.model_name = "org/m", .version = "1", .device = "cpu"}) {}
  void OnStep(int32_t prompt_tokens, int32_t generated_tokens,
              const SchedulerGauges& gauges) override {
    Metrics::OnStep(prompt_tokens, generated_tokens, gauges);
    slots_used = gauges.slots_used;
  }

  std::atomic<int32_t> slots_used{0};
};

class GrpcServerTest : public ::testing::Test {
 protected:
  GrpcServerTest() {
    engine_.set_next_token([this](std::span<const int32_t> prefix, uint32_t) {
      tokens_allowed_.acquire();
      return NextLetter(prefix);
    });
    engine_.set_on_step([this](const Batch&) { ++steps_begun_; });
    Scheduler::Options options;
    options.eos_token_ids = {ByteTokenizer::kEos};
    scheduler_ = Scheduler::Create(options, engine_, tokenizer_, Clock::Real(), observer_).value();
    service_ = std::make_unique<GenerationService>(
        GenerationService::Options{.model_names = {"org/m", "alias"},
                                   .vocab_size = ByteTokenizer::kVocabSize,
                                   .max_context = 100},
        tokenizer_, &template_, *scheduler_, Clock::Real(), observer_);
    model_.emplace(ServedModel{.service = *service_});
    options_.version = "1.2";
    options_.on_response = [this](const GrpcRecord& record) {
      std::lock_guard<std::mutex> lock(mutex_);
      records_.push_back(record);
    };
  }
  ~GrpcServerTest() override { tokens_allowed_.release(1 << 20); }

  // Starts a server whose model is there, and connects to it.
  void Start() {
    Listen();
    Connect();
  }
  void Listen() {
    auto server = GrpcServer::Start(options_, intake_, *clock_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    server_->Serve(*model_);
    scheduler_->Start();
  }
  // Calls then take no time to connect, which their deadlines would count.
  void Connect() {
    const auto channel = grpc::CreateChannel("127.0.0.1:" + std::to_string(server_->port()),
                                             grpc::InsecureChannelCredentials());
    channel->WaitForConnected(gpr_inf_future(GPR_CLOCK_REALTIME));
    stub_ = v1::Inference::NewStub(channel);
  }

  // All messages of a stream, and how it ended.
  std::vector<v1::GenerateResponse> Generate(const v1::GenerateRequest& request,
                                             grpc::Status* status) {
    grpc::ClientContext context;
    return Generate(request, &context, status);
  }
  std::vector<v1::GenerateResponse> Generate(const v1::GenerateRequest& request,
                                             grpc::ClientContext* context, grpc::Status* status) {
    const auto reader = stub_->Generate(context, request);
    std::vector<v1::GenerateResponse> messages;
    v1::GenerateResponse message;
    while (reader->Read(&message)) messages.push_back(message);
    *status = reader->Finish();
    return messages;
  }

  GrpcRecord LastRecord() {
    std::lock_guard<std::mutex> lock(mutex_);
    return records_.empty() ? GrpcRecord() : records_.back();
  }
  // Until the server has ended the only call: clients may know before it does. Where a deadline
  // passed, it hears of that by its own clock or by the client's.
  void WaitForEnd() {
    while (LastRecord().code.empty()) std::this_thread::yield();
  }
  void WaitUntilIdle() {
    while (!scheduler_->Idle()) std::this_thread::yield();
  }
  // Calls with a deadline that passes while the engine steps. A server may never hear of a call
  // whose deadline passes on the way: where the machine is so busy, the next one has twice as long.
  void CallPastItsDeadline(const std::function<grpc::Status(grpc::ClientContext*)>& call) {
    for (std::chrono::seconds time(1); steps_begun_ == 0; time *= 2) {
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + time);
      EXPECT_EQ(call(&context).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
    }
    WaitForEnd();
    server_->Stop(Duration(0));  // Ends those that came late.
  }

  std::counting_semaphore<> tokens_allowed_{0};  // What the engine may generate.
  std::atomic<int32_t> steps_begun_{0};
  SlotCounter observer_;
  FakeEngine engine_{{.vocab_size = ByteTokenizer::kVocabSize, .max_context = 100, .num_slots = 4}};
  ByteTokenizer tokenizer_;
  ChatTemplate template_ = ChatTemplate::Parse(kTemplate).value();
  Intake intake_{observer_, Clock::Real()};
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<GenerationService> service_;
  std::optional<ServedModel> model_;
  GrpcServer::Options options_;
  const Clock* clock_ = &Clock::Real();
  std::mutex mutex_;
  std::vector<GrpcRecord> records_;  // Protected by mutex_.
  std::unique_ptr<GrpcServer> server_;
  std::unique_ptr<v1::Inference::Stub> stub_;
};

v1::GenerateRequest Prompt(const std::string& text, int32_t max_tokens) {
  v1::GenerateRequest request;
  request.set_prompt(text);
  request.set_max_tokens(max_tokens);
  return request;
}

TEST_F(GrpcServerTest, AStreamTellsEachTokenAndEndsWithTheUsage) {
  tokens_allowed_.release(100);
  Start();
  grpc::Status status;
  const auto messages = Generate(Prompt("v", 10), &status);
  ASSERT_TRUE(status.ok()) << status.error_message();
  std::string text;
  std::vector<int32_t> tokens;
  for (const auto& message : messages) {
    text += message.text();
    tokens.insert(tokens.end(), message.token_ids().begin(), message.token_ids().end());
  }
  EXPECT_EQ(text, "wxyz");
  EXPECT_THAT(tokens, ElementsAre('w', 'x', 'y', 'z', ByteTokenizer::kEos));
  EXPECT_EQ(messages[messages.size() - 2].finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(messages.back().usage().prompt_tokens(), 2);  // <s> and v.
  EXPECT_EQ(messages.back().usage().completion_tokens(), 5);
  EXPECT_EQ(LastRecord().method, "Generate");
  EXPECT_EQ(LastRecord().code, "OK");
  EXPECT_EQ(LastRecord().notes["prompt_tokens"], 2);
  EXPECT_EQ(LastRecord().notes["completion_tokens"], 5);
  for (const char* phase : {"queue_ms", "prefill_ms", "decode_ms"}) {
    EXPECT_GE(LastRecord().notes[phase].get<double>(), 0) << phase;
  }
}

TEST_F(GrpcServerTest, ChatsAndChoices) {
  tokens_allowed_.release(100);
  Start();
  v1::GenerateRequest request;
  auto& message = *request.mutable_chat()->add_messages();
  message.set_role("user");
  message.set_content("hi");
  request.set_max_tokens(3);
  request.set_n(2);
  request.set_logprobs(1);
  grpc::Status status;
  std::map<int32_t, std::string> texts;
  for (const auto& part : Generate(request, &status)) {
    texts[part.choice()] += part.text();
    EXPECT_EQ(part.logprobs_size(), part.token_ids_size());
    for (const auto& logprob : part.logprobs()) EXPECT_EQ(logprob.top_size(), 1);
  }
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(texts[0], "abc");  // The prompt ends in "assistant\n".
  EXPECT_EQ(texts[1], "abc");
}

TEST_F(GrpcServerTest, ABatchAnswersInOrder) {
  tokens_allowed_.release(100);
  Start();
  v1::GenerateBatchRequest request;
  for (const char* text : {"a", "k", "v"}) *request.add_requests() = Prompt(text, 2);
  request.mutable_requests(2)->set_n(2);
  grpc::ClientContext context;
  v1::GenerateBatchResponse response;
  const grpc::Status status = stub_->GenerateBatch(&context, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(response.results_size(), 3);
  EXPECT_EQ(response.results(0).choices(0).text(), "bc");
  EXPECT_EQ(response.results(1).choices(0).text(), "lm");
  EXPECT_EQ(response.results(2).choices(1).text(), "wx");
  EXPECT_EQ(response.results(2).choices(1).finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(response.results(2).usage().completion_tokens(), 4);
}

TEST_F(GrpcServerTest, ABatchIsAcceptedAsAWholeOrNotAtAll) {
  tokens_allowed_.release(100);
  Start();
  v1::GenerateBatchRequest request;
  *request.add_requests() = Prompt("a", 2);
  *request.add_requests() = Prompt("b", 2);
  request.mutable_requests(1)->set_temperature(7);
  grpc::ClientContext context;
  v1::GenerateBatchResponse response;
  const grpc::Status status = stub_->GenerateBatch(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("requests[1]: temperature must be"));
  WaitUntilIdle();
  EXPECT_EQ(observer_.slots_used, 0);
  grpc::ClientContext empty;
  EXPECT_EQ(stub_->GenerateBatch(&empty, v1::GenerateBatchRequest(), &response).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(GrpcServerTest, ErrorsNameTheField) {
  Start();
  v1::GenerateRequest request = Prompt("x", 5);
  request.set_top_p(2);
  grpc::ClientContext context;
  grpc::Status status;
  EXPECT_TRUE(Generate(request, &context, &status).empty());
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(context.GetServerTrailingMetadata().find("error-param")->second, "top_p");

  grpc::ClientContext too_long;
  EXPECT_TRUE(Generate(Prompt("x", 500), &too_long, &status).empty());
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(too_long.GetServerTrailingMetadata().find("error-code")->second,
            "context_length_exceeded");

  request = Prompt("x", 5);
  request.set_model("other");
  Generate(request, &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  Generate(v1::GenerateRequest(), &status);
  EXPECT_THAT(status.error_message(), HasSubstr("prompt is missing"));
}

TEST_F(GrpcServerTest, CancellingFreesTheSlot) {
  Start();
  tokens_allowed_.release(1);
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, Prompt("A", 90));
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  WaitForEnd();
  tokens_allowed_.release(1);  // The step that runs.
  WaitUntilIdle();             // Without the other tokens that were asked for.
  EXPECT_EQ(observer_.slots_used, 0);
}

TEST_F(GrpcServerTest, APassedDeadlineFreesTheSlot) {
  Start();
  tokens_allowed_.release(1);
  CallPastItsDeadline([&](grpc::ClientContext* context) {
    grpc::Status status;
    Generate(Prompt("A", 90), context, &status);
    return status;
  });
  tokens_allowed_.release(4);  // The step that runs, whatever is in it.
  WaitUntilIdle();
  EXPECT_EQ(observer_.slots_used, 0);
}

TEST_F(GrpcServerTest, APassedDeadlineEndsAllOfABatch) {
  Start();
  v1::GenerateBatchRequest batch;
  *batch.add_requests() = Prompt("A", 90);
  *batch.add_requests() = Prompt("B", 90);
  CallPastItsDeadline([&](grpc::ClientContext* context) {
    v1::GenerateBatchResponse response;
    return stub_->GenerateBatch(context, batch, &response);
  });
  tokens_allowed_.release(4);  // The step that runs, whatever is in it.
  WaitUntilIdle();
  EXPECT_EQ(observer_.slots_used, 0);
}

TEST_F(GrpcServerTest, AFailingEngineHasItsStatus) {
  tokens_allowed_.release(100);
  Start();
  engine_.FailNextStep(Internal("no more memory"));
  grpc::Status status;
  Generate(Prompt("x", 5), &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  Generate(Prompt("x", 2), &status);
  EXPECT_TRUE(status.ok());
}

TEST_F(GrpcServerTest, WithoutItsDeviceTheServiceIsUnavailable) {
  tokens_allowed_.release(100);
  Start();
  engine_.FailNextStep(MakeStatus(StatusCode::kUnavailable, "the device fell off the bus"));
  grpc::Status status;
  Generate(Prompt("x", 5), &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("the device fell off the bus"));
  v1::GenerateBatchRequest batch;
  *batch.add_requests() = Prompt("x", 2);
  grpc::ClientContext context;
  v1::GenerateBatchResponse response;
  status = stub_->GenerateBatch(&context, batch, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("must be restarted"));
}

TEST_F(GrpcServerTest, KeysAreAskedFor) {
  const std::string path = ::testing::TempDir() + "/grpc_keys";
  // printf %s secret | sha256sum
  std::ofstream(path) << "us 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b 2\n";
  const auto keys = ApiKeys::Read(path).value();
  options_.api_keys = keys.get();
  tokens_allowed_.release(100);
  Start();
  grpc::Status status;
  Generate(Prompt("x", 1), &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAUTHENTICATED);
  for (const auto& [given, code] : std::vector<std::pair<std::string, grpc::StatusCode>>{
           {"Bearer wrong", grpc::StatusCode::UNAUTHENTICATED},
           {"secret", grpc::StatusCode::UNAUTHENTICATED},
           {"Bearer secret", grpc::StatusCode::OK},
           {"Bearer secret", grpc::StatusCode::OK},
           {"Bearer secret", grpc::StatusCode::RESOURCE_EXHAUSTED}}) {
    grpc::ClientContext context;
    context.AddMetadata("authorization", given);
    Generate(Prompt("x", 1), &context, &status);
    EXPECT_EQ(status.error_code(), code) << given;
    if (code == grpc::StatusCode::RESOURCE_EXHAUSTED) {
      EXPECT_EQ(context.GetServerTrailingMetadata().count("retry-after"), 1);
    }
  }
  server_.reset();  // Before the keys.
}

TEST_F(GrpcServerTest, TokenizeAndBackAndModelInfo) {
  Start();
  v1::TokenizeRequest tokenize;
  tokenize.set_prompt("hi");
  v1::TokenizeResponse tokens;
  grpc::ClientContext first;
  ASSERT_TRUE(stub_->Tokenize(&first, tokenize, &tokens).ok());
  EXPECT_THAT(tokens.token_ids(), ElementsAre(ByteTokenizer::kBos, 'h', 'i'));
  v1::DetokenizeRequest detokenize;
  *detokenize.mutable_token_ids() = tokens.token_ids();
  v1::DetokenizeResponse text;
  grpc::ClientContext second;
  ASSERT_TRUE(stub_->Detokenize(&second, detokenize, &text).ok());
  EXPECT_EQ(text.text(), "<s>hi");
  detokenize.add_token_ids(ByteTokenizer::kVocabSize);
  grpc::ClientContext third;
  EXPECT_EQ(stub_->Detokenize(&third, detokenize, &text).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  v1::ModelInfoResponse info;
  grpc::ClientContext fourth;
  ASSERT_TRUE(stub_->ModelInfo(&fourth, v1::ModelInfoRequest(), &info).ok());
  EXPECT_THAT(info.names(), ElementsAre("org/m", "alias"));
  EXPECT_EQ(info.max_context(), 100);
  EXPECT_EQ(info.server_version(), "1.2");
}

TEST_F(GrpcServerTest, RequestIdsAreEchoed) {
  tokens_allowed_.release(10);
  Start();
  grpc::ClientContext context;
  context.AddMetadata("x-request-id", "abc-1");
  grpc::Status status;
  Generate(Prompt("x", 1), &context, &status);
  EXPECT_EQ(context.GetServerInitialMetadata().find("x-request-id")->second, "abc-1");
  EXPECT_EQ(LastRecord().id, "abc-1");
}

TEST_F(GrpcServerTest, ACallIsASpanOfItsClientsTrace) {
  tokens_allowed_.release(10);
  Start();
  grpc::ClientContext context;
  context.AddMetadata("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
  grpc::Status status;
  Generate(Prompt("x", 1), &context, &status);
  const TraceContext trace = LastRecord().trace;
  EXPECT_EQ(trace.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
  EXPECT_EQ(trace.parent_span_id, "00f067aa0ba902b7");
  EXPECT_EQ(context.GetServerInitialMetadata().find("traceparent")->second, trace.Header());
}

// It held its call, one of those that are answered at once, for ever.
TEST_F(GrpcServerTest, AClientThatDoesNotReadIsDropped) {
  FakeClock clock;
  clock_ = &clock;
  tokens_allowed_.release(1000);
  Start();
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 1024);  // What it takes without reading.
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  const auto stub = v1::Inference::NewStub(
      grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(server_->port()),
                                grpc::InsecureChannelCredentials(), arguments));
  v1::GenerateRequest request = Prompt("A", 90);
  request.set_n(4);
  request.set_logprobs(20);  // About 100 kB.
  request.set_ignore_eos(true);
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, request);
  reader->WaitForInitialMetadata();
  WaitUntilIdle();  // All is made.
  EXPECT_EQ(LastRecord().code, "");
  // What is written up to the one that the client has no room for may be written later still, and
  // each has its time.
  while (LastRecord().code.empty()) {
    clock.Advance(std::chrono::seconds(1));
    std::this_thread::yield();
  }
  EXPECT_EQ(LastRecord().code, "CANCELLED");
  v1::GenerateResponse message;
  while (reader->Read(&message)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  server_.reset();  // Before the clock.
}

TEST_F(GrpcServerTest, TlsForClientsThatTrustTheCertificate) {
  MakeCertificate("grpc");
  options_.tls_certificate_file = PathOf("grpc.crt");
  options_.tls_key_file = PathOf("grpc.key");
  tokens_allowed_.release(100);
  Listen();
  const auto code_with = [&](const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
    grpc::ChannelArguments arguments;
    arguments.SetSslTargetNameOverride("grpc");
    stub_ = v1::Inference::NewStub(grpc::CreateCustomChannel(
        "127.0.0.1:" + std::to_string(server_->port()), credentials, arguments));
    grpc::Status status;
    Generate(Prompt("x", 1), &status);
    return status.error_code();
  };
  const auto trusting = [](const std::string& certificate) {
    grpc::SslCredentialsOptions options;
    options.pem_root_certs = ReadFile(PathOf(certificate)).value();
    return grpc::SslCredentials(options);
  };
  EXPECT_EQ(code_with(trusting("grpc.crt")), grpc::StatusCode::OK);
  MakeCertificate("another");
  EXPECT_EQ(code_with(trusting("another.crt")), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(code_with(grpc::InsecureChannelCredentials()), grpc::StatusCode::UNAVAILABLE);

  EXPECT_EQ(NameShownAt(server_->port()), "grpc");
  for (const char* kind : {".key", ".crt"}) {
    std::filesystem::rename(PathOf(std::string("another") + kind),
                            PathOf(std::string("grpc") + kind));
  }
  // A server that looked between the two has none to show until it looks again.
  while (NameShownAt(server_->port()) != "another") std::this_thread::yield();
}

TEST_F(GrpcServerTest, CertificatesThatAreNotThereAreNamed) {
  options_.tls_certificate_file = PathOf("none.crt");
  options_.tls_key_file = PathOf("none.key");
  const Status status = GrpcServer::Start(options_, intake_, Clock::Real()).status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_THAT(Message(status), HasSubstr("none.crt"));
}

TEST_F(GrpcServerTest, TooLargeMessagesAndTooManyCallsAreRefused) {
  options_.max_message_bytes = 1000;
  options_.max_calls = 1;
  Start();
  grpc::Status status;
  Generate(Prompt(std::string(2000, 'x'), 1), &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  tokens_allowed_.release(1);
  grpc::ClientContext running;
  const auto reader = stub_->Generate(&running, Prompt("A", 90));
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  Generate(Prompt("x", 1), &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("the limit is 1"));
  running.TryCancel();
  reader->Finish();
}

TEST_F(GrpcServerTest, UnavailableBeforeTheModelIsThereAndWhileDraining) {
  server_ = GrpcServer::Start(options_, intake_, Clock::Real()).value();
  Connect();
  grpc::Status status;
  Generate(Prompt("x", 1), &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("being loaded"));
  server_->Serve(*model_);
  scheduler_->Start();
  tokens_allowed_.release(10);
  Generate(Prompt("x", 1), &status);
  EXPECT_TRUE(status.ok()) << status.error_message();
  service_->Drain();
  Generate(Prompt("x", 1), &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(GrpcServerTest, StopEndsWhatRuns) {
  Start();
  tokens_allowed_.release(1);
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, Prompt("A", 90));
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  server_->Stop(Duration(0));  // The engine does not step any more.
  EXPECT_FALSE(reader->Finish().ok());
}

TEST_F(GrpcServerTest, APortInUseIsAnError) {
  Start();
  options_.port = server_->port();
  const auto second = GrpcServer::Start(options_, intake_, Clock::Real());
  EXPECT_EQ(second.status().code(), StatusCode::kUnavailable);
  EXPECT_THAT(Message(second.status()), HasSubstr("--grpc-port"));
}

}  // namespace
}  // namespace treeline
