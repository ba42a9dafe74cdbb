#include "server/grpc_inference.h"

#include <utility>
#include <vector>

#include "server/grpc_generation.h"
#include "server/grpc_messages.h"
#include "server/openai_request.h"
#include "server/status_codes.h"

namespace treeline {

namespace {

// A stream that was refused: ends at once.
class RefusedStream : public grpc::ServerWriteReactor<v1::GenerateResponse> {
 public:
  explicit RefusedStream(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

StatusOr<std::vector<int32_t>> TokensOf(const v1::TokenizeRequest& request,
                                        const GenerationService& service) {
  switch (request.input_case()) {
    case v1::TokenizeRequest::kPrompt: {
      const bool add_special = !request.has_add_special_tokens() || request.add_special_tokens();
      return service.Tokenize(request.prompt(), add_special);
    }
    case v1::TokenizeRequest::kChat: {
      TREELINE_ASSIGN_OR_RETURN(const Json messages, ParseMessages(OpenAiMessages(request.chat())));
      return service.TokenizeChat(messages);
    }
    case v1::TokenizeRequest::INPUT_NOT_SET:
      break;
  }
  return FieldError("prompt", "send either prompt or chat");
}

Status CheckTokenIds(const google::protobuf::RepeatedField<int32_t>& ids, int32_t vocab_size) {
  for (int i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab_size) continue;
    return FieldError("token_ids", "token_ids[{}] must be a token id from 0 to {}, not {}", i,
                      vocab_size - 1, ids[i]);
  }
  return OkStatus();
}

}  // namespace

Status GrpcInference::Admit(GrpcCall* call) {
  TREELINE_RETURN_IF_ERROR(call->Admit());
  if (model_ != nullptr) return OkStatus();
  calls_->on_refused("loading");
  return StillLoading();
}

grpc::ServerWriteReactor<v1::GenerateResponse>* GrpcInference::Generate(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  auto call = std::make_unique<GrpcCall>(calls_, "Generate", *context);
  const Status admitted = Admit(call.get());
  if (!admitted.ok()) return new RefusedStream(call->End(admitted));
  return StartGenerate({intake_, *model_, work_}, std::move(call), *request);
}

grpc::ServerUnaryReactor* GrpcInference::GenerateBatch(grpc::CallbackServerContext* context,
                                                       const v1::GenerateBatchRequest* request,
                                                       v1::GenerateBatchResponse* response) {
  auto call = std::make_unique<GrpcCall>(calls_, "GenerateBatch", *context);
  const Status admitted = Admit(call.get());
  if (admitted.ok()) {
    return StartGenerateBatch({intake_, *model_, work_}, std::move(call), *request, response);
  }
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(call->End(admitted));
  return reactor;
}

grpc::ServerUnaryReactor* GrpcInference::Answer(grpc::CallbackServerContext* context,
                                                const std::string& method,
                                                std::function<Status(const ServedModel&)> answer) {
  const auto call = std::make_shared<GrpcCall>(calls_, method, *context);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const Status admitted = Admit(call.get());
  if (!admitted.ok()) {
    reactor->Finish(call->End(admitted));
    return reactor;
  }
  work_->Run([this, call, reactor, answer = std::move(answer)] {
    const Status status = call->cancelled() ? call->WhyCancelled() : answer(*model_);
    reactor->Finish(call->End(status));
  });
  return reactor;
}

grpc::ServerUnaryReactor* GrpcInference::Tokenize(grpc::CallbackServerContext* context,
                                                  const v1::TokenizeRequest* request,
                                                  v1::TokenizeResponse* response) {
  return Answer(context, "Tokenize", [request, response](const ServedModel& model) -> Status {
    TREELINE_RETURN_IF_ERROR(model.service.CheckModel(request->model()));
    TREELINE_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, TokensOf(*request, model.service));
    response->mutable_token_ids()->Add(ids.begin(), ids.end());
    return OkStatus();
  });
}

grpc::ServerUnaryReactor* GrpcInference::Detokenize(grpc::CallbackServerContext* context,
                                                    const v1::DetokenizeRequest* request,
                                                    v1::DetokenizeResponse* response) {
  return Answer(context, "Detokenize", [request, response](const ServedModel& model) -> Status {
    const GenerationService& service = model.service;
    TREELINE_RETURN_IF_ERROR(service.CheckModel(request->model()));
    const auto& ids = request->token_ids();
    TREELINE_RETURN_IF_ERROR(CheckTokenIds(ids, service.options().vocab_size));
    response->set_text(service.tokenizer().Decode(std::vector<int32_t>(ids.begin(), ids.end()),
                                                  /*skip_special=*/false));
    return OkStatus();
  });
}

grpc::ServerUnaryReactor* GrpcInference::ModelInfo(grpc::CallbackServerContext* context,
                                                   const v1::ModelInfoRequest*,
                                                   v1::ModelInfoResponse* response) {
  return Answer(context, "ModelInfo", [this, response](const ServedModel& model) {
    const GenerationService::Options& options = model.service.options();
    for (const std::string& name : options.model_names) response->add_names(name);
    response->set_max_context(options.max_context);
    response->set_vocab_size(options.vocab_size);
    response->set_server_version(version_);
    return OkStatus();
  });
}

}  // namespace treeline
