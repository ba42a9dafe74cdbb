// The routes of the OpenAI-style API, of tokenization, of probes and of administration, on
// one HttpServer or two. They are there before the model is: until then the API answers 503.
#ifndef TREELINE_SERVER_HTTP_API_H_
#define TREELINE_SERVER_HTTP_API_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/base/status.h"
#include "server/http_server.h"
#include "server/intake.h"
#include "server/metrics.h"
#include "server/openai_request.h"

namespace treeline {

// Handlers run on many threads at once; thread-safe.
class HttpApi {
 public:
  struct Options {
    std::string version;
    // How often a client is told that its prompt is being worked on; until the first, the
    // status line waits too, so that a refusal still gets its own status.
    std::chrono::milliseconds ping_interval{15'000};
  };

  using Model = ServedModel;

  // `metrics` and `intake` outlive this.
  HttpApi(Options options, Metrics& metrics, Intake& intake);

  // Adds the routes of the API, of the page, and of probes. This outlives the server's threads.
  void Register(HttpServer* server);
  // Adds /metrics, /version, and the probes where they are not there already.
  void RegisterAdmin(HttpServer* server, bool with_probes);

  // From now on requests are answered. Called once; `model` outlives the servers' threads.
  void Serve(const Model& model) { model_ = &model; }

 private:
  using ModelHandler = void (HttpApi::*)(const Model& model, HttpExchange& exchange);

  // A route that needs the model.
  void Route(HttpServer* server, const std::string& method, const std::string& path,
             ModelHandler handler);
  void RegisterProbes(HttpServer* server);
  // The page at "/", and the API's description.
  void RegisterPage(HttpServer* server);

  void ListModels(const Model& model, HttpExchange& exchange);
  void GetModel(const Model& model, HttpExchange& exchange);
  void Complete(const Model& model, HttpExchange& exchange);
  void Chat(const Model& model, HttpExchange& exchange);
  void Tokenize(const Model& model, HttpExchange& exchange);
  void Detokenize(const Model& model, HttpExchange& exchange);
  void Health(HttpExchange& exchange);
  void Ready(HttpExchange& exchange);

  void Generate(ApiKind kind, const Model& model, HttpExchange& exchange);

  const Options options_;
  Metrics& metrics_;
  Intake& intake_;
  std::atomic<const Model*> model_{nullptr};
};

}  // namespace treeline

#endif  // TREELINE_SERVER_HTTP_API_H_
