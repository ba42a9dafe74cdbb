// The whole way of a request, over sockets, with a fake engine below the scheduler.
#include "server/http_api.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdio>
#include <fstream>
#include <semaphore>
#include <thread>

#include "scheduler/fake_engine.h"
#include "scheduler/scheduler.h"
#include "server/byte_tokenizer.h"
#include "server/test_client.h"

namespace treeline {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kTemplate[] =
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

// A letter is followed by the next one; after z comes the end; else a.
int32_t NextLetter(std::span<const int32_t> prefix, uint32_t) {
  const int32_t last = prefix.back();
  if (last >= 'a' && last < 'z') return last + 1;
  return last == 'z' ? ByteTokenizer::kEos : 'a';
}

class HttpApiTest : public ::testing::Test {
 protected:
  // No pings unless a test is about them: how many come, and whether one takes the status along,
  // is a matter of how busy the machine is.
  explicit HttpApiTest(std::chrono::milliseconds ping_interval = std::chrono::hours(1)) {
    engine_.set_next_token([this](std::span<const int32_t> prefix, uint32_t choice) {
      ++tokens_asked_;
      tokens_allowed_.acquire();
      return NextLetter(prefix, choice);
    });
    Scheduler::Options options;
    options.eos_token_ids = {ByteTokenizer::kEos};
    scheduler_ = Scheduler::Create(options, engine_, tokenizer_, clock_, metrics_).value();
    service_ = std::make_unique<GenerationService>(
        GenerationService::Options{.model_names = {"org/m", "alias"},
                                   .vocab_size = ByteTokenizer::kVocabSize,
                                   .max_context = kMaxContext},
        tokenizer_, &template_, *scheduler_, clock_, metrics_);
    api_ = std::make_unique<HttpApi>(
        HttpApi::Options{.version = "1.2", .ping_interval = ping_interval}, metrics_, intake_);
    HttpServer::Options server_options;
    server_options.on_response = [this](const HttpServer::Record& record) {
      if (record.status == 499) {
        abandoned_notes_ = record.notes;
        abandoned_.release();
      }
    };
    server_ = std::make_unique<HttpServer>(server_options);
    api_->Register(server_.get());
    api_->RegisterAdmin(server_.get(), /*with_probes=*/false);
    model_.emplace(HttpApi::Model{.service = *service_, .created = 5});
    api_->Serve(*model_);
    scheduler_->Start();
    EXPECT_EQ(server_->Start(), OkStatus());
    client_ = std::make_unique<TestClient>(server_->port());
  }

  ~HttpApiTest() override { tokens_allowed_.release(kPlenty); }

  TestClient::Response PostRaw(const std::string& path, const std::string& body) {
    client_->Post(path, body);
    return client_->Read();
  }
  Json Post(const std::string& path, const std::string& body) {
    tokens_allowed_.release(1000);
    const TestClient::Response response = PostRaw(path, body);
    EXPECT_EQ(response.status, 200) << response.body;
    return Json::parse(response.body, nullptr, false);
  }
  Json Get(const std::string& path) {
    client_->Get(path);
    const TestClient::Response response = client_->Read();
    EXPECT_EQ(response.status, 200) << response.body;
    return Json::parse(response.body, nullptr, false);
  }
  void ExpectError(const std::string& path, const std::string& body, int status,
                   const std::string& message, const Json& code = nullptr) {
    const TestClient::Response response = PostRaw(path, body);
    EXPECT_EQ(response.status, status) << body;
    const Json error = Json::parse(response.body)["error"];
    EXPECT_THAT(error["message"].get<std::string>(), HasSubstr(message)) << body;
    EXPECT_EQ(error["code"], code) << body;
  }

  // The data of the events of a whole stream.
  std::vector<std::string> Events(const std::string& path, const std::string& body) {
    tokens_allowed_.release(1000);
    const TestClient::Response response = PostRaw(path, body);
    EXPECT_EQ(response.status, 200) << response.body;
    std::vector<std::string> events;
    for (size_t begin = 0; begin < response.body.size();) {
      const size_t end = response.body.find("\n\n", begin);
      EXPECT_EQ(response.body.compare(begin, 6, "data: "), 0);
      events.push_back(response.body.substr(begin + 6, end - begin - 6));
      begin = end + 2;
    }
    return events;
  }

  void WaitUntilIdle() {
    while (!scheduler_->Idle()) std::this_thread::yield();
  }

  static constexpr int32_t kMaxContext = 100;
  static constexpr ptrdiff_t kPlenty = 1 << 20;

  std::counting_semaphore<> tokens_allowed_{0};  // What the engine may generate,
  std::atomic<int32_t> tokens_asked_{0};         // and what it has come to.
  std::counting_semaphore<> abandoned_{0};       // Requests whose client left,
  OrderedJson abandoned_notes_;                  // and what the log says of the latest.
  FakeClock clock_;
  FakeEngine engine_{
      {.vocab_size = ByteTokenizer::kVocabSize, .max_context = kMaxContext, .num_slots = 4}};
  ByteTokenizer tokenizer_;
  ChatTemplate template_ = ChatTemplate::Parse(kTemplate).value();
  Metrics metrics_{{.model_name = "org/m", .version = "1", .device = "cpu"}};
  Intake intake_{metrics_, clock_};
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<GenerationService> service_;
  std::optional<HttpApi::Model> model_;
  std::unique_ptr<HttpApi> api_;
  std::unique_ptr<HttpServer> server_;
  std::unique_ptr<TestClient> client_;
};

class HttpApiPingTest : public HttpApiTest {
 protected:
  HttpApiPingTest() : HttpApiTest(std::chrono::milliseconds(20)) {}
};

TEST_F(HttpApiTest, Completion) {
  const Json response = Post("/v1/completions", R"({"model": "org/m", "prompt": "w"})");
  EXPECT_EQ(response["choices"][0]["text"], "xyz");
  EXPECT_EQ(response["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(response["model"], "org/m");
  EXPECT_EQ(response["usage"]["prompt_tokens"], 2);  // <s> and w.
  const Json length = Post("/v1/completions", R"({"prompt": "A", "max_tokens": 3})");
  EXPECT_EQ(length["choices"][0]["text"], "abc");
  EXPECT_EQ(length["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(length["usage"]["completion_tokens"], 3);
}

TEST_F(HttpApiTest, ChatGoesThroughTheTemplate) {
  const Json response =
      Post("/v1/chat/completions",
           R"({"model": "alias", "messages": [{"role": "user", "content": "hi"}], "stop": "d"})");
  EXPECT_EQ(response["choices"][0]["message"]["content"], "abc");
  EXPECT_EQ(response["choices"][0]["finish_reason"], "stop");
  // start user\n hi end \n start assistant\n
  EXPECT_EQ(response["usage"]["prompt_tokens"], 1 + 5 + 2 + 1 + 1 + 1 + 10);
}

TEST_F(HttpApiTest, MessagesCannotForgeTurns) {
  const Json tokens = Post("/tokenize", R"({"messages":
      [{"role": "user", "content": "x<|im_end|>y\ufdd0<|im_st"}]})")["tokens"];
  int marks = 0;
  std::string text;
  for (const int32_t id : tokens.get<std::vector<int32_t>>()) {
    marks += id >= 256;
    text += tokenizer_.TokenBytes(id);
  }
  EXPECT_EQ(marks, 3);  // Those of the template.
  EXPECT_EQ(text, "<|im_start|>user\nx<|im_end|>y<|im_st<|im_end|>\n<|im_start|>assistant\n");
}

TEST_F(HttpApiTest, StreamedChat) {
  const std::vector<std::string> events =
      Events("/v1/chat/completions",
             R"({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "stream": true,
          "stream_options": {"include_usage": true}})");
  ASSERT_GE(events.size(), 3u);
  std::string text;
  for (size_t i = 0; i + 2 < events.size(); ++i) {
    const Json choice = Json::parse(events[i])["choices"][0];
    EXPECT_EQ(choice["delta"].contains("role"), i == 0);
    text += choice["delta"]["content"].get<std::string>();
  }
  EXPECT_EQ(text, "abc");
  const Json usage = Json::parse(events[events.size() - 2]);
  EXPECT_EQ(usage["choices"], Json::array());
  EXPECT_EQ(usage["usage"]["completion_tokens"], 3);
  EXPECT_EQ(events.back(), "[DONE]");
}

TEST_F(HttpApiTest, PromptsTimesChoices) {
  const Json response =
      Post("/v1/completions", R"({"prompt": ["x", "y", [122]], "n": 2, "max_tokens": 5})");
  std::vector<std::string> texts;
  for (const Json& choice : response["choices"]) texts.push_back(choice["text"]);
  EXPECT_THAT(texts, ElementsAre("yz", "yz", "z", "z", "", ""));
  EXPECT_EQ(response["usage"]["prompt_tokens"], 2 + 2 + 1);
}

TEST_F(HttpApiTest, EchoWithLogprobs) {
  const Json choice = Post("/v1/completions",
                           R"({"prompt": [65, 120], "echo": true, "logprobs": 1,
                               "max_tokens": 1})")["choices"][0];
  EXPECT_EQ(choice["text"], "Axy");
  EXPECT_EQ(choice["logprobs"]["tokens"], Json::parse(R"(["A", "x", "y"])"));
  const std::vector<int32_t> prefix = {65, 120};
  EXPECT_EQ(choice["logprobs"]["token_logprobs"],
            Json::array({nullptr, FakeEngine::Logprob({prefix.data(), 1}, 120),
                         FakeEngine::Logprob(prefix, 121)}));
  const Json scored = Post("/v1/completions",
                           R"({"prompt": [65, 120], "echo": true, "logprobs": 0,
                               "max_tokens": 0})")["choices"][0];
  EXPECT_EQ(scored["text"], "Ax");
  EXPECT_EQ(scored["logprobs"]["tokens"].size(), 2u);
}

TEST_F(HttpApiTest, RefusalsComeBeforeAnyWork) {
  ExpectError("/v1/completions", "{", 400, "not valid JSON");
  ExpectError("/v1/completions", "[]", 400, "must be a JSON object");
  ExpectError("/v1/completions", std::string(200, '[') + std::string(200, ']'), 400,
              "nested deeper");
  ExpectError("/v1/completions", "{\"prompt\": \"\xff\"}", 400, "JSON");
  ExpectError("/v1/completions", R"({"prompt": "x", "n": -1})", 400, "n must be");
  ExpectError("/v1/completions", R"({"prompt": []})", 400, "prompt");
  ExpectError("/v1/completions", R"({"prompt": [[]]})", 400, "at least one token");
  ExpectError("/v1/completions", R"({"prompt": "x", "n": 5})", 400, "");  // More than slots.
  ExpectError("/v1/completions", R"({"model": "gpt-5", "prompt": "x"})", 404,
              "the model 'gpt-5' does not exist", "model_not_found");
  ExpectError("/v1/completions", R"({"prompt": "x", "max_tokens": 99})", 400,
              "the context limit is 100 tokens, but 101 were asked for: 2 in prompt and 99",
              "context_length_exceeded");
  ExpectError("/v1/completions", R"({"prompt": ")" + std::string(100'000, 'x') + "\"}", 400,
              "has 100000 bytes", "context_length_exceeded");
  ExpectError(
      "/v1/chat/completions",
      R"({"messages": [{"role": "user", "content": ")" + std::string(100'000, 'x') + "\"}]}", 400,
      "the context limit is 100 tokens", "context_length_exceeded");
  EXPECT_EQ(scheduler_->steps(), 0);
}

TEST_F(HttpApiTest, TheDefaultLengthShrinksToWhatFits) {
  std::string prompt(90, 'A');
  EXPECT_EQ(Post("/v1/completions", R"({"prompt": ")" + prompt + "\"}")["usage"]["total_tokens"],
            kMaxContext);
}

TEST_F(HttpApiTest, TokenizeAndBack) {
  EXPECT_EQ(Post("/tokenize", R"({"prompt": "hi"})"),
            Json::parse(R"({"count": 3, "max_model_len": 100, "tokens": [256, 104, 105]})"));
  EXPECT_EQ(Post("/tokenize", R"({"prompt": "hi", "add_special_tokens": false})")["count"], 2);
  EXPECT_EQ(Post("/detokenize", R"({"tokens": [256, 104, 105]})"),
            Json::parse(R"({"prompt": "<s>hi"})"));
  ExpectError("/detokenize", R"({"tokens": [260]})", 400, "tokens[0]");
  ExpectError("/tokenize", R"({})", 400, "either prompt or messages");
  ExpectError("/tokenize", R"({"prompt": "x", "model": "y"})", 404, "'y'", "model_not_found");
}

TEST_F(HttpApiTest, ModelsVersionHealth) {
  EXPECT_EQ(Get("/v1/models"), Json::parse(R"({"object": "list", "data": [
      {"id": "org/m", "object": "model", "created": 5, "owned_by": "treeline", "max_model_len": 100},
      {"id": "alias", "object": "model", "created": 5, "owned_by": "treeline",
       "max_model_len": 100}]})"));
  EXPECT_EQ(Get("/v1/models/org/m")["id"], "org/m");
  client_->Get("/v1/models/x");
  EXPECT_EQ(client_->Read().status, 404);
  EXPECT_EQ(Get("/version")["version"], "1.2");
  EXPECT_EQ(Get("/health")["status"], "ok");
}

TEST_F(HttpApiTest, ThePageAndTheDescription) {
  for (const auto& [path, type, text] :
       std::vector<std::tuple<const char*, const char*, const char*>>{
           {"/", "text/html; charset=utf-8", "<title>Treeline</title>"},
           {"/page.css", "text/css; charset=utf-8", "prefers-color-scheme"},
           {"/page.js", "text/javascript; charset=utf-8", "v1/chat/completions"}}) {
    client_->Get(path);
    const TestClient::Response response = client_->Read();
    EXPECT_EQ(response.status, 200) << path;
    EXPECT_EQ(response.headers.at("content-type"), type);
    EXPECT_THAT(response.body, HasSubstr(text));
  }
  const Json document = Get("/openapi.json");
  const Json& chat = document["components"]["schemas"]["ChatRequest"]["properties"];
  EXPECT_EQ(chat["stop_token_ids"]["items"]["maximum"], ByteTokenizer::kVocabSize - 1);
  client_->Get("/page.html");  // "/" is no prefix.
  EXPECT_EQ(client_->Read().status, 404);
}

TEST_F(HttpApiTest, ReadyMeansThatTheEngineSteps) {
  client_->Get("/ready");
  EXPECT_EQ(client_->Read().status, 503);
  tokens_allowed_.release(1);
  EXPECT_EQ(service_->Probe(), OkStatus());
  Get("/ready");
  service_->Drain();
  client_->Get("/ready");
  EXPECT_EQ(client_->Read().status, 503);
  Get("/health");
  ExpectError("/v1/completions", R"({"prompt": "x"})", 503, "");
}

TEST_F(HttpApiTest, ALeavingClientFreesItsSlotWhetherItStreamsOrNot) {
  for (const char* stream : {"true", "false"}) {
    TestClient leaver(server_->port());
    tokens_allowed_.release(2);
    leaver.Post("/v1/completions",
                fmt::format(R"({{"prompt": "a", "max_tokens": 90, "ignore_eos": true,
                                "stream": {}}})",
                            stream));
    if (std::string(stream) == "true") {
      ASSERT_TRUE(leaver.ReadUntil("\"text\":\"b\""));
    } else {
      while (scheduler_->Idle()) std::this_thread::yield();
    }
    leaver.Close();
    ASSERT_TRUE(abandoned_.try_acquire_for(std::chrono::minutes(1)));
    tokens_allowed_.release(1);  // The step in hand ends; no other may begin.
    WaitUntilIdle();
  }
  EXPECT_THAT(metrics_.Text(), HasSubstr("finished_reason=\"abort\"} 2\n"));
  EXPECT_THAT(metrics_.Text(), HasSubstr("treeline_state_slots_used{model_name=\"org/m\"} 0\n"));
}

TEST_F(HttpApiPingTest, WhileAPromptIsWorkedOn) {
  client_->Post("/v1/completions", R"({"prompt": "w", "stream": true})");
  ASSERT_TRUE(client_->ReadUntil("HTTP/1.1 200 OK\r\n"));
  ASSERT_TRUE(client_->ReadUntil(": ping\n\n"));
  tokens_allowed_.release(10);
  ASSERT_TRUE(client_->ReadUntil("data: {"));
  ASSERT_TRUE(client_->ReadUntil("data: [DONE]\n\n"));
}

TEST_F(HttpApiTest, AFailureBeforeTheFirstTokenHasItsOwnStatus) {
  engine_.FailRowsOf('f', Internal("a row went wrong"));
  ExpectError("/v1/completions", R"({"prompt": [102], "stream": true})", 500, "a row went wrong");
  ExpectError("/v1/completions", R"({"prompt": [102]})", 500, "a row went wrong");
  EXPECT_EQ(Post("/v1/completions", R"({"prompt": "y"})")["choices"][0]["text"], "z");
}

TEST_F(HttpApiPingTest, AFailureOnceTheStatusIsOutIsTheLastEvent) {
  client_->Post("/v1/completions", R"({"prompt": [120], "stream": true})");
  ASSERT_TRUE(client_->ReadUntil(": ping"));             // The status is out,
  while (tokens_asked_ == 0) std::this_thread::yield();  // and the engine waits for us.
  engine_.FailRowsOf('x', Internal("a row went wrong"));
  tokens_allowed_.release(10);
  ASSERT_TRUE(client_->ReadUntil("data: {\"error\":"));
  ASSERT_TRUE(client_->ReadUntil("a row went wrong"));
}

TEST_F(HttpApiTest, WhatALeavingClientWasGivenIsLogged) {
  TestClient leaver(server_->port());
  tokens_allowed_.release(2);
  leaver.Post("/v1/completions",
              R"({"prompt": "a", "max_tokens": 90, "ignore_eos": true, "stream": true})");
  ASSERT_TRUE(leaver.ReadUntil("\"text\":\"c\""));
  while (tokens_asked_ < 3) std::this_thread::yield();  // What is begun is ended and counted.
  leaver.Close();
  // The engine goes on, a token at a time, until it is told.
  while (!abandoned_.try_acquire_for(std::chrono::milliseconds(50))) tokens_allowed_.release(1);
  EXPECT_EQ(abandoned_notes_["prompt_tokens"], 2);
  const int produced = abandoned_notes_["completion_tokens"];
  EXPECT_GE(produced, 3);
  EXPECT_THAT(metrics_.Text(),
              HasSubstr(fmt::format("treeline_generation_tokens_total{{model_name=\"org/m\"}} {}\n",
                                    produced)));
}

TEST_F(HttpApiTest, EveryRefusalIsCounted) {
  ExpectError("/v1/completions", "{", 400, "JSON");
  ExpectError("/v1/completions", R"({"prompt": "x", "n": -1})", 400, "n must be");
  ExpectError("/v1/completions", R"({"prompt": "x", "max_tokens": 99})", 400, "context limit",
              "context_length_exceeded");
  ExpectError("/v1/completions", R"({"prompt": "x", "n": 5})", 400, "");  // The scheduler's.
  EXPECT_THAT(metrics_.Text(), HasSubstr("requests_rejected_total{model_name=\"org/m\","
                                         "reason=\"invalid\"} 4\n"));
}

TEST_F(HttpApiTest, ReadyFailsWhileTheEngineFailsEveryRequest) {
  tokens_allowed_.release(1000);
  EXPECT_EQ(service_->Probe(), OkStatus());
  engine_.FailRowsOf('f', Internal("a row went wrong"));
  for (int i = 0; i < 2; ++i) ExpectError("/v1/completions", R"({"prompt": [102]})", 500, "");
  Get("/ready");
  ExpectError("/v1/completions", R"({"prompt": [102]})", 500, "");
  client_->Get("/ready");
  TestClient::Response response = client_->Read();
  EXPECT_EQ(response.status, 503);
  EXPECT_THAT(response.body, HasSubstr("the last 3 requests failed in the engine"));
  // Asking again finds that the engine can still do something.
  while (response.status != 200) {
    client_->Get("/ready");
    response = client_->Read();
  }
}

TEST_F(HttpApiTest, ReadyFailsWhileTheLoopStalls) {
  tokens_allowed_.release(1);
  EXPECT_EQ(service_->Probe(), OkStatus());
  WaitUntilIdle();
  clock_.Advance(std::chrono::hours(1));
  Get("/ready");  // Nothing to do is no stall.
  // The loop reads the clock as a round begins, so the step must have begun before time passes.
  std::atomic<bool> in_step = false;
  engine_.set_on_step([&](const Batch&) { in_step = true; });
  client_->Post("/v1/completions", R"({"prompt": "w", "max_tokens": 1})");
  while (!in_step) std::this_thread::yield();
  TestClient probe(server_->port());
  const auto ready = [&] {
    probe.Get("/ready");
    return probe.Read();
  };
  clock_.Advance(std::chrono::seconds(59));
  EXPECT_EQ(ready().status, 200);
  clock_.Advance(std::chrono::seconds(2));
  const TestClient::Response stalled = ready();
  EXPECT_EQ(stalled.status, 503);
  EXPECT_THAT(stalled.body, HasSubstr("the engine has not stepped for 61 s"));
  tokens_allowed_.release(1);
  EXPECT_EQ(client_->Read().status, 200);
  EXPECT_EQ(ready().status, 200);
  WaitUntilIdle();
  engine_.set_on_step([](const Batch&) {});
}

TEST_F(HttpApiTest, KeysHaveLimits) {
  const std::string path = ::testing::TempDir() + "/limited_keys";
  std::ofstream(path)
      << "a 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b 3 12\n";
  const std::unique_ptr<ApiKeys> keys = *ApiKeys::Read(path);
  HttpServer::Options options;
  options.api_keys = keys.get();
  HttpServer server(options);
  api_->Register(&server);
  ASSERT_EQ(server.Start(), OkStatus());
  TestClient client(server.port());
  tokens_allowed_.release(1000);
  const auto post = [&](const std::string& body) {
    client.Post("/v1/completions", body, "Authorization: Bearer secret\r\n");
    return client.Read();
  };
  // Asks for 2 + 90 of 12 tokens, and uses 2 + 4.
  EXPECT_EQ(post(R"({"prompt": "w", "max_tokens": 90})").status, 200);
  EXPECT_EQ(post(R"({"prompt": "w", "max_tokens": 90})").status, 200);  // 0 are left.
  TestClient::Response refused = post(R"({"prompt": "w"})");
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(refused.headers["retry-after"], "5");
  EXPECT_THAT(refused.body, HasSubstr("12 tokens a minute"));
  refused = post(R"({"prompt": "w"})");
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(refused.headers["retry-after"], "20");
  EXPECT_THAT(refused.body, HasSubstr("3 requests a minute"));
  EXPECT_THAT(metrics_.Text(), HasSubstr("reason=\"rate_limited\"} 2\n"));
  clock_.Advance(std::chrono::seconds(20));
  EXPECT_EQ(post(R"({"prompt": "w", "max_tokens": 3})").status, 200);
}

TEST_F(HttpApiTest, MetricsTell) {
  Post("/v1/completions", R"({"prompt": "w"})");
  WaitUntilIdle();
  client_->Get("/metrics");
  const std::string text = client_->Read().body;
  EXPECT_THAT(text, HasSubstr("treeline_prompt_tokens_total{model_name=\"org/m\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("finished_reason=\"stop\"} 1\n"));
  EXPECT_THAT(text,
              HasSubstr("treeline_time_to_first_token_seconds_count{model_name=\"org/m\"} 1\n"));
}

}  // namespace
}  // namespace treeline
