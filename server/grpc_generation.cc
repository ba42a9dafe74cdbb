#include "server/grpc_generation.h"

#include <absl/strings/cord.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "server/grpc_messages.h"
#include "server/status_codes.h"
#include "server/write_patience.h"

namespace treeline {

namespace {

using Wait = TokenStream::Wait;

constexpr std::chrono::milliseconds kNoWait{0};
constexpr int kMaxBatchRequests = 256;

StatusOr<Intake::Accepted> Start(const GrpcGenerationContext& context, const GrpcCall& call,
                                 const v1::GenerateRequest& request) {
  return context.intake.Start(KindOf(request), context.model, call.caller(),
                              [&]() -> StatusOr<Json> { return OpenAiBody(request); });
}

// What both calls have in common: jobs run one at a time, begin once, and come again whenever
// tokens may have come; the call is held in memory until gRPC is done with it.
class GenerationCall : public PendingAnswer, public std::enable_shared_from_this<GenerationCall> {
 public:
  GenerationCall(const GrpcGenerationContext& context, std::unique_ptr<GrpcCall> call)
      : context_(context), rpc_(std::move(call)), patience_(rpc_->calls().write_timeout) {}

  void Launch() {
    self_ = shared_from_this();
    rpc_->calls().slow_clients.Watch(self_);
    context_.work->Run([self = self_] { self->Begin(); });
  }

  void DropIfLate(TimePoint now) override {
    std::lock_guard<std::mutex> lock(mutex_);
    // While something is written, gRPC is not done with the call.
    if (dropped_ || !writing_since_ || now - *writing_since_ <= patience_.left()) return;
    dropped_ = true;
    rpc_->Drop();
  }

 protected:
  // Submits the request. The lock is not held: tokenizing takes time.
  virtual Status Submit() = 0;
  virtual void NotifyBy(const std::function<void()>& notify) = 0;
  // Takes what has come, and finishes where that was all.
  virtual void Pump() = 0;              // REQUIRES: mutex_ is held; not finished.
  virtual void CancelGeneration() = 0;  // REQUIRES: mutex_ is held; not finished.
  // Answers gRPC and lets go of the generation. REQUIRES: mutex_ is held; called once.
  virtual void Finish(const Status& status) = 0;

  // gRPC's reactions.
  void Cancelled() {
    std::lock_guard<std::mutex> lock(mutex_);
    cancelled_ = true;
    if (begun_) Stop();
  }
  void Done() {
    const std::shared_ptr<GenerationCall> self = std::move(self_);  // Outlives the lock.
    rpc_->calls().slow_clients.Forget(this);
    std::lock_guard<std::mutex> lock(mutex_);
    writing_since_.reset();
  }

  // Something is written from here to EndWrite, or to Done. REQUIRES: mutex_ is held.
  void BeginWrite() { writing_since_ = rpc_->calls().clock.Now(); }
  void EndWrite(int64_t bytes) {
    patience_.Account(bytes, rpc_->calls().clock.Now() - *writing_since_);
    writing_since_.reset();
  }

  // Ends a cancelled call at once, whatever the engine does.
  void Stop() {  // REQUIRES: mutex_ is held.
    if (finished_) return;
    CancelGeneration();
    if (writing_since_) return;
    FinishOnce(dropped_ ? MakeStatus(StatusCode::kCancelled, "the client does not read its answer")
                        : rpc_->WhyCancelled());
  }
  // By value: what finishing lets go of may hold the status.
  void FinishOnce(Status status) {  // REQUIRES: mutex_ is held.
    if (std::exchange(finished_, true)) return;
    BeginWrite();
    Finish(status);
  }

  const GrpcGenerationContext context_;
  const std::unique_ptr<GrpcCall> rpc_;
  std::mutex mutex_;
  // Protected by mutex_:
  bool begun_ = false;
  bool cancelled_ = false;
  bool finished_ = false;
  bool dropped_ = false;
  std::optional<TimePoint> writing_since_;
  WritePatience patience_;

 private:
  void Begin() {
    const Status status = rpc_->cancelled() ? rpc_->WhyCancelled() : Submit();
    std::lock_guard<std::mutex> lock(mutex_);
    begun_ = true;
    if (!status.ok()) return FinishOnce(status);
    if (cancelled_) return Stop();
    NotifyBy([weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->Wake();
    });
    Pump();
  }

  // On the scheduler's thread.
  void Wake() {
    if (queued_.exchange(true)) return;
    context_.work->Run([self = shared_from_this()] {
      self->queued_ = false;
      std::lock_guard<std::mutex> lock(self->mutex_);
      if (!self->finished_ && !self->writing_since_) self->Pump();
    });
  }

  std::atomic<bool> queued_{false};
  std::shared_ptr<GenerationCall> self_;
};

class GenerateCall : public GenerationCall, public grpc::ServerWriteReactor<v1::GenerateResponse> {
 public:
  GenerateCall(const GrpcGenerationContext& context, std::unique_ptr<GrpcCall> call,
               const v1::GenerateRequest& request)
      : GenerationCall(context, std::move(call)), request_(request) {}

  void OnCancel() override { Cancelled(); }
  void OnDone() override { Done(); }
  void OnWriteDone(bool ok) override {
    std::lock_guard<std::mutex> lock(mutex_);
    EndWrite(static_cast<int64_t>(response_.ByteSizeLong()));
    cancelled_ |= !ok;
    if (cancelled_) return Stop();
    if (!finished_) Pump();
  }

 private:
  Status Submit() override {
    TREELINE_ASSIGN_OR_RETURN(Intake::Accepted accepted, Start(context_, *rpc_, request_));
    accepted_.emplace(std::move(accepted));
    return OkStatus();
  }
  void NotifyBy(const std::function<void()>& notify) override {
    accepted_->generation.NotifyBy(notify);
  }

  void Pump() override {
    TokenEvent event;
    switch (accepted_->generation.Next(kNoWait, &event)) {
      case Wait::kTimeout:
        return;
      case Wait::kEvent:
        given_ += static_cast<int32_t>(event.tokens.size());
        response_ = ToMessage(event);
        BeginWrite();
        return StartWrite(&response_);
      case Wait::kEnd:
        accepted_->Account(accepted_->generation.usage());
        return FinishOnce(accepted_->generation.status());
    }
  }

  void CancelGeneration() override {
    if (!accepted_) return;
    accepted_->generation.Cancel();
    TokenEvent event;  // What it was given, and what it will not see.
    while (accepted_->generation.Next(kNoWait, &event) == Wait::kEvent) {
      given_ += static_cast<int32_t>(event.tokens.size());
    }
    const auto prompt_tokens = static_cast<int32_t>(accepted_->generation.prompts()[0].size());
    accepted_->Account({.prompt_tokens = prompt_tokens, .completion_tokens = given_});
  }

  void Finish(const Status& status) override {
    const OrderedJson notes = accepted_ ? accepted_->Notes() : OrderedJson::object();
    const Usage used = accepted_ ? accepted_->used : Usage();
    accepted_.reset();
    const grpc::Status end = rpc_->End(status, notes);
    if (!status.ok()) return ServerWriteReactor::Finish(end);
    response_.Clear();
    *response_.mutable_usage() = ToMessage(used);
    StartWriteAndFinish(&response_, grpc::WriteOptions(), end);
  }

  const v1::GenerateRequest& request_;
  std::optional<Intake::Accepted> accepted_;
  v1::GenerateResponse response_;
  int32_t given_ = 0;  // Generated tokens seen so far.
};

class GenerateBatchCall : public GenerationCall, public grpc::ServerUnaryReactor {
 public:
  GenerateBatchCall(const GrpcGenerationContext& context, std::unique_ptr<GrpcCall> call,
                    const v1::GenerateBatchRequest& request, v1::GenerateBatchResponse* response)
      : GenerationCall(context, std::move(call)), request_(request), response_(response) {}

  void OnCancel() override { Cancelled(); }
  void OnDone() override { Done(); }

 private:
  // One of the requests.
  struct Part {
    Intake::Accepted accepted;
    bool ended = false;
  };

  // Names the request at fault and keeps what else the error says.
  static Status InRequest(int index, const Status& status) {
    Status named = Annotate(status, fmt::format("requests[{}]", index));
    status.ForEachPayload(
        [&](auto type, const absl::Cord& payload) { named.SetPayload(type, payload); });
    return named;
  }

  Status Submit() override {
    if (request_.requests().empty() || request_.requests_size() > kMaxBatchRequests) {
      context_.intake.CountRefusal("invalid");
      return FieldError("requests", "requests holds {}; send 1 to {}", request_.requests_size(),
                        kMaxBatchRequests);
    }
    parts_.reserve(request_.requests_size());
    for (int i = 0; i < request_.requests_size(); ++i) {
      StatusOr<Intake::Accepted> accepted = Start(context_, *rpc_, request_.requests(i));
      if (!accepted.ok()) {
        parts_.clear();  // All or nothing.
        return InRequest(i, accepted.status());
      }
      auto& result = *response_->add_results();
      for (int32_t c = 0; c < accepted->generation.num_choices(); ++c) result.add_choices();
      parts_.push_back({.accepted = *std::move(accepted)});
    }
    return OkStatus();
  }
  void NotifyBy(const std::function<void()>& notify) override {
    for (Part& part : parts_) part.accepted.generation.NotifyBy(notify);
  }

  void Pump() override {
    bool all_ended = true;
    for (size_t i = 0; i < parts_.size(); ++i) {
      if (!parts_[i].ended) PumpPart(static_cast<int>(i));
      if (finished_) return;
      all_ended &= parts_[i].ended;
    }
    if (all_ended) FinishOnce(OkStatus());
  }

  void PumpPart(int index) {
    Part& part = parts_[index];
    Generation& generation = part.accepted.generation;
    TokenEvent event;
    Wait wait;
    while ((wait = generation.Next(kNoWait, &event)) == Wait::kEvent) {
      auto* choice = response_->mutable_results(index)->mutable_choices(event.choice);
      Append(ToMessage(event), choice);
      event = TokenEvent();
    }
    if (wait != Wait::kEnd) return;
    part.ended = true;
    part.accepted.Account(generation.usage());
    *response_->mutable_results(index)->mutable_usage() = ToMessage(generation.usage());
    if (generation.status().ok()) return;
    CancelGeneration();
    FinishOnce(InRequest(index, generation.status()));
  }

  void CancelGeneration() override {
    for (size_t i = 0; i < parts_.size(); ++i) {
      Part& part = parts_[i];
      if (part.ended) continue;
      part.accepted.generation.Cancel();
      int32_t given = 0;
      for (const auto& choice : response_->results(static_cast<int>(i)).choices()) {
        given += choice.token_ids_size();
      }
      const auto prompt_tokens = static_cast<int32_t>(part.accepted.generation.prompts()[0].size());
      part.accepted.Account({.prompt_tokens = prompt_tokens, .completion_tokens = given});
    }
  }

  void Finish(const Status& status) override {
    Usage total;
    for (const Part& part : parts_) {
      total.prompt_tokens += part.accepted.used.prompt_tokens;
      total.completion_tokens += part.accepted.used.completion_tokens;
    }
    parts_.clear();
    ServerUnaryReactor::Finish(rpc_->End(status, {{"requests", request_.requests_size()},
                                                  {"prompt_tokens", total.prompt_tokens},
                                                  {"completion_tokens", total.completion_tokens}}));
  }

  const v1::GenerateBatchRequest& request_;
  v1::GenerateBatchResponse* const response_;
  std::vector<Part> parts_;
};

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* StartGenerate(const GrpcGenerationContext& context,
                                                              std::unique_ptr<GrpcCall> call,
                                                              const v1::GenerateRequest& request) {
  const auto generate = std::make_shared<GenerateCall>(context, std::move(call), request);
  generate->Launch();
  return generate.get();
}

grpc::ServerUnaryReactor* StartGenerateBatch(const GrpcGenerationContext& context,
                                             std::unique_ptr<GrpcCall> call,
                                             const v1::GenerateBatchRequest& request,
                                             v1::GenerateBatchResponse* response) {
  const auto batch =
      std::make_shared<GenerateBatchCall>(context, std::move(call), request, response);
  batch->Launch();
  return batch.get();
}

}  // namespace treeline
