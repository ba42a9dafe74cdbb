// The channel from the scheduler's thread to the one that answers the client.
// Values cross it, never live objects. The reader may cancel at any time; the
// writer never blocks: what is buffered is bounded by the request's own max_tokens.
// Thread-safe; held by shared_ptr from both ends.
#ifndef TREELINE_SCHEDULER_TOKEN_STREAM_H_
#define TREELINE_SCHEDULER_TOKEN_STREAM_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/clock.h"
#include "engine/base/status.h"

namespace treeline {

enum class FinishReason {
  kStop,    // EOS, a stop token or a stop string.
  kLength,  // max_tokens or the context limit.
};

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;
  std::vector<std::pair<int32_t, float>> top;  // Alternatives, best first.
};

struct Usage {
  int32_t prompt_tokens = 0;
  int32_t completion_tokens = 0;  // Over all choices.
  int32_t cached_tokens = 0;      // Prompt tokens taken from the prefix cache.
  // Of the completion's: those that were guessed ahead; and guesses that were wrong.
  int32_t accepted_draft_tokens = 0;
  int32_t rejected_draft_tokens = 0;
};

// Where a request's time went.
struct PhaseTimes {
  Duration queue{};                 // Arrival to the first slot, or to an end without one.
  std::optional<Duration> prefill;  // First slot to first token.
  std::optional<Duration> decode;   // First token to last.
};

// What one step brought for one choice.
struct TokenEvent {
  int32_t choice = 0;
  std::string text;  // UTF-8, whole characters. May be empty while text is held back.
  // The tokens generated in this step. One that ends the choice (EOS or a stop token) is among
  // them, without text.
  std::vector<int32_t> tokens;
  std::vector<TokenLogprob> logprobs;  // Of `tokens`, where asked for.
  // Of the prompt from its second token on, where asked for: in each choice's first event.
  std::vector<TokenLogprob> prompt_logprobs;
  std::optional<FinishReason> finish;
};

class TokenStream {
 public:
  // -- The reader's side.

  enum class Wait { kEvent, kEnd, kTimeout };
  // Waits for an event. kEvent fills *event. kEnd: no more will come; status(), usage() and
  // times() are final. kTimeout: nothing happened yet (time to write a ping or look at the socket).
  Wait Next(std::chrono::milliseconds timeout, TokenEvent* event);
  // For a reader without a thread of its own: `notify` is called after every event and the end
  // that come from now on, by the scheduler's thread; it must not block. Set at most once.
  void NotifyBy(std::function<void()> notify);
  // OK where every choice finished; else why the request failed. REQUIRES: Next gave kEnd.
  Status status() const;
  Usage usage() const;
  PhaseTimes times() const;
  // The client has gone: the request ends at the next step. Idempotent.
  void Cancel() { cancelled_.store(true, std::memory_order_release); }

  // -- The scheduler's side.

  bool cancelled() const { return cancelled_.load(std::memory_order_acquire); }
  void Push(TokenEvent event);
  // Nothing may be pushed after. Only the first call counts.
  void End(const Status& status, const Usage& usage, const PhaseTimes& times = {});

 private:
  using Notify = std::shared_ptr<const std::function<void()>>;

  // Tells the reader that something changed. REQUIRES: mutex_ is not held.
  void Wake(const Notify& notify);

  std::atomic<bool> cancelled_{false};
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Protected by mutex_:
  std::deque<TokenEvent> events_;
  Notify notify_;  // Null: the reader waits in Next.
  bool ended_ = false;
  Status status_;
  Usage usage_;
  PhaseTimes times_;
};

}  // namespace treeline

#endif  // TREELINE_SCHEDULER_TOKEN_STREAM_H_
