// The service of proto/inference.proto, by gRPC's callback API: its methods return at
// once, and a few threads of our own do the work.
#ifndef TREELINE_SERVER_GRPC_INFERENCE_H_
#define TREELINE_SERVER_GRPC_INFERENCE_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "proto/inference.grpc.pb.h"
#include "server/grpc_call.h"
#include "server/intake.h"
#include "server/work_queue.h"

namespace treeline {

// Thread-safe.
class GrpcInference : public v1::Inference::CallbackService {
 public:
  // `intake` outlives this.
  GrpcInference(std::shared_ptr<GrpcCalls> calls, Intake& intake, std::shared_ptr<WorkQueue> work,
                std::string version)
      : calls_(std::move(calls)),
        intake_(intake),
        work_(std::move(work)),
        version_(std::move(version)) {}

  // From now on calls are answered. Called once; `model` outlives gRPC's server.
  void Serve(const ServedModel& model) { model_ = &model; }
  // Null until then.
  const ServedModel* model() const { return model_; }

 private:
  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override;
  grpc::ServerUnaryReactor* GenerateBatch(grpc::CallbackServerContext* context,
                                          const v1::GenerateBatchRequest* request,
                                          v1::GenerateBatchResponse* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* ModelInfo(grpc::CallbackServerContext* context,
                                      const v1::ModelInfoRequest* request,
                                      v1::ModelInfoResponse* response) override;

  // Whether the call may go on: its key, the cap, and that the model is there.
  Status Admit(GrpcCall* call);
  // A call that computes its answer and is done.
  grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const std::string& method,
                                   std::function<Status(const ServedModel&)> answer);

  const std::shared_ptr<GrpcCalls> calls_;
  Intake& intake_;
  const std::shared_ptr<WorkQueue> work_;
  const std::string version_;
  std::atomic<const ServedModel*> model_{nullptr};
};

}  // namespace treeline

#endif  // TREELINE_SERVER_GRPC_INFERENCE_H_
