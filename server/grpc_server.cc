#include "server/grpc_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <thread>
#include <utility>

#include "server/grpc_inference.h"
#include "server/work_queue.h"

namespace treeline {

namespace {

// Clients that watch health hear of a change, and clients that do not read are dropped, within this
// time.
constexpr std::chrono::milliseconds kWatchInterval{200};
// How often renewed certificates are looked for.
constexpr unsigned kCertificateSeconds = 1;
// A client that says nothing for so long is asked whether it is there, and has so long to answer.
constexpr int kKeepaliveMs = 30'000;
constexpr int kKeepaliveTimeoutMs = 20'000;
// Clients' own such questions may come this often.
constexpr int kMinPingIntervalMs = 10'000;
// Reflection, alone, is answered by gRPC's own threads: this many.
constexpr int kReflectionThreads = 4;
// Calls of one connection beyond the cap on all: each is told that it is beyond. The others wait.
constexpr int kReserveStreams = 128;

// Registers what InitProtoReflectionServerBuilderPlugin and EnableDefaultHealthCheckService give
// to every server that is built from then on.
void RegisterPlugins() {
  static const bool once = [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    return true;
  }();
  (void)once;
}

std::string Address(const std::string& host, int port) {
  const bool is_ipv6 = host.find(':') != std::string::npos;
  return fmt::format("{}{}{}:{}", is_ipv6 ? "[" : "", host, is_ipv6 ? "]" : "", port);
}

std::shared_ptr<grpc::ServerCredentials> Credentials(const GrpcServer::Options& options) {
  if (options.tls_certificate_file.empty()) return grpc::InsecureServerCredentials();
  namespace tls = grpc::experimental;
  tls::TlsServerCredentialsOptions credentials(
      std::make_shared<tls::FileWatcherCertificateProvider>(
          options.tls_key_file, options.tls_certificate_file, kCertificateSeconds));
  credentials.watch_identity_key_cert_pairs();
  return tls::TlsServerCredentials(credentials);
}

int NumWorkers() { return std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 2, 8); }

class GrpcServerImpl : public GrpcServer {
 public:
  GrpcServerImpl(const Options& options, Intake& intake, const Clock& clock)
      : clock_(clock),
        work_(std::make_shared<WorkQueue>(NumWorkers())),
        calls_(new GrpcCalls{.clock = clock,
                             .api_keys = options.api_keys,
                             .max_calls = options.max_calls,
                             .write_timeout = options.write_timeout,
                             .on_response = options.on_response,
                             .on_refused = options.on_refused}),
        inference_(calls_, intake, work_, options.version) {}
  ~GrpcServerImpl() override { Stop(Duration(0)); }

  Status Listen(const Options& options) {
    RegisterPlugins();
    grpc::ServerBuilder builder;
    Limit(options, &builder);
    builder.AddListeningPort(Address(options.host, options.port), Credentials(options), &port_);
    builder.RegisterService(&inference_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port_ == 0) {
      return MakeStatus(StatusCode::kUnavailable,
                        "cannot listen on {} for gRPC; is the port in use? See --grpc-port",
                        Address(options.host, options.port));
    }
    SetServing(false);
    watcher_ = std::thread([this] { Watch(); });
    return OkStatus();
  }

  void Serve(const ServedModel& model) override {
    inference_.Serve(model);
    SetServing(model.service.Ready().ok());
  }
  int port() const override { return port_; }

  void Stop(Duration patience) override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    if (watcher_.joinable()) watcher_.join();
    if (server_ != nullptr) {
      // Health checks that are watched have no end of their own: theirs comes with the server's.
      server_->GetHealthCheckService()->Shutdown();
      server_->Shutdown(std::chrono::system_clock::now() + patience);
    }
    work_->Stop();
  }

 private:
  static void Limit(const Options& options, grpc::ServerBuilder* builder) {
    builder->SetMaxReceiveMessageSize(static_cast<int>(options.max_message_bytes));
    builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS,
                                options.max_calls + kReserveStreams);
    builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // Two servers of a port: an error.
    builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
    builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
    builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                                kMinPingIntervalMs);
    builder->SetResourceQuota(grpc::ResourceQuota().SetMaxThreads(kReflectionThreads));
    builder->SetSyncServerOption(grpc::ServerBuilder::SyncServerOption::NUM_CQS, 1);
    builder->SetSyncServerOption(grpc::ServerBuilder::SyncServerOption::MIN_POLLERS, 1);
    builder->SetSyncServerOption(grpc::ServerBuilder::SyncServerOption::MAX_POLLERS, 1);
  }

  // Tells health checks, by the name of the server ("") and of the service.
  void SetServing(bool serving) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (serving_ == serving) return;
    serving_ = serving;
    for (const char* name : {"", v1::Inference::service_full_name()}) {
      server_->GetHealthCheckService()->SetServingStatus(name, serving);
    }
  }

  // What no call's own thread does.
  void Watch() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (!changed_.wait_for(lock, kWatchInterval, [this] { return stopping_; })) {
      lock.unlock();
      calls_->slow_clients.DropLate(clock_.Now());
      if (const ServedModel* model = inference_.model()) SetServing(model->service.Ready().ok());
      lock.lock();
    }
  }

  const Clock& clock_;
  const std::shared_ptr<WorkQueue> work_;
  const std::shared_ptr<GrpcCalls> calls_;
  GrpcInference inference_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  // Protected by mutex_:
  bool stopping_ = false;
  std::optional<bool> serving_;
  std::thread watcher_;
};

// gRPC would say only that it cannot listen.
Status CheckReadable(const std::string& path, const std::string& flag) {
  if (path.empty() || std::filesystem::exists(path)) return OkStatus();
  return NotFound("{}: no such file; see {}", path, flag);
}

}  // namespace

StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(const Options& options, Intake& intake,
                                                        const Clock& clock) {
  TREELINE_RETURN_IF_ERROR(CheckReadable(options.tls_certificate_file, "--tls-cert"));
  TREELINE_RETURN_IF_ERROR(CheckReadable(options.tls_key_file, "--tls-key"));
  auto server = std::make_unique<GrpcServerImpl>(options, intake, clock);
  TREELINE_RETURN_IF_ERROR(server->Listen(options));
  return server;
}

}  // namespace treeline
