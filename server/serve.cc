#include "server/serve.h"

#include <signal.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fstream>
#include <future>
#include <memory>
#include <new>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>

#include "engine/base/clock.h"
#include "server/api_keys.h"
#include "server/flags.h"
#include "server/grpc_server.h"
#include "server/http_api.h"
#include "server/http_server.h"
#include "server/intake.h"
#include "server/metrics.h"
#include "server/request_log.h"
#include "server/tls.h"
#include "server/version.h"

namespace treeline {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds kPoll{20};
constexpr Duration kAbortTimeout = std::chrono::seconds(5);
constexpr Duration kGrpcPatience = std::chrono::seconds(2);  // For answers on their way.

Duration Seconds(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

// SIGTERM and SIGINT, and SIGHUP where asked for, as something to wait for. Threads started later
// inherit the mask.
class Signals {
 public:
  explicit Signals(bool with_hangup) {
    sigemptyset(&set_);
    sigaddset(&set_, SIGTERM);
    sigaddset(&set_, SIGINT);
    if (with_hangup) sigaddset(&set_, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &set_, &previous_);
  }
  // Signals that came while the server stopped have had their effect.
  ~Signals() {
    while (WaitFor(milliseconds(0)) != 0) {
    }
    pthread_sigmask(SIG_SETMASK, &previous_, nullptr);
  }
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

  // The signal that came; 0 where none came in time.
  int WaitFor(milliseconds timeout) const {
    const timespec limit = {timeout.count() / 1000, (timeout.count() % 1000) * 1'000'000};
    return std::max(sigtimedwait(&set_, nullptr, &limit), 0);
  }

 private:
  sigset_t set_;
  sigset_t previous_;
};

// Probes come every few seconds: they are told of only when looked for.
void LogHttp(const HttpServer::Record& record, RequestLog* log) {
  using Importance = RequestLog::Importance;
  const bool probe =
      record.status == 200 &&
      (record.route == "/health" || record.route == "/ready" || record.route == "/metrics");
  log->Write({.name = fmt::format("{} {}", record.method, record.route),
              .status = std::to_string(record.status),
              .id = record.id,
              .trace = record.trace,
              .duration = record.duration,
              .notes = record.notes},
             record.status >= 500 ? Importance::kWarning
             : probe              ? Importance::kDebug
                                  : Importance::kInfo);
}

void LogGrpc(const GrpcRecord& record, RequestLog* log) {
  log->Write({.name = "gRPC " + record.method,
              .status = record.code,
              .id = record.id,
              .trace = record.trace,
              .duration = record.duration,
              .notes = record.notes},
             RequestLog::Importance::kInfo);
}

// What SIGHUP reads again.
struct Secrets {
  std::unique_ptr<ApiKeys> api_keys;  // Null: none are asked for.
  std::unique_ptr<TlsContext> tls;    // Null: plain HTTP.

  void Reload() const {
    if (api_keys != nullptr) Log("API keys", api_keys->Reload());
    if (tls != nullptr) Log("certificate", tls->Reload());
  }

 private:
  static void Log(const std::string& what, const Status& status) {
    if (status.ok()) {
      spdlog::info("SIGHUP: read the {} again", what);
    } else {
      spdlog::error("SIGHUP: the {} stay as they were: {}", what, Message(status));
    }
  }
};

StatusOr<Secrets> ReadSecrets(const ServeConfig& config) {
  Secrets secrets;
  if (!config.api_keys_file().empty()) {
    TREELINE_ASSIGN_OR_RETURN(secrets.api_keys, ApiKeys::Read(config.api_keys_file()));
  }
  if (config.tls_cert().empty() != config.tls_key().empty()) {
    return InvalidArgument("--tls-cert and --tls-key go together");
  }
  if (!config.tls_cert().empty()) {
    TREELINE_ASSIGN_OR_RETURN(secrets.tls, TlsContext::Create(config.tls_cert(), config.tls_key()));
  }
  return secrets;
}

HttpServer::Options HttpOptions(const ServeConfig& config, const Secrets& secrets, Metrics* metrics,
                                RequestLog* log) {
  HttpServer::Options options;
  options.host = config.host();
  options.port = config.port();
  options.max_connections = config.max_connections();
  options.limits.max_body_bytes = config.max_body_bytes();
  options.limits.write_timeout =
      std::chrono::duration_cast<milliseconds>(Seconds(config.write_timeout_seconds()));
  options.api_keys = secrets.api_keys.get();
  options.tls = secrets.tls.get();
  options.on_response = [metrics, log](const HttpServer::Record& record) {
    LogHttp(record, log);
    metrics->OnHttpResponse(record.route, record.method, record.status, ToSeconds(record.duration));
  };
  options.on_refused = [metrics](std::string_view reason) { metrics->OnRejected(reason); };
  return options;
}

// The admin address is for few and trusted clients.
HttpServer::Options AdminOptions(const ServeConfig& config, Metrics* metrics, RequestLog* log) {
  HttpServer::Options options = HttpOptions(config, Secrets(), metrics, log);
  options.host = config.admin_host();
  options.port = config.admin_port();
  options.max_connections = 16;
  return options;
}

Runtime::Options RuntimeOptions(const ServeConfig& config) {
  Runtime::Options options;
  options.served_model_names.assign(config.served_model_name().begin(),
                                    config.served_model_name().end());
  Scheduler::Options& scheduling = options.scheduling;
  scheduling.max_batch_tokens = config.max_batch_tokens();
  scheduling.max_queued_requests = config.max_queued_requests();
  scheduling.max_queued_tokens = config.max_queued_tokens();
  scheduling.step_time = Seconds(config.max_step_seconds());
  scheduling.priority_ageing = Seconds(config.priority_ageing_seconds());
  const bool keeps_prefixes = ParseBytes(config.prefix_cache_memory()).value_or(1) > 0;  // Or auto.
  if (keeps_prefixes) scheduling.prefix_interval = config.prefix_cache_interval();
  if (config.drafter() != "none") scheduling.max_draft_nodes = config.max_draft_nodes();
  scheduling.drafters.ngram = config.drafter() == "auto" || config.drafter() == "ngram";
  options.draft_where_it_pays = config.drafter() == "auto";
  options.request_timeout = Seconds(config.request_timeout_seconds());
  options.stall_timeout = Seconds(config.stall_timeout_seconds());
  return options;
}

HttpApi::Options ApiOptions(const ServeConfig& config) {
  HttpApi::Options options;
  options.ping_interval =
      std::chrono::duration_cast<milliseconds>(Seconds(config.ping_interval_seconds()));
  options.version = kVersion;
  return options;
}

Metrics::Options MetricsOptions(const ServeConfig& config) {
  return {.model_name = config.served_model_name_size() > 0 ? config.served_model_name(0)
                                                            : ModelName(config.engine()),
          .version = kVersion,
          .device = config.engine().device()};
}

// Null where no gRPC is asked for.
StatusOr<std::unique_ptr<GrpcServer>> StartGrpc(const ServeConfig& config, const Secrets& secrets,
                                                Metrics* metrics, RequestLog* log, Intake& intake) {
  if (!config.has_grpc_port()) return nullptr;
  GrpcServer::Options options;
  options.host = config.host();
  options.port = config.grpc_port();
  options.max_calls = config.max_connections();
  options.max_message_bytes = config.max_body_bytes();
  options.write_timeout = Seconds(config.write_timeout_seconds());
  options.api_keys = secrets.api_keys.get();
  options.tls_certificate_file = config.tls_cert();
  options.tls_key_file = config.tls_key();
  options.version = kVersion;
  options.on_response = [metrics, log](const GrpcRecord& record) {
    LogGrpc(record, log);
    metrics->OnGrpcResponse(record.method, record.code, ToSeconds(record.duration));
  };
  options.on_refused = [metrics](std::string_view reason) { metrics->OnRejected(reason); };
  TREELINE_ASSIGN_OR_RETURN(std::unique_ptr<GrpcServer> server,
                            GrpcServer::Start(options, intake, Clock::Real()));
  spdlog::info("listening on {} port {} for gRPC", config.host(), server->port());
  return server;
}

// The ports, one a line. Readers never see half a file.
Status WritePortFile(const std::string& path, const HttpServer& server, const GrpcServer* grpc) {
  if (path.empty()) return OkStatus();
  const std::string unfinished = path + ".tmp";
  std::string ports = fmt::format("{}\n", server.port());
  if (grpc != nullptr) ports += fmt::format("{}\n", grpc->port());
  std::ofstream(unfinished) << ports;
  if (std::rename(unfinished.c_str(), path.c_str()) != 0) {
    return Internal("cannot write --port-file {}: {}", path, std::strerror(errno));
  }
  return OkStatus();
}

// False where requests still run at the end, or a signal came that asks to stop.
bool WaitUntilIdle(const Signals& signals, const Secrets& secrets, Duration timeout,
                   Runtime& runtime) {
  const TimePoint end = Clock::Real().Now() + timeout;
  while (!runtime.scheduler().Idle()) {
    const int signal = signals.WaitFor(kPoll);
    if (signal == SIGHUP) secrets.Reload();
    if ((signal != 0 && signal != SIGHUP) || Clock::Real().Now() >= end) return false;
  }
  return true;
}

bool Drain(const Signals& signals, const Secrets& secrets, Duration timeout, Runtime* runtime) {
  spdlog::info("stopping: no new requests; running ones have {:.0f} s (a second signal stops now)",
               ToSeconds(timeout));
  runtime->service().Drain();
  if (WaitUntilIdle(signals, secrets, timeout, *runtime)) return true;
  spdlog::warn("stopping with requests still running; they are cancelled");
  return false;
}

using LoadedRuntime = StatusOr<std::unique_ptr<Runtime>>;

// Short of memory, the standard library throws.
StatusOr<LoadedModel> LoadCatching(const std::function<StatusOr<LoadedModel>()>& load) {
  try {
    return load();
  } catch (const std::bad_alloc&) {
    return ResourceExhausted(
        "there is not enough memory to load the model; take a smaller --dtype or a smaller model");
  }
}

// Loads the model and lets it answer once, in a thread of its own.
std::future<LoadedRuntime> BeginLoading(const ServeConfig& config,
                                        const std::function<StatusOr<LoadedModel>()>& load,
                                        std::shared_ptr<Metrics> metrics) {
  std::packaged_task<LoadedRuntime()> task(
      [load, options = RuntimeOptions(config), metrics]() -> LoadedRuntime {
        TREELINE_ASSIGN_OR_RETURN(LoadedModel model, LoadCatching(load));
        TREELINE_ASSIGN_OR_RETURN(std::unique_ptr<Runtime> runtime,
                                  Runtime::Create(options, std::move(model), *metrics));
        TREELINE_RETURN_IF_ERROR(runtime->service().Probe());
        return runtime;
      });
  std::future<LoadedRuntime> loading = task.get_future();
  std::thread(std::move(task)).detach();  // Nothing can interrupt it.
  return loading;
}

LoadedRuntime AwaitLoading(const Signals& signals, const Secrets& secrets,
                           std::future<LoadedRuntime> loading) {
  while (loading.wait_for(milliseconds(0)) != std::future_status::ready) {
    const int signal = signals.WaitFor(kPoll);
    if (signal == SIGHUP) secrets.Reload();
    if (signal == SIGTERM || signal == SIGINT) {
      return MakeStatus(StatusCode::kCancelled, "stopped while the model was being loaded");
    }
  }
  return loading.get();
}

// Until a signal asks to stop.
void AwaitStop(const Signals& signals, const Secrets& secrets) {
  for (;;) {
    const int signal = signals.WaitFor(std::chrono::hours(1));
    if (signal == SIGHUP) secrets.Reload();
    if (signal == SIGTERM || signal == SIGINT) return;
  }
}

}  // namespace

Status Serve(const ServeConfig& config, const std::function<StatusOr<LoadedModel>()>& load) {
  TREELINE_ASSIGN_OR_RETURN(const Secrets secrets, ReadSecrets(config));
  const Signals signals(/*with_hangup=*/secrets.api_keys != nullptr || secrets.tls != nullptr);
  const auto metrics = std::make_shared<Metrics>(MetricsOptions(config));
  std::unique_ptr<Runtime> runtime;
  std::optional<HttpApi::Model> model;
  Intake intake(*metrics, Clock::Real());
  HttpApi api(ApiOptions(config), *metrics, intake);
  RequestLog log(config.request_log() == "json" ? RequestLog::Format::kJson
                                                : RequestLog::Format::kText);
  HttpServer server(HttpOptions(config, secrets, metrics.get(), &log));
  HttpServer admin_server(AdminOptions(config, metrics.get(), &log));
  const bool separate_admin = config.admin_port() != 0;
  api.Register(&server);
  api.RegisterAdmin(separate_admin ? &admin_server : &server, /*with_probes=*/separate_admin);
  TREELINE_RETURN_IF_ERROR(server.Start());
  if (separate_admin) TREELINE_RETURN_IF_ERROR(admin_server.Start());

  TREELINE_ASSIGN_OR_RETURN(const std::unique_ptr<GrpcServer> grpc,
                            StartGrpc(config, secrets, metrics.get(), &log, intake));

  spdlog::info("listening on {} port {}; loading the model", config.host(), server.port());
  TREELINE_ASSIGN_OR_RETURN(runtime,
                            AwaitLoading(signals, secrets, BeginLoading(config, load, metrics)));
  model.emplace(HttpApi::Model{.service = runtime->service(),
                               .sampling_defaults = runtime->model().sampling_defaults,
                               .created = std::time(nullptr)});
  api.Serve(*model);
  if (grpc != nullptr) grpc->Serve(*model);
  TREELINE_RETURN_IF_ERROR(WritePortFile(config.port_file(), server, grpc.get()));
  spdlog::info("ready: {}://{}:{}/v1 serves {}", secrets.tls != nullptr ? "https" : "http",
               config.host(), server.port(), runtime->service().options().model_names.front());

  AwaitStop(signals, secrets);
  if (!Drain(signals, secrets, Seconds(config.drain_timeout_seconds()), runtime.get())) {
    runtime->service().Abort();
    // Everybody is told, unless the engine hangs in a step.
    if (!WaitUntilIdle(signals, secrets, kAbortTimeout, *runtime)) server.Abort();
  }
  if (grpc != nullptr) grpc->Stop(kGrpcPatience);
  server.Stop();
  admin_server.Stop();
  spdlog::info("stopped");
  return OkStatus();
}

}  // namespace treeline
