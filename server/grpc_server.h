// The gRPC front of the server: proto/inference.proto, grpc.health.v1, which says what
// /ready says, and reflection. Streams cost no thread each.
#ifndef TREELINE_SERVER_GRPC_SERVER_H_
#define TREELINE_SERVER_GRPC_SERVER_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "engine/base/clock.h"
#include "engine/base/status.h"
#include "server/api_keys.h"
#include "server/grpc_call.h"
#include "server/intake.h"

namespace treeline {

class GrpcServer {
 public:
  struct Options {
    std::string host = "127.0.0.1";
    int port = 0;              // 0: any free one.
    int32_t max_calls = 1024;  // Answered at once.
    int64_t max_message_bytes = 8 << 20;
    Duration write_timeout = std::chrono::seconds(30);  // See WritePatience.
    const ApiKeys* api_keys = nullptr;  // Null: everybody may ask. Health and reflection need none.
    // PEM files, looked at every second and read again when they change; empty: no TLS.
    std::string tls_certificate_file;
    std::string tls_key_file;
    std::string version;
    std::function<void(const GrpcRecord&)> on_response = [](const GrpcRecord&) {};  // Any thread.
    // Why a call was refused here, as HttpServer tells it. Any thread.
    std::function<void(std::string_view)> on_refused = [](std::string_view) {};
  };

  // Listens, and answers UNAVAILABLE until Serve. UNAVAILABLE where the address cannot be bound,
  // INVALID_ARGUMENT where the certificate cannot be used. `intake` and `clock` outlive this.
  static StatusOr<std::unique_ptr<GrpcServer>> Start(const Options& options, Intake& intake,
                                                     const Clock& clock);
  virtual ~GrpcServer() = default;  // Stop, at once.

  // From now on calls are answered. Called once; `model` outlives this.
  virtual void Serve(const ServedModel& model) = 0;
  virtual int port() const = 0;
  // Takes no more calls; those that still run after `patience` are cancelled. Idempotent.
  virtual void Stop(Duration patience) = 0;
};

}  // namespace treeline

#endif  // TREELINE_SERVER_GRPC_SERVER_H_
