// The routes of the OpenAI-style API, of tokenization, and of probes, on an HttpServer.
#ifndef TREELINE_SERVER_HTTP_API_H_
#define TREELINE_SERVER_HTTP_API_H_

#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "engine/base/json.h"
#include "engine/base/status.h"
#include "server/generation_service.h"
#include "server/http_server.h"
#include "server/metrics.h"
#include "server/openai_request.h"
#include "server/openai_response.h"

namespace treeline {

// Handlers run on many threads at once; thread-safe.
class HttpApi {
 public:
  struct Options {
    SamplingParams sampling_defaults{};  // For fields that a request leaves out.
    std::string version;
    int64_t created = 0;  // When the model came up; Unix time, seconds.
    // How often a client is told that its prompt is being worked on; until the first, the
    // status line waits too, so that a refusal still gets its own status.
    std::chrono::milliseconds ping_interval{15'000};
  };

  // `service` and `metrics` outlive this.
  HttpApi(Options options, GenerationService& service, Metrics& metrics);

  // Adds the routes. This outlives the server's threads.
  void Register(HttpServer* server);

 private:
  void ListModels(HttpExchange& exchange) const;
  void GetModel(HttpExchange& exchange) const;
  void Generate(ApiKind kind, HttpExchange& exchange);
  void Tokenize(HttpExchange& exchange) const;
  void Detokenize(HttpExchange& exchange) const;

  Json ModelJson(const std::string& name) const;
  StatusOr<OpenAiRequest> Parse(ApiKind kind, const HttpExchange& exchange) const;
  StatusOr<Json> TokenizeBody(const Json& body) const;
  StatusOr<Json> DetokenizeBody(const Json& body) const;
  void LogUnknownFields(const std::vector<std::string>& names);

  const Options options_;
  GenerationService& service_;
  Metrics& metrics_;
  std::mutex mutex_;
  std::set<std::string> logged_fields_;  // Protected by mutex_; of a bounded size.
};

}  // namespace treeline

#endif  // TREELINE_SERVER_HTTP_API_H_
