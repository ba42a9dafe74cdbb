#include "server/serve.h"

#include <signal.h>
#include <spdlog/spdlog.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fstream>
#include <memory>
#include <sstream>
#include <utility>

#include "engine/base/file.h"
#include "server/http_api.h"
#include "server/http_server.h"
#include "server/version.h"

namespace treeline {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds kIdlePoll{50};
constexpr Duration kAbortTimeout = std::chrono::seconds(5);

Duration Seconds(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

// SIGTERM and SIGINT as something to wait for. Threads started later inherit the mask.
class StopSignals {
 public:
  StopSignals() {
    sigemptyset(&set_);
    sigaddset(&set_, SIGTERM);
    sigaddset(&set_, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set_, &previous_);
  }
  // Signals that came while the server stopped have had their effect.
  ~StopSignals() {
    while (WaitFor(milliseconds(0))) {
    }
    pthread_sigmask(SIG_SETMASK, &previous_, nullptr);
  }
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  void Wait() const {
    int signal = 0;
    while (sigwait(&set_, &signal) != 0) {
    }
  }
  // False where none came in time.
  bool WaitFor(milliseconds timeout) const {
    const timespec limit = {timeout.count() / 1000, (timeout.count() % 1000) * 1'000'000};
    return sigtimedwait(&set_, nullptr, &limit) > 0;
  }

 private:
  sigset_t set_;
  sigset_t previous_;
};

// One line a request; probes, which come every few seconds, only when looked for.
void LogRequest(const HttpServer::Record& record) {
  const bool probe =
      record.status == 200 &&
      (record.route == "/health" || record.route == "/ready" || record.route == "/metrics");
  const auto level = record.status >= 500 ? spdlog::level::warn
                     : probe              ? spdlog::level::debug
                                          : spdlog::level::info;
  spdlog::log(level, "{} {} {} id={} ms={:.1f}{}{}", record.method, record.route, record.status,
              record.id, 1000 * ToSeconds(record.duration), record.note.empty() ? "" : " ",
              record.note);
}

StatusOr<HttpServer::Options> HttpOptions(const ServeConfig& config) {
  HttpServer::Options options;
  options.host = config.host();
  options.port = config.port();
  options.max_connections = config.max_connections();
  options.limits.max_body_bytes = config.max_body_bytes();
  if (!config.api_key_file().empty()) {
    TREELINE_ASSIGN_OR_RETURN(options.api_keys, ReadApiKeys(config.api_key_file()));
  }
  return options;
}

Runtime::Options RuntimeOptions(const ServeConfig& config) {
  Runtime::Options options;
  options.served_model_names.assign(config.served_model_name().begin(),
                                    config.served_model_name().end());
  options.max_batch_tokens = config.max_batch_tokens();
  options.max_queued_requests = config.max_queued_requests();
  options.request_timeout = Seconds(config.request_timeout_seconds());
  return options;
}

HttpApi::Options ApiOptions(const ServeConfig& config, const LoadedModel& model) {
  HttpApi::Options options;
  options.ping_interval =
      std::chrono::duration_cast<milliseconds>(Seconds(config.ping_interval_seconds()));
  options.sampling_defaults = model.sampling_defaults;
  options.version = kVersion;
  options.created = std::time(nullptr);
  return options;
}

// Readers never see half a file.
Status WritePortFile(const std::string& path, int port) {
  if (path.empty()) return OkStatus();
  const std::string unfinished = path + ".tmp";
  std::ofstream(unfinished) << port << "\n";
  if (std::rename(unfinished.c_str(), path.c_str()) != 0) {
    return Internal("cannot write --port-file {}: {}", path, std::strerror(errno));
  }
  return OkStatus();
}

// False where requests still run at the end, or a signal came.
bool WaitUntilIdle(const StopSignals& signals, Duration timeout, Runtime& runtime) {
  const TimePoint end = Clock::Real().Now() + timeout;
  while (!runtime.scheduler().Idle()) {
    if (signals.WaitFor(kIdlePoll) || Clock::Real().Now() >= end) return false;
  }
  return true;
}

bool Drain(const StopSignals& signals, Duration timeout, Runtime* runtime) {
  spdlog::info("stopping: no new requests; running ones have {:.0f} s (a second signal stops now)",
               ToSeconds(timeout));
  runtime->service().Drain();
  if (WaitUntilIdle(signals, timeout, *runtime)) return true;
  spdlog::warn("stopping with requests still running; they are cancelled");
  return false;
}

}  // namespace

StatusOr<std::vector<std::string>> ReadApiKeys(const std::string& path) {
  TREELINE_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  std::vector<std::string> keys;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    line.erase(line.find_last_not_of(" \t\r") + 1);
    if (!line.empty() && line[0] != '#') keys.push_back(line);
  }
  if (keys.empty()) return InvalidArgument("{}: no API key in it", path);
  return keys;
}

Status Serve(const ServeConfig& config, const std::function<StatusOr<LoadedModel>()>& load) {
  const StopSignals signals;
  TREELINE_ASSIGN_OR_RETURN(HttpServer::Options http_options, HttpOptions(config));
  TREELINE_ASSIGN_OR_RETURN(LoadedModel model, load());
  const HttpApi::Options api_options = ApiOptions(config, model);
  TREELINE_ASSIGN_OR_RETURN(const std::unique_ptr<Runtime> runtime,
                            Runtime::Create(RuntimeOptions(config), std::move(model)));
  http_options.on_response = [&](const HttpServer::Record& record) {
    LogRequest(record);
    runtime->metrics().OnHttpResponse(record.route, record.method, record.status,
                                      ToSeconds(record.duration));
  };
  http_options.on_over_capacity = [&] { runtime->metrics().OnRejected("too_many_connections"); };
  HttpApi api(api_options, runtime->service(), runtime->metrics());
  HttpServer server(std::move(http_options));
  api.Register(&server);
  TREELINE_RETURN_IF_ERROR(server.Start());
  TREELINE_RETURN_IF_ERROR(runtime->service().Probe());
  TREELINE_RETURN_IF_ERROR(WritePortFile(config.port_file(), server.port()));
  spdlog::info("ready: http://{}:{}/v1 serves {}", config.host(), server.port(),
               runtime->service().options().model_names.front());

  signals.Wait();
  if (!Drain(signals, Seconds(config.drain_timeout_seconds()), runtime.get())) {
    runtime->service().Abort();
    // Everybody is told, unless the engine hangs in a step.
    if (!WaitUntilIdle(signals, kAbortTimeout, *runtime)) server.Abort();
  }
  server.Stop();
  spdlog::info("stopped");
  return OkStatus();
}

}  // namespace treeline
