// Continuous batching. One loop thread owns every sequence and is the only caller
// of the engine:
//
//   plan    end what was cancelled or is past its deadline; admit waiting requests while
//           slots are free; give each decoding sequence its next token, then fill the token
//           budget with prompt chunks
//   run     Engine::Step
//   commit  sampled tokens -> text -> stop checks -> TokenStream
//
// Order. The waiting request with the least priority value is admitted next, of equal ones the
// first come; its value falls as it waits, so that none waits for ever. Prompts are computed in
// order of admission, in chunks that leave the step short enough for those who decode: these get
// their token in every step. Each choice of a request is a
// sequence with a slot of its own, and they are admitted one by one: a sequence never waits
// for another's slot while it holds its own, so requests cannot block each other for ever.
// More slots than max_batch_tokens are of no use: only so many sequences decode at once.
//
// Prefixes. A prompt starts from the longest state that the engine keeps of a sequence which began
// alike (SequenceContext::prefix_interval says where states are kept). It looks again before every
// chunk: the sequence that it shares its beginning with may run beside it.
//
// Speculation. A decoding sequence may carry a draft tree of guesses, whose rows draw what plain
// decoding would draw there (engine/speculative, scheduler/speculation.h): outputs are the same,
// in fewer steps. A seeded request draws the same numbers with it and without.
//
// Faults. When Engine::Step fails, the requests that were in the batch end with its error and
// the others live on; a row without a result ends its own request only. Where the error says that
// the device is lost, all requests end with it, and new ones are refused (Health).
//
// The loop sleeps while no request waits or runs. Submit may be called from any thread. Tests
// call Step() by hand instead of Start().
#ifndef TREELINE_SCHEDULER_SCHEDULER_H_
#define TREELINE_SCHEDULER_SCHEDULER_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "engine/base/clock.h"
#include "engine/base/status.h"
#include "engine/engine.h"
#include "engine/text/tokenizer.h"
#include "scheduler/observer.h"
#include "scheduler/request.h"
#include "scheduler/speculation.h"
#include "scheduler/token_stream.h"

namespace treeline {

class Scheduler {
 public:
  struct Options {
    int32_t max_batch_tokens = 512;  // Tokens a step may run, decodes and prompt chunks.
    // Waiting for a slot; more are refused. At least 1 each; one request waits whatever its size.
    int32_t max_queued_requests = 256;
    int64_t max_queued_tokens = int64_t{1} << 20;  // Of prompts, each once a choice.
    // What a step may take while sequences decode, or twice what they alone take (PromptPacer); 0:
    // no limit.
    Duration step_time{0};
    // A request that has waited so long goes before one of 1 less that has just come; 0: priority
    // decides however long it takes.
    Duration priority_ageing = std::chrono::seconds(10);
    // Sequences guess ahead with trees of so many nodes, roots too; 0: they do not.
    int32_t max_draft_nodes = 0;
    Drafters drafters{};
    StepCosts step_costs{};
    // Prompts' states are kept every so many tokens, and where they pay; 0: none are kept.
    int32_t prefix_interval = 0;
    std::vector<int32_t> eos_token_ids{};
  };

  // Everything referred to must outlive the scheduler. INVALID_ARGUMENT for options out of range.
  static StatusOr<std::unique_ptr<Scheduler>> Create(const Options& options, Engine& engine,
                                                     const Tokenizer& tokenizer, const Clock& clock,
                                                     SchedulerObserver& observer);
  // Stops the loop after the step it is in; unfinished requests end as CANCELLED.
  virtual ~Scheduler() = default;

  // Queues a request; its tokens arrive on the stream. INVALID_ARGUMENT where it can never run
  // (too long for the context, more choices than slots ...), RESOURCE_EXHAUSTED where the
  // queue is full, UNAVAILABLE after Drain and where the device is lost.
  virtual StatusOr<std::shared_ptr<TokenStream>> Submit(Request request) = 0;

  // Starts the loop thread.
  virtual void Start() = 0;
  // Refuses new requests from now on; running ones go on.
  virtual void Drain() = 0;
  // Drain, and what waits or runs ends as UNAVAILABLE at the next round.
  virtual void Abort() = 0;
  // No request waits or runs. Any thread.
  virtual bool Idle() const = 0;
  // UNAVAILABLE, saying why, once the device is lost: nothing runs in this process any more. Any
  // thread.
  virtual Status Health() const = 0;
  // How long a request that came now would wait for a slot, from the pace at which requests have
  // been ending. Any thread.
  virtual Duration EstimatedWait() const = 0;
  // The number of steps the engine has completed, and when the loop last began a round, by
  // which /ready knows a stalled engine. They stand still while Idle(). Any thread.
  virtual int64_t steps() const = 0;
  virtual TimePoint last_loop() const = 0;

  // One plan-run-commit round; false if nothing ran and nothing ended. REQUIRES: Start was not
  // called.
  virtual bool Step() = 0;
};

}  // namespace treeline

#endif  // TREELINE_SCHEDULER_SCHEDULER_H_
