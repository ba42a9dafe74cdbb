// Streams an answer over gRPC.
//
//   bazel build //examples/grpc:generate
//   bazel-bin/examples/grpc/generate 127.0.0.1:8081 "What is the capital of France?"
//
// An API key goes into the environment variable TREELINE_API_KEY.
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <string>

#include "proto/inference.grpc.pb.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: " << argv[0] << " HOST:PORT QUESTION\n";
    return 2;
  }
  const auto channel = grpc::CreateChannel(argv[1], grpc::InsecureChannelCredentials());
  const auto stub = treeline::v1::Inference::NewStub(channel);

  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(1));
  if (const char* key = std::getenv("TREELINE_API_KEY")) {
    context.AddMetadata("authorization", std::string("Bearer ") + key);
  }
  treeline::v1::GenerateRequest request;
  treeline::v1::ChatMessage& message = *request.mutable_chat()->add_messages();
  message.set_role("user");
  message.set_content(argv[2]);
  request.set_max_tokens(200);
  request.set_temperature(0);

  const auto reader = stub->Generate(&context, request);
  treeline::v1::GenerateResponse part;
  while (reader->Read(&part)) {
    std::cout << part.text() << std::flush;
    if (part.has_usage()) std::cout << "\n" << part.usage().completion_tokens() << " tokens\n";
  }
  const grpc::Status status = reader->Finish();
  if (status.ok()) return 0;
  std::cerr << "error: " << status.error_message() << "\n";
  return 1;
}
