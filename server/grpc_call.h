// One gRPC call from its arrival to its answer, whatever it asks for: the caller's key,
// its name in the log, the cap on calls, and how it ended.
#ifndef TREELINE_SERVER_GRPC_CALL_H_
#define TREELINE_SERVER_GRPC_CALL_H_

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "engine/base/clock.h"
#include "engine/base/json.h"
#include "engine/base/status.h"
#include "server/api_keys.h"
#include "server/intake.h"
#include "server/slow_clients.h"
#include "server/trace_context.h"

namespace treeline {

// What became of a call.
struct GrpcRecord {
  std::string method;  // "Generate".
  std::string code;    // "OK", "INVALID_ARGUMENT", ...
  std::string id;
  TraceContext trace;
  Duration duration{};
  OrderedJson notes = OrderedJson::object();
};

// What all calls of a server share. Thread-safe.
struct GrpcCalls {
  const Clock& clock;
  const ApiKeys* api_keys;                             // Null: everybody may ask.
  int32_t max_calls;                                   // At once.
  Duration write_timeout;                              // See WritePatience.
  std::function<void(const GrpcRecord&)> on_response;  // Any thread.
  std::function<void(std::string_view)> on_refused;    // Any thread; as HttpServer's.
  std::atomic<int32_t> num_calls{0};
  SlowClients slow_clients{};
};

// Belongs to one thread at a time. `context` is gRPC's, which ends after End.
class GrpcCall {
 public:
  GrpcCall(std::shared_ptr<GrpcCalls> calls, std::string method,
           grpc::CallbackServerContext& context);
  ~GrpcCall() { --calls_->num_calls; }
  GrpcCall(const GrpcCall&) = delete;
  GrpcCall& operator=(const GrpcCall&) = delete;

  // UNAUTHENTICATED without a key that is right; RESOURCE_EXHAUSTED beyond the cap.
  Status Admit();
  // Once admitted.
  const Intake::Caller& caller() const { return caller_; }
  bool cancelled() const { return context_.IsCancelled(); }
  // Why it was: by its client, or by its deadline.
  Status WhyCancelled() const;

  // Asks gRPC to end the call without waiting for its client. REQUIRES: gRPC is not done with it.
  void Drop() { context_.TryCancel(); }

  // Records the end, and makes what gRPC tells the client. Called once, before gRPC's Finish.
  grpc::Status End(const Status& status, const OrderedJson& notes = OrderedJson::object());

  GrpcCalls& calls() const { return *calls_; }

 private:
  std::string Metadata(const std::string& name) const;

  const std::shared_ptr<GrpcCalls> calls_;
  const std::string method_;
  grpc::CallbackServerContext& context_;
  const TraceContext trace_;
  Intake::Caller caller_;
};

}  // namespace treeline

#endif  // TREELINE_SERVER_GRPC_CALL_H_
