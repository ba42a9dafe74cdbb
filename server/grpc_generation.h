// The calls that generate. No thread waits for one: the scheduler's word that a token has
// come queues a job, which hands the token to gRPC.
#ifndef TREELINE_SERVER_GRPC_GENERATION_H_
#define TREELINE_SERVER_GRPC_GENERATION_H_

#include <grpcpp/grpcpp.h>

#include <memory>

#include "proto/inference.grpc.pb.h"
#include "server/grpc_call.h"
#include "server/intake.h"
#include "server/work_queue.h"

namespace treeline {

// What such a call needs besides itself. `intake` and `model` outlive what gRPC answers.
struct GrpcGenerationContext {
  Intake& intake;
  const ServedModel& model;
  std::shared_ptr<WorkQueue> work;
};

// Each returns the reactor to give gRPC, which deletes itself once the call is done. `call` is
// admitted; `request` and `response` are gRPC's.
grpc::ServerWriteReactor<v1::GenerateResponse>* StartGenerate(const GrpcGenerationContext& context,
                                                              std::unique_ptr<GrpcCall> call,
                                                              const v1::GenerateRequest& request);
grpc::ServerUnaryReactor* StartGenerateBatch(const GrpcGenerationContext& context,
                                             std::unique_ptr<GrpcCall> call,
                                             const v1::GenerateBatchRequest& request,
                                             v1::GenerateBatchResponse* response);

}  // namespace treeline

#endif  // TREELINE_SERVER_GRPC_GENERATION_H_
