#include "server/http_api.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <ctime>
#include <limits>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "engine/base/json.h"
#include "server/openai_response.h"
#include "server/openapi.h"
#include "server/page/page.h"
#include "server/sse.h"
#include "server/status_codes.h"
#include "server/tokenize_request.h"

namespace treeline {

namespace {

using std::chrono::milliseconds;
using Wait = TokenStream::Wait;

// Whoever takes it, Prometheus among them, prefers it to plain text.
constexpr char kOpenMetrics[] = "application/openmetrics-text";
// How often a waiting handler looks whether its client is still there.
constexpr milliseconds kPollInterval{100};
// How long a cancelled request's end is waited for, to log what it produced.
constexpr milliseconds kCancelTimeout{1000};

// One generation being answered; handler and streamed body share it.
struct Answer {
  Answer(Intake::Accepted started, OpenAiResponse::Info info, const Tokenizer& tokenizer)
      : accepted(std::move(started)),
        response(accepted.request, std::move(info), generation.prompts(), tokenizer) {}

  Intake::Accepted accepted;
  Generation& generation = accepted.generation;
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

void Note(Answer* answer, HttpExchange& exchange) {
  answer->accepted.Account(answer->generation.usage());
  exchange.SetNotes(answer->accepted.Notes());
}

// The client has gone, or does not read: nothing more is made for it.
void Abandon(Answer* answer, HttpExchange& exchange) {
  exchange.Abandon();
  answer->generation.CancelAndWait(kCancelTimeout);
  Note(answer, exchange);
}

void AnswerWhole(Answer* answer, HttpExchange& exchange) {
  for (;;) {
    TokenEvent event;
    switch (AwaitEvent(answer, exchange, milliseconds::max(), &event)) {
      case Await::kEvent:
        answer->response.Add(event);
        break;
      case Await::kEnd:
        Note(answer, exchange);
        if (!answer->generation.status().ok()) {
          return exchange.ReplyError(answer->generation.status());
        }
        return exchange.Reply(answer->response.Whole(answer->generation.usage()));
      case Await::kGone:
        return Abandon(answer, exchange);
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
  if (answer.accepted.request.include_usage) {
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
    if (!alive) return Abandon(answer, exchange);
    event = TokenEvent();
  }
  Note(answer, exchange);
}

void AnswerStream(std::shared_ptr<Answer> answer, HttpExchange& exchange,
                  milliseconds ping_interval) {
  TokenEvent event;
  const Await first = AwaitEvent(answer.get(), exchange, ping_interval, &event);
  if (first == Await::kGone) return Abandon(answer.get(), exchange);
  if (first == Await::kEnd && !answer->generation.status().ok()) {
    Note(answer.get(), exchange);
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

Json ModelJson(const HttpApi::Model& model, const std::string& name) {
  return {{"id", name},
          {"object", "model"},
          {"created", model.created},
          {"owned_by", "treeline"},
          {"max_model_len", model.service.options().max_context}};
}

StatusOr<Json> TokenizeBody(const GenerationService& service, const Json& body) {
  TREELINE_ASSIGN_OR_RETURN(const TokenizeRequest request, ParseTokenizeRequest(body));
  TREELINE_RETURN_IF_ERROR(service.CheckModel(request.model));
  std::vector<int32_t> tokens;
  if (!request.messages.is_null()) {
    TREELINE_ASSIGN_OR_RETURN(tokens, service.TokenizeChat(request.messages));
  } else {
    TREELINE_ASSIGN_OR_RETURN(tokens, service.Tokenize(request.prompt, request.add_special_tokens));
  }
  return Json{{"count", tokens.size()},
              {"max_model_len", service.options().max_context},
              {"tokens", tokens}};
}

StatusOr<Json> DetokenizeBody(const GenerationService& service, const Json& body) {
  TREELINE_ASSIGN_OR_RETURN(const DetokenizeRequest request,
                            ParseDetokenizeRequest(body, service.options().vocab_size));
  TREELINE_RETURN_IF_ERROR(service.CheckModel(request.model));
  return Json{{"prompt", service.tokenizer().Decode(request.tokens, /*skip_special=*/false)}};
}

}  // namespace

HttpApi::HttpApi(Options options, Metrics& metrics, Intake& intake)
    : options_(std::move(options)), metrics_(metrics), intake_(intake) {}

void HttpApi::Route(HttpServer* server, const std::string& method, const std::string& path,
                    ModelHandler handler) {
  server->Route(method, path, HttpServer::RouteKind::kApi, [this, handler](HttpExchange& e) {
    if (const Model* model = model_) return (this->*handler)(*model, e);
    metrics_.OnRejected("loading");
    e.ReplyError(StillLoading());
  });
}

void HttpApi::Register(HttpServer* server) {
  Route(server, "GET", "/v1/models", &HttpApi::ListModels);
  Route(server, "GET", "/v1/models/", &HttpApi::GetModel);
  Route(server, "POST", "/v1/completions", &HttpApi::Complete);
  Route(server, "POST", "/v1/chat/completions", &HttpApi::Chat);
  Route(server, "POST", "/tokenize", &HttpApi::Tokenize);
  Route(server, "POST", "/detokenize", &HttpApi::Detokenize);
  RegisterPage(server);
  RegisterProbes(server);
}

void HttpApi::RegisterPage(HttpServer* server) {
  struct File {
    const char* path;
    const char* content;
    const char* type;
  };
  for (const File& file : {File{"/", kPageHtml, "text/html; charset=utf-8"},
                           File{"/page.css", kPageCss, "text/css; charset=utf-8"},
                           File{"/page.js", kPageJs, "text/javascript; charset=utf-8"}}) {
    server->Route("GET", file.path, HttpServer::RouteKind::kProbe,
                  [file](HttpExchange& e) { e.ReplyText(file.content, file.type); });
  }
  server->Route("GET", "/openapi.json", HttpServer::RouteKind::kProbe, [this](HttpExchange& e) {
    const Model* model = model_;
    RequestLimits limits;
    limits.vocab_size = model != nullptr ? model->service.options().vocab_size
                                         : std::numeric_limits<int32_t>::max();
    e.Reply(OpenApiDocument(options_.version, limits));
  });
}

void HttpApi::RegisterProbes(HttpServer* server) {
  constexpr auto kProbe = HttpServer::RouteKind::kProbe;
  server->Route("GET", "/health", kProbe, [this](HttpExchange& e) { Health(e); });
  server->Route("GET", "/ready", kProbe, [this](HttpExchange& e) { Ready(e); });
}

void HttpApi::RegisterAdmin(HttpServer* server, bool with_probes) {
  constexpr auto kProbe = HttpServer::RouteKind::kProbe;
  if (with_probes) RegisterProbes(server);
  server->Route("GET", "/version", kProbe, [this](HttpExchange& e) {
    e.Reply({{"version", options_.version}});
  });
  server->Route("GET", "/metrics", kProbe, [this](HttpExchange& e) {
    if (e.request().accept.find(kOpenMetrics) != std::string::npos) {
      e.ReplyText(metrics_.OpenMetrics(),
                  fmt::format("{}; version=1.0.0; charset=utf-8", kOpenMetrics));
    } else {
      e.ReplyText(metrics_.Text(), "text/plain; version=0.0.4; charset=utf-8");
    }
  });
}

// While the model is being loaded nothing is wrong.
void HttpApi::Health(HttpExchange& exchange) {
  const Model* model = model_;
  const Status health = model != nullptr ? model->service.Health() : OkStatus();
  if (!health.ok()) return exchange.ReplyError(health);
  exchange.Reply({{"status", "ok"}});
}

void HttpApi::Ready(HttpExchange& exchange) {
  const Model* model = model_;
  const Status ready = model != nullptr ? model->service.Ready() : StillLoading();
  if (!ready.ok()) return exchange.ReplyError(ready);
  exchange.Reply({{"status", "ready"}});
}

void HttpApi::ListModels(const Model& model, HttpExchange& exchange) {
  Json models = Json::array();
  for (const std::string& name : model.service.options().model_names) {
    models.push_back(ModelJson(model, name));
  }
  exchange.Reply({{"object", "list"}, {"data", std::move(models)}});
}

void HttpApi::GetModel(const Model& model, HttpExchange& exchange) {
  const std::string name = exchange.request().path.substr(sizeof("/v1/models/") - 1);
  const Status known = model.service.CheckModel(name);
  if (!known.ok()) return exchange.ReplyError(known);
  exchange.Reply(ModelJson(model, name));
}

void HttpApi::Generate(ApiKind kind, const Model& model, HttpExchange& exchange) {
  const HttpExchange::Request& asked = exchange.request();
  StatusOr<Intake::Accepted> accepted = intake_.Start(
      kind, model, {asked.id, asked.key, asked.arrival}, [&] { return ParseBody(exchange); });
  if (!accepted.ok()) return exchange.ReplyError(accepted.status());
  OpenAiResponse::Info info{asked.id, model.service.options().model_names.front(),
                            std::time(nullptr)};
  auto answer =
      std::make_shared<Answer>(*std::move(accepted), std::move(info), model.service.tokenizer());
  if (answer->accepted.request.stream) {
    AnswerStream(std::move(answer), exchange, options_.ping_interval);
  } else {
    AnswerWhole(answer.get(), exchange);
  }
}

void HttpApi::Complete(const Model& model, HttpExchange& exchange) {
  Generate(ApiKind::kCompletion, model, exchange);
}

void HttpApi::Chat(const Model& model, HttpExchange& exchange) {
  Generate(ApiKind::kChat, model, exchange);
}

void HttpApi::Tokenize(const Model& model, HttpExchange& exchange) {
  const StatusOr<Json> body = ParseBody(exchange);
  ReplyWith(body.ok() ? TokenizeBody(model.service, *body) : body, exchange);
}

void HttpApi::Detokenize(const Model& model, HttpExchange& exchange) {
  const StatusOr<Json> body = ParseBody(exchange);
  ReplyWith(body.ok() ? DetokenizeBody(model.service, *body) : body, exchange);
}

}  // namespace treeline
