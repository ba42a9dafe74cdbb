#include "server/generation_service.h"

#include <algorithm>
#include <ctime>
#include <random>
#include <utility>

#include "server/chat_prompt.h"
#include "server/status_codes.h"

namespace treeline {

namespace {

constexpr int64_t kMaxLogprobs = 2'000'000;  // Of one request; about 500 MB.
constexpr char kContextLengthExceeded[] = "context_length_exceeded";
// How long one of several open streams is waited for before the next is looked at.
constexpr std::chrono::milliseconds kTurn{5};
constexpr std::chrono::seconds kProbeTimeout{60};
// So many requests in a row that the engine failed are no accident.
constexpr int32_t kFailuresInARow = 3;

uint64_t RandomSeed() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

size_t LongestTokenBytes(const Tokenizer& tokenizer) {
  size_t longest = 1;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    longest = std::max(longest, tokenizer.TokenBytes(id).size());
  }
  return longest;
}

// The engine's fault, not the client's or the operator's.
bool IsEngineFailure(StatusCode code) {
  return code != StatusCode::kOk && code != StatusCode::kCancelled &&
         code != StatusCode::kDeadlineExceeded && code != StatusCode::kUnavailable;
}

int64_t TokensAtMost(const std::vector<std::vector<int32_t>>& prompts,
                     const std::vector<int32_t>& max_tokens, int32_t num_choices) {
  int64_t tokens = 0;
  for (size_t i = 0; i < prompts.size(); ++i) {
    tokens += static_cast<int64_t>(prompts[i].size()) + int64_t{num_choices} * max_tokens[i];
  }
  return tokens;
}

PhaseTimes Longest(const PhaseTimes& a, const PhaseTimes& b) {
  return {.queue = std::max(a.queue, b.queue),
          .prefill = std::max(a.prefill, b.prefill),  // One that is empty is less.
          .decode = std::max(a.decode, b.decode)};
}

// The scheduler's refusals begin with the field's name: "n: 64; it must be ...".
Status NamingParam(const Status& status) {
  const std::string message = Message(status);
  const size_t colon = message.find(':');
  if (status.code() != StatusCode::kInvalidArgument || colon == std::string::npos) return status;
  return WithParam(status, message.substr(0, colon));
}

}  // namespace

Generation::Generation(std::vector<std::vector<int32_t>> prompts, int32_t num_choices,
                       uint64_t seed, std::vector<std::shared_ptr<TokenStream>> streams,
                       std::shared_ptr<std::atomic<int32_t>> failures)
    : prompts_(std::move(prompts)),
      num_choices_(num_choices),
      seed_(seed),
      streams_(std::move(streams)),
      num_open_(streams_.size()),
      failures_(std::move(failures)) {}

TokenStream::Wait Generation::NextOf(size_t prompt, std::chrono::milliseconds timeout,
                                     TokenEvent* event) {
  TokenStream& stream = *streams_[prompt];
  const TokenStream::Wait wait = stream.Next(timeout, event);
  if (wait == TokenStream::Wait::kEvent) {
    event->choice += static_cast<int32_t>(prompt) * num_choices_;
    tokens_seen_ += static_cast<int32_t>(event->tokens.size());
  } else if (wait == TokenStream::Wait::kEnd) {
    const Usage usage = stream.usage();
    usage_.prompt_tokens += usage.prompt_tokens;
    usage_.completion_tokens += usage.completion_tokens;
    usage_.cached_tokens += usage.cached_tokens;
    usage_.accepted_draft_tokens += usage.accepted_draft_tokens;
    usage_.rejected_draft_tokens += usage.rejected_draft_tokens;
    times_ = Longest(times_, stream.times());
    const Status status = stream.status();
    streams_[prompt] = nullptr;
    --num_open_;
    if (status.ok()) *failures_ = 0;
    if (IsEngineFailure(status.code())) ++*failures_;
    if (status_.ok() && !status.ok()) {
      status_ = status;
      Cancel();  // One failure fails the request.
    }
  }
  return wait;
}

TokenStream::Wait Generation::Next(std::chrono::milliseconds timeout, TokenEvent* event) {
  while (num_open_ > 0) {
    const std::chrono::milliseconds slice = num_open_ == 1 ? timeout : std::min(timeout, kTurn);
    bool waited = false;  // Only one stream a round is waited for; the others are looked at.
    for (size_t i = 0; i < streams_.size() && num_open_ > 0; ++i) {
      const size_t prompt = turn_++ % streams_.size();
      if (streams_[prompt] == nullptr) continue;
      const auto wait = NextOf(prompt, waited ? std::chrono::milliseconds(0) : slice, event);
      if (wait == TokenStream::Wait::kEvent) return wait;
      waited |= wait == TokenStream::Wait::kTimeout;
    }
    if (waited) {
      timeout -= slice;
      if (timeout <= std::chrono::milliseconds(0)) return TokenStream::Wait::kTimeout;
    }
  }
  return TokenStream::Wait::kEnd;
}

void Generation::NotifyBy(const std::function<void()>& notify) {
  for (const auto& stream : streams_) {
    if (stream != nullptr) stream->NotifyBy(notify);
  }
}

void Generation::Cancel() {
  for (const auto& stream : streams_) {
    if (stream != nullptr) stream->Cancel();
  }
}

void Generation::CancelAndWait(std::chrono::milliseconds timeout) {
  Cancel();
  TokenEvent discarded;
  auto wait = TokenStream::Wait::kEvent;
  while (wait == TokenStream::Wait::kEvent) wait = Next(timeout, &discarded);
  if (wait == TokenStream::Wait::kEnd) return;
  // The engine hangs: what has come is the best that is known.
  usage_ = {.completion_tokens = tokens_seen_};
  for (const auto& prompt : prompts_) usage_.prompt_tokens += static_cast<int32_t>(prompt.size());
}

GenerationService::GenerationService(const Options& options, const Tokenizer& tokenizer,
                                     const ChatTemplate* chat_template, Scheduler& scheduler,
                                     const Clock& clock, SchedulerObserver& observer)
    : options_(options),
      tokenizer_(tokenizer),
      chat_template_(chat_template),
      scheduler_(scheduler),
      clock_(clock),
      observer_(observer),
      longest_token_bytes_(LongestTokenBytes(tokenizer)),
      special_texts_(SpecialTexts(tokenizer)) {
  TREELINE_CHECK(!options_.model_names.empty());
}

Status GenerationService::CheckModel(const std::string& name) const {
  const auto& names = options_.model_names;
  if (name.empty() || std::find(names.begin(), names.end(), name) != names.end()) {
    return OkStatus();
  }
  return WithCode(WithParam(NotFound("the model '{}' does not exist; this server has '{}'", name,
                                     fmt::join(names, "', '")),
                            "model"),
                  "model_not_found");
}

// What is certainly too long is refused before tokenizing it: n bytes are at least
// n / longest_token_bytes_ tokens.
Status GenerationService::CheckTextSize(const std::string& text, const std::string& param) const {
  const size_t min_tokens = text.size() / longest_token_bytes_;
  if (min_tokens < static_cast<size_t>(options_.max_context)) return OkStatus();
  return WithCode(FieldError(param,
                             "the context limit is {} tokens, but {} has {} bytes: more than {} "
                             "tokens; shorten it",
                             options_.max_context, param, text.size(), min_tokens),
                  kContextLengthExceeded);
}

StatusOr<std::vector<int32_t>> GenerationService::Tokenize(const std::string& text,
                                                           bool add_special) const {
  TREELINE_RETURN_IF_ERROR(CheckTextSize(text, "prompt"));
  auto ids = tokenizer_.Encode(text, add_special, /*parse_special=*/true);
  if (!ids.ok()) return WithParam(ids.status(), "prompt");
  return ids;
}

StatusOr<std::vector<int32_t>> GenerationService::TokenizeChat(const Json& messages) const {
  if (chat_template_ == nullptr) {
    return FieldError("messages",
                      "this model has no chat template; send a prompt to /v1/completions");
  }
  for (const Json& message : messages) {
    const auto content = message.find("content");
    if (content == message.end() || !content->is_string()) continue;
    TREELINE_RETURN_IF_ERROR(CheckTextSize(content->get_ref<const std::string&>(), "messages"));
  }
  auto ids = EncodeChat(messages, *chat_template_, tokenizer_, special_texts_, std::time(nullptr));
  if (!ids.ok()) return WithParam(ids.status(), "messages");
  return ids;
}

StatusOr<std::vector<std::vector<int32_t>>> GenerationService::Encode(
    const GenerationRequest& request) const {
  std::vector<std::vector<int32_t>> encoded;
  if (!request.messages.is_null()) {
    TREELINE_ASSIGN_OR_RETURN(encoded.emplace_back(), TokenizeChat(request.messages));
  }
  for (const Prompt& prompt : request.prompts) {
    if (const auto* ids = std::get_if<std::vector<int32_t>>(&prompt)) {
      encoded.push_back(*ids);
    } else {
      TREELINE_ASSIGN_OR_RETURN(encoded.emplace_back(),
                                Tokenize(std::get<std::string>(prompt), /*add_special=*/true));
    }
  }
  return encoded;
}

StatusOr<int32_t> GenerationService::MaxTokens(const GenerationRequest& request,
                                               size_t prompt_tokens) const {
  const std::string param = request.messages.is_null() ? "prompt" : "messages";
  if (prompt_tokens == 0) return FieldError(param, "{} must give at least one token", param);
  const int64_t room = int64_t{options_.max_context} - static_cast<int64_t>(prompt_tokens);
  const int32_t least = request.max_tokens.value_or(1);
  if (least > room) {
    return WithCode(
        FieldError(param,
                   "the context limit is {} tokens, but {} were asked for: {} in {} "
                   "and {} to generate; shorten {} or lower max_tokens",
                   options_.max_context, prompt_tokens + least, prompt_tokens, param, least, param),
        kContextLengthExceeded);
  }
  if (request.max_tokens) return *request.max_tokens;
  if (request.default_max_tokens == 0) return static_cast<int32_t>(room);
  const int32_t wanted = std::max(request.default_max_tokens, request.stop.min_tokens);
  return static_cast<int32_t>(std::min<int64_t>(room, wanted));
}

// Log-probabilities are held until they are sent: a request must not ask for gigabytes.
Status GenerationService::CheckLogprobs(const GenerationRequest& request,
                                        const std::vector<std::vector<int32_t>>& prompts,
                                        const std::vector<int32_t>& max_tokens) const {
  int64_t entries = 0;
  for (size_t i = 0; i < prompts.size(); ++i) {
    if (request.prompt_logprobs) entries += static_cast<int64_t>(prompts[i].size());
    if (request.logprobs) entries += max_tokens[i];
  }
  entries *= int64_t{request.num_choices} * (1 + request.top_logprobs);
  if (entries <= kMaxLogprobs) return OkStatus();
  return FieldError("logprobs",
                    "{} log-probabilities may come of this request, the limit is {}; ask for fewer "
                    "tokens, choices or alternatives",
                    entries, kMaxLogprobs);
}

Request GenerationService::MakeRequest(const GenerationRequest& request,
                                       std::vector<int32_t> prompt, int32_t max_tokens,
                                       uint64_t seed) const {
  Request result;
  result.id = request.id;
  result.prompt = std::move(prompt);
  result.sampling = request.sampling;
  result.sampling.seed = seed;
  result.stop = request.stop;
  result.stop.max_tokens = max_tokens;
  result.num_choices = request.num_choices;
  result.logprobs = request.logprobs;
  result.top_logprobs = request.top_logprobs;
  result.prompt_logprobs = request.prompt_logprobs;
  result.skip_special_tokens = request.skip_special_tokens;
  result.priority = request.priority;
  result.drafters = request.drafters;
  result.typical_acceptance = request.typical_acceptance;
  result.max_draft_nodes = request.max_draft_nodes;
  result.arrival = request.arrival;
  if (options_.request_timeout > Duration(0)) {
    result.deadline = request.arrival + options_.request_timeout;
  }
  return result;
}

StatusOr<GenerationService::Prepared> GenerationService::Prepare(
    const GenerationRequest& request) const {
  TREELINE_RETURN_IF_ERROR(CheckModel(request.model));
  TREELINE_RETURN_IF_ERROR(request.sampling.Validate(options_.vocab_size));
  Prepared prepared;
  TREELINE_ASSIGN_OR_RETURN(prepared.prompts, Encode(request));
  for (const auto& prompt : prepared.prompts) {
    TREELINE_ASSIGN_OR_RETURN(prepared.max_tokens.emplace_back(),
                              MaxTokens(request, prompt.size()));
  }
  TREELINE_RETURN_IF_ERROR(CheckLogprobs(request, prepared.prompts, prepared.max_tokens));
  if (request.admit) {
    TREELINE_RETURN_IF_ERROR(
        request.admit(TokensAtMost(prepared.prompts, prepared.max_tokens, request.num_choices)));
  }
  return prepared;
}

StatusOr<Generation> GenerationService::Submit(const GenerationRequest& request,
                                               Prepared prepared) {
  const uint64_t seed = request.seed.has_value() ? *request.seed : RandomSeed();
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (size_t i = 0; i < prepared.prompts.size(); ++i) {
    auto stream =
        scheduler_.Submit(MakeRequest(request, prepared.prompts[i], prepared.max_tokens[i], seed));
    if (!stream.ok()) {  // All or nothing.
      for (const auto& started : streams) started->Cancel();
      if (stream.status().code() == StatusCode::kResourceExhausted) {
        return WithRetryAfter(stream.status(), scheduler_.EstimatedWait());
      }
      return NamingParam(stream.status());
    }
    streams.push_back(*std::move(stream));
  }
  return Generation(std::move(prepared.prompts), request.num_choices, seed, std::move(streams),
                    failures_);
}

StatusOr<Generation> GenerationService::Start(const GenerationRequest& request) {
  StatusOr<Prepared> prepared = Prepare(request);
  if (prepared.ok()) return Submit(request, *std::move(prepared));
  const bool limited = prepared.status().code() == StatusCode::kResourceExhausted;
  observer_.OnRejected(limited ? "rate_limited" : "invalid");
  return prepared.status();
}

StatusOr<Generation> GenerationService::StartProbe() {
  GenerationRequest request;
  request.id = "probe";
  request.prompts = {std::vector<int32_t>{0}};
  request.max_tokens = 1;
  request.arrival = clock_.Now();
  return Start(request);
}

Status GenerationService::Probe() {
  TREELINE_ASSIGN_OR_RETURN(Generation generation, StartProbe());
  TokenEvent event;
  auto wait = TokenStream::Wait::kEvent;
  while (wait == TokenStream::Wait::kEvent) wait = generation.Next(kProbeTimeout, &event);
  if (wait == TokenStream::Wait::kTimeout) {
    return Internal("the engine did not answer the first request");
  }
  TREELINE_RETURN_IF_ERROR(generation.status());
  probed_ = true;
  return OkStatus();
}

// Looks at the probe that runs, or starts one. How it ends is counted like any request's end.
void GenerationService::ProbeAgain() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!probe_) {
    StatusOr<Generation> started = StartProbe();
    if (started.ok()) probe_.emplace(*std::move(started));
    return;
  }
  TokenEvent event;
  auto wait = TokenStream::Wait::kEvent;
  while (wait == TokenStream::Wait::kEvent)
    wait = probe_->Next(std::chrono::milliseconds(0), &event);
  if (wait == TokenStream::Wait::kEnd) probe_.reset();
}

Status GenerationService::Ready() {
  TREELINE_RETURN_IF_ERROR(Health());
  if (draining_) return MakeStatus(StatusCode::kUnavailable, "the server is shutting down");
  if (!probed_) return MakeStatus(StatusCode::kUnavailable, "the model is not ready yet");
  const Duration still = clock_.Now() - scheduler_.last_loop();
  if (!scheduler_.Idle() && still > options_.stall_timeout) {
    return MakeStatus(StatusCode::kUnavailable, "the engine has not stepped for {:.0f} s",
                      ToSeconds(still));
  }
  if (*failures_ >= kFailuresInARow) ProbeAgain();
  const int32_t failures = *failures_;
  if (failures >= kFailuresInARow) {
    return MakeStatus(StatusCode::kUnavailable, "the last {} requests failed in the engine",
                      failures);
  }
  return OkStatus();
}

void GenerationService::Abort() {
  draining_ = true;
  scheduler_.Abort();
}

void GenerationService::Drain() {
  draining_ = true;
  scheduler_.Drain();
}

}  // namespace treeline
