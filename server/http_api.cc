#include "server/http_api.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <ctime>
#include <memory>
#include <utility>

#include "server/json_fields.h"
#include "server/sse.h"
#include "server/status_codes.h"

namespace treeline {

namespace {

using std::chrono::milliseconds;
using Wait = TokenStream::Wait;

// How often a waiting handler looks whether its client is still there.
constexpr milliseconds kPollInterval{100};
constexpr size_t kMaxLoggedFields = 1000;
constexpr size_t kMaxLoggedNameBytes = 80;

// One generation being answered; handler and streamed body share it.
struct Answer {
  Answer(OpenAiRequest parsed, Generation started, OpenAiResponse::Info info,
         const Tokenizer& tokenizer)
      : request(std::move(parsed)),
        generation(std::move(started)),
        response(request, std::move(info), generation.prompts(), tokenizer) {}

  const OpenAiRequest request;
  Generation generation;
  OpenAiResponse response;
};

// What a wait brought, besides TokenStream::Wait: the client may have gone.
enum class Await { kEvent, kEnd, kTimeout, kGone };

Await AwaitEvent(Answer* answer, HttpExchange& exchange, milliseconds timeout, TokenEvent* event) {
  while (timeout > milliseconds(0)) {
    if (exchange.ClientGone()) return Await::kGone;
    const milliseconds slice = std::min(timeout, kPollInterval);
    const Wait wait = answer->generation.Next(slice, event);
    if (wait == Wait::kEvent) return Await::kEvent;
    if (wait == Wait::kEnd) return Await::kEnd;
    timeout -= slice;
  }
  return Await::kTimeout;
}

void Note(const Answer& answer, HttpExchange& exchange) {
  const Usage& usage = answer.generation.usage();
  exchange.SetNote(fmt::format("prompt_tokens={} completion_tokens={} seed={}", usage.prompt_tokens,
                               usage.completion_tokens, answer.generation.seed()));
}

void AnswerWhole(Answer* answer, HttpExchange& exchange) {
  for (;;) {
    TokenEvent event;
    switch (AwaitEvent(answer, exchange, milliseconds::max(), &event)) {
      case Await::kEvent:
        answer->response.Add(event);
        break;
      case Await::kEnd:
        Note(*answer, exchange);
        if (!answer->generation.status().ok()) {
          return exchange.ReplyError(answer->generation.status());
        }
        return exchange.Reply(answer->response.Whole(answer->generation.usage()));
      case Await::kGone:
        return exchange.Abandon();  // Dropping the generation cancels it.
      case Await::kTimeout:
        break;
    }
  }
}

bool WriteEvent(Answer* answer, const TokenEvent& event, const HttpExchange::Writer& write) {
  const std::optional<Json> chunk = answer->response.Chunk(event);
  return !chunk.has_value() || write(SseEvent(*chunk));
}

void WriteEnd(const Answer& answer, const HttpExchange::Writer& write) {
  if (!answer.generation.status().ok()) {
    write(SseEvent(ErrorBody(answer.generation.status())));
    return;
  }
  if (answer.request.include_usage) {
    write(SseEvent(answer.response.UsageChunk(answer.generation.usage())));
  }
  write(kSseDone);
}

// Writes events until the end. `first` came before the status line went out.
void WriteStream(Answer* answer, HttpExchange& exchange, milliseconds ping_interval, Await state,
                 TokenEvent event, const HttpExchange::Writer& write) {
  for (;; state = AwaitEvent(answer, exchange, ping_interval, &event)) {
    bool alive = state != Await::kGone;
    if (state == Await::kEvent) alive = WriteEvent(answer, event, write);
    if (state == Await::kTimeout) alive = write(kSsePing);
    if (state == Await::kEnd) WriteEnd(*answer, write);
    if (state == Await::kEnd) break;
    if (!alive) {
      answer->generation.Cancel();
      exchange.Abandon();
      break;
    }
    event = TokenEvent();
  }
  Note(*answer, exchange);
}

void AnswerStream(std::shared_ptr<Answer> answer, HttpExchange& exchange,
                  milliseconds ping_interval) {
  TokenEvent event;
  const Await first = AwaitEvent(answer.get(), exchange, ping_interval, &event);
  if (first == Await::kGone) return exchange.Abandon();  // Dropping the generation cancels it.
  if (first == Await::kEnd && !answer->generation.status().ok()) {
    return exchange.ReplyError(answer->generation.status());
  }
  exchange.ReplyStream(kSseContentType,
                       [answer = std::move(answer), &exchange, ping_interval, first,
                        event = std::move(event)](const HttpExchange::Writer& write) {
                         WriteStream(answer.get(), exchange, ping_interval, first, event, write);
                       });
}

StatusOr<Json> ParseBody(const HttpExchange& exchange) {
  TREELINE_ASSIGN_OR_RETURN(Json body, ParseJson(exchange.request().body, "the request body"));
  if (!body.is_object()) return InvalidArgument("the request body must be a JSON object");
  return body;
}

void ReplyWith(const StatusOr<Json>& reply, HttpExchange& exchange) {
  if (reply.ok()) {
    exchange.Reply(*reply);
  } else {
    exchange.ReplyError(reply.status());
  }
}

}  // namespace

HttpApi::HttpApi(Options options, GenerationService& service, Metrics& metrics)
    : options_(std::move(options)), service_(service), metrics_(metrics) {}

void HttpApi::Register(HttpServer* server) {
  using Kind = HttpServer::RouteKind;
  server->Route("GET", "/v1/models", Kind::kApi, [this](HttpExchange& e) { ListModels(e); });
  server->Route("GET", "/v1/models/", Kind::kApi, [this](HttpExchange& e) { GetModel(e); });
  server->Route("POST", "/v1/completions", Kind::kApi,
                [this](HttpExchange& e) { Generate(ApiKind::kCompletion, e); });
  server->Route("POST", "/v1/chat/completions", Kind::kApi,
                [this](HttpExchange& e) { Generate(ApiKind::kChat, e); });
  server->Route("POST", "/tokenize", Kind::kApi, [this](HttpExchange& e) { Tokenize(e); });
  server->Route("POST", "/detokenize", Kind::kApi, [this](HttpExchange& e) { Detokenize(e); });
  server->Route("GET", "/health", Kind::kProbe, [](HttpExchange& e) {
    e.Reply({{"status", "ok"}});
  });
  server->Route("GET", "/ready", Kind::kProbe, [this](HttpExchange& e) {
    const Status ready = service_.Ready();
    if (!ready.ok()) return e.ReplyError(ready);
    e.Reply({{"status", "ready"}});
  });
  server->Route("GET", "/version", Kind::kProbe, [this](HttpExchange& e) {
    e.Reply({{"version", options_.version}});
  });
  server->Route("GET", "/metrics", Kind::kProbe, [this](HttpExchange& e) {
    e.ReplyText(metrics_.Text(), "text/plain; version=0.0.4; charset=utf-8");
  });
}

Json HttpApi::ModelJson(const std::string& name) const {
  return {{"id", name},
          {"object", "model"},
          {"created", options_.created},
          {"owned_by", "treeline"},
          {"max_model_len", service_.options().max_context}};
}

void HttpApi::ListModels(HttpExchange& exchange) const {
  Json models = Json::array();
  for (const std::string& name : service_.options().model_names) {
    models.push_back(ModelJson(name));
  }
  exchange.Reply({{"object", "list"}, {"data", std::move(models)}});
}

void HttpApi::GetModel(HttpExchange& exchange) const {
  const std::string name = exchange.request().path.substr(sizeof("/v1/models/") - 1);
  const Status known = service_.CheckModel(name);
  if (!known.ok()) return exchange.ReplyError(known);
  exchange.Reply(ModelJson(name));
}

void HttpApi::LogUnknownFields(const std::vector<std::string>& names) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (const std::string& name : names) {
    const std::string shown = name.substr(0, kMaxLoggedNameBytes);
    if (logged_fields_.size() >= kMaxLoggedFields || !logged_fields_.insert(shown).second) continue;
    spdlog::warn("ignoring the unknown request field {}", Quote(shown));
  }
}

StatusOr<OpenAiRequest> HttpApi::Parse(ApiKind kind, const HttpExchange& exchange) const {
  TREELINE_ASSIGN_OR_RETURN(const Json body, ParseBody(exchange));
  const RequestLimits limits{service_.options().vocab_size, options_.sampling_defaults};
  TREELINE_ASSIGN_OR_RETURN(OpenAiRequest request, ParseOpenAiRequest(kind, body, limits));
  request.generation.id = exchange.request().id;
  request.generation.arrival = exchange.request().arrival;
  return request;
}

void HttpApi::Generate(ApiKind kind, HttpExchange& exchange) {
  StatusOr<OpenAiRequest> request = Parse(kind, exchange);
  if (!request.ok()) return exchange.ReplyError(request.status());
  LogUnknownFields(request->unknown_fields);
  StatusOr<Generation> generation = service_.Start(request->generation);
  if (!generation.ok()) return exchange.ReplyError(generation.status());

  OpenAiResponse::Info info{exchange.request().id, service_.options().model_names.front(),
                            std::time(nullptr)};
  auto answer = std::make_shared<Answer>(*std::move(request), *std::move(generation),
                                         std::move(info), service_.tokenizer());
  if (answer->request.stream) {
    AnswerStream(std::move(answer), exchange, options_.ping_interval);
  } else {
    AnswerWhole(answer.get(), exchange);
  }
}

StatusOr<Json> HttpApi::TokenizeBody(const Json& body) const {
  JsonFields fields(body);
  std::string model;
  fields.String("model", &model);
  bool add_special = true;
  fields.Bool("add_special_tokens", &add_special);
  std::string prompt;
  fields.String("prompt", &prompt);
  const Json* messages = fields.Find("messages");
  TREELINE_RETURN_IF_ERROR(fields.status());
  TREELINE_RETURN_IF_ERROR(service_.CheckModel(model));
  if ((messages == nullptr) == (fields.Find("prompt") == nullptr)) {
    return FieldError("prompt", "send either prompt or messages");
  }
  std::vector<int32_t> tokens;
  if (messages != nullptr) {
    TREELINE_ASSIGN_OR_RETURN(const Json parsed, ParseMessages(*messages));
    TREELINE_ASSIGN_OR_RETURN(tokens, service_.TokenizeChat(parsed));
  } else {
    TREELINE_ASSIGN_OR_RETURN(tokens, service_.Tokenize(prompt, add_special));
  }
  return Json{{"count", tokens.size()},
              {"max_model_len", service_.options().max_context},
              {"tokens", tokens}};
}

void HttpApi::Tokenize(HttpExchange& exchange) const {
  const StatusOr<Json> body = ParseBody(exchange);
  ReplyWith(body.ok() ? TokenizeBody(*body) : body, exchange);
}

StatusOr<Json> HttpApi::DetokenizeBody(const Json& body) const {
  JsonFields fields(body);
  std::string model;
  fields.String("model", &model);
  const Json* tokens = fields.Find("tokens");
  TREELINE_RETURN_IF_ERROR(fields.status());
  TREELINE_RETURN_IF_ERROR(service_.CheckModel(model));
  if (tokens == nullptr) return FieldError("tokens", "tokens is missing");
  TREELINE_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                            ParseTokenIds(*tokens, "tokens", service_.options().vocab_size));
  return Json{{"prompt", service_.tokenizer().Decode(ids, /*skip_special=*/false)}};
}

void HttpApi::Detokenize(HttpExchange& exchange) const {
  const StatusOr<Json> body = ParseBody(exchange);
  ReplyWith(body.ok() ? DetokenizeBody(*body) : body, exchange);
}

}  // namespace treeline
