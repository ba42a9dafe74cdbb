// Messages of proto/inference.proto <-> what HTTP's JSON and the scheduler say. One
// parser checks both APIs (server/openai_request.h): its errors name fields that are called
// alike in both.
#ifndef TREELINE_SERVER_GRPC_MESSAGES_H_
#define TREELINE_SERVER_GRPC_MESSAGES_H_

#include "engine/base/json.h"
#include "engine/base/status.h"
#include "proto/inference.pb.h"
#include "scheduler/token_stream.h"
#include "server/openai_request.h"

namespace treeline {

// Which endpoint of HTTP says the same.
ApiKind KindOf(const v1::GenerateRequest& request);
// The body to send it.
Json OpenAiBody(const v1::GenerateRequest& request);
// "messages" of a chat.
Json OpenAiMessages(const v1::Chat& chat);

v1::GenerateResponse ToMessage(const TokenEvent& event);
v1::Usage ToMessage(const Usage& usage);
// Adds what a step brought to what its choice has so far.
void Append(const v1::GenerateResponse& step, v1::GenerateBatchResponse::Choice* choice);

}  // namespace treeline

#endif  // TREELINE_SERVER_GRPC_MESSAGES_H_
