// Generation without a transport: what HTTP (and any other front) calls. Takes a
// parsed request, makes token ids of it, refuses what cannot run before any work is
// done, and hands it to the scheduler.
#ifndef TREELINE_SERVER_GENERATION_SERVICE_H_
#define TREELINE_SERVER_GENERATION_SERVICE_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "engine/base/clock.h"
#include "engine/base/json.h"
#include "engine/base/status.h"
#include "engine/sampling/params.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "scheduler/observer.h"
#include "scheduler/request.h"
#include "scheduler/scheduler.h"
#include "scheduler/token_stream.h"

namespace treeline {

using Prompt = std::variant<std::string, std::vector<int32_t>>;  // Text, or token ids.

struct GenerationRequest {
  std::string id;
  std::string model;  // Empty: the one that is served.

  std::vector<Prompt> prompts;  // One or more; or:
  Json messages;                // a chat (array of {"role", "content"}), where not null.

  SamplingParams sampling;       // Its seed is ignored:
  std::optional<uint64_t> seed;  // none: 64 random bits.
  StopCriteria stop;             // Its max_tokens is ignored:
  std::optional<int32_t> max_tokens;
  int32_t default_max_tokens = 0;  // Where max_tokens is absent, up to this many; 0: all that fit.
  int32_t num_choices = 1;         // Of each prompt.

  bool logprobs = false;
  int32_t top_logprobs = 0;
  bool prompt_logprobs = false;
  bool skip_special_tokens = true;
  // Of the scheduler's Request:
  int32_t priority = 0;
  Drafters drafters{};
  bool typical_acceptance = false;
  int32_t max_draft_nodes = TokenTree::kMaxNodes;

  TimePoint arrival;
  // Asked last, where set, with the tokens that prompts and outputs may come to; what it refuses is
  // refused.
  std::function<Status(int64_t tokens)> admit;
};

// A running request: the streams of all its prompts as one. Dropping it cancels what still
// runs. Not thread-safe.
class Generation {
 public:
  // Choice c of prompt p is choice p * num_choices + c.
  // `failures` counts the streams in a row that the engine failed.
  Generation(std::vector<std::vector<int32_t>> prompts, int32_t num_choices, uint64_t seed,
             std::vector<std::shared_ptr<TokenStream>> streams,
             std::shared_ptr<std::atomic<int32_t>> failures);
  ~Generation() { Cancel(); }
  Generation(Generation&&) = default;
  Generation& operator=(Generation&&) = delete;

  // As TokenStream::Next; event->choice counts over all prompts.
  TokenStream::Wait Next(std::chrono::milliseconds timeout, TokenEvent* event);
  // As TokenStream::NotifyBy, of all streams.
  void NotifyBy(const std::function<void()>& notify);
  void Cancel();
  // Cancels, and waits for the end, so that usage() tells what was produced. Where a step takes
  // longer than `timeout`, it tells what was read.
  void CancelAndWait(std::chrono::milliseconds timeout);

  // The first error of any prompt. REQUIRES: Next gave kEnd.
  const Status& status() const { return status_; }
  // What has ended so far. After kEnd: everything.
  const Usage& usage() const { return usage_; }
  // Of several prompts, the longest. Empty until kEnd.
  std::optional<PhaseTimes> times() const {
    return num_open_ == 0 ? std::optional(times_) : std::nullopt;
  }

  const std::vector<std::vector<int32_t>>& prompts() const { return prompts_; }
  int32_t num_choices() const { return num_choices_; }  // Of each prompt.
  uint64_t seed() const { return seed_; }

 private:
  // Looks at one open stream.
  TokenStream::Wait NextOf(size_t prompt, std::chrono::milliseconds timeout, TokenEvent* event);

  std::vector<std::vector<int32_t>> prompts_;
  int32_t num_choices_;
  uint64_t seed_;
  std::vector<std::shared_ptr<TokenStream>> streams_;  // Null once ended.
  size_t num_open_;
  size_t turn_ = 0;  // The stream to look at next.
  Status status_;
  Usage usage_;
  PhaseTimes times_;
  int32_t tokens_seen_ = 0;
  std::shared_ptr<std::atomic<int32_t>> failures_;
};

// Thread-safe.
class GenerationService {
 public:
  struct Options {
    std::vector<std::string> model_names;               // At least one; the first is reported.
    int32_t vocab_size = 0;                             // Of the model; prompts' ids are below it.
    int32_t max_context = 0;                            // Tokens, prompt and output.
    Duration request_timeout{0};                        // From arrival; 0: none.
    Duration stall_timeout = std::chrono::seconds(60);  // A loop that stands still so long is dead.
  };

  // Everything outlives the service. `chat_template` may be null: then chats are refused.
  // `observer` is told of requests that are refused before the scheduler sees them.
  GenerationService(const Options& options, const Tokenizer& tokenizer,
                    const ChatTemplate* chat_template, Scheduler& scheduler, const Clock& clock,
                    SchedulerObserver& observer);

  // Refuses, before anything runs: NOT_FOUND another model; INVALID_ARGUMENT naming the field
  // (code context_length_exceeded where prompt and max_tokens do not fit); RESOURCE_EXHAUSTED a
  // full queue, with the time to retry after; UNAVAILABLE while draining.
  StatusOr<Generation> Start(const GenerationRequest& request);

  // The token ids of a prompt's text, or of a chat rendered by the template.
  StatusOr<std::vector<int32_t>> Tokenize(const std::string& text, bool add_special) const;
  StatusOr<std::vector<int32_t>> TokenizeChat(const Json& messages) const;

  Status CheckModel(const std::string& name) const;

  // OK until the engine is lost for good: then only a restart helps.
  Status Health() const { return scheduler_.Health(); }
  // Runs one token through the whole way and waits for it; from then on Ready() may be OK.
  Status Probe();
  // OK where the engine steps: it is in good health, the probe passed, nothing drains, work in hand
  // moves, and the latest requests did not all fail in the engine. While they did, calls run the
  // probe again, beside whoever asks, so that a server which nobody uses any more finds that it has
  // recovered.
  Status Ready();
  // Refuses new requests from now on.
  void Drain();
  // Drain, and what waits or runs ends as UNAVAILABLE.
  void Abort();

  const Options& options() const { return options_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }

 private:
  // What a request comes to, as the scheduler takes it.
  struct Prepared {
    std::vector<std::vector<int32_t>> prompts;
    std::vector<int32_t> max_tokens;  // Of each prompt.
  };
  StatusOr<Prepared> Prepare(const GenerationRequest& request) const;
  StatusOr<Generation> Submit(const GenerationRequest& request, Prepared prepared);
  StatusOr<Generation> StartProbe();
  void ProbeAgain();
  StatusOr<std::vector<std::vector<int32_t>>> Encode(const GenerationRequest& request) const;
  // The tokens that may follow the prompt.
  Status CheckLogprobs(const GenerationRequest& request,
                       const std::vector<std::vector<int32_t>>& prompts,
                       const std::vector<int32_t>& max_tokens) const;
  StatusOr<int32_t> MaxTokens(const GenerationRequest& request, size_t prompt_tokens) const;
  Status CheckTextSize(const std::string& text, const std::string& param) const;
  Request MakeRequest(const GenerationRequest& request, std::vector<int32_t> prompt,
                      int32_t max_tokens, uint64_t seed) const;

  const Options options_;
  const Tokenizer& tokenizer_;
  const ChatTemplate* const chat_template_;
  Scheduler& scheduler_;
  const Clock& clock_;
  SchedulerObserver& observer_;
  // No token stands for more bytes of text than this.
  const size_t longest_token_bytes_;
  // The texts of special tokens: in a message they are ordinary text.
  const std::vector<std::string> special_texts_;
  std::atomic<bool> probed_{false};
  std::atomic<bool> draining_{false};
  const std::shared_ptr<std::atomic<int32_t>> failures_ = std::make_shared<std::atomic<int32_t>>(0);
  std::mutex mutex_;
  std::optional<Generation> probe_;  // One that runs, of ProbeAgain. Protected by mutex_.
};

}  // namespace treeline

#endif  // TREELINE_SERVER_GENERATION_SERVICE_H_
