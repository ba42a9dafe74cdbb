#include "scheduler/scheduler.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <span>
#include <string_view>
#include <thread>
#include <utility>

#include "scheduler/admission.h"
#include "scheduler/batch_builder.h"
#include "scheduler/prompt_pacer.h"
#include "scheduler/sequence.h"
#include "scheduler/sequence_group.h"

namespace treeline {
namespace {

// What OnRejected is told of a request that Submit answers with this code.
std::string_view RejectionReason(StatusCode code, bool device_lost) {
  switch (code) {
    case StatusCode::kUnavailable:
      return device_lost ? "device_lost" : "draining";
    case StatusCode::kResourceExhausted:
      return "queue_full";
    default:
      return "invalid";
  }
}

int64_t PromptTokens(const SequenceGroup& group) {
  return int64_t{group.request().num_choices} * static_cast<int64_t>(group.request().prompt.size());
}

int32_t NumDecoding(std::span<const std::unique_ptr<SequenceGroup>> groups) {
  int32_t count = 0;
  for (const auto& group : groups) {
    for (const Sequence& sequence : group->sequences()) {
      count += sequence.running() && sequence.decoding();
    }
  }
  return count;
}

Status ShuttingDown() {
  return MakeStatus(StatusCode::kUnavailable, "the server is shutting down");
}

// What requests are told of an error of the engine. A malformed batch is our own fault and short
// memory the operator's: the code must not blame the clients.
Status EngineFailure(const Status& status) {
  const bool blames_client = status.code() == StatusCode::kInvalidArgument ||
                             status.code() == StatusCode::kResourceExhausted;
  return MakeStatus(blames_client ? StatusCode::kInternal : status.code(), "the engine failed: {}",
                    Message(status));
}

class LoopScheduler final : public Scheduler {
 public:
  LoopScheduler(const Options& options, Engine& engine, const Tokenizer& tokenizer,
                const Clock& clock, SchedulerObserver& observer);
  ~LoopScheduler() override;

  StatusOr<std::shared_ptr<TokenStream>> Submit(Request request) override;
  void Start() override;
  void Drain() override;
  void Abort() override;
  bool Idle() const override;
  Status Health() const override;
  Duration EstimatedWait() const override;
  int64_t steps() const override { return steps_; }
  TimePoint last_loop() const override { return TimePoint(Duration(last_loop_)); }
  bool Step() override;

 private:
  using Group = std::unique_ptr<SequenceGroup>;
  struct StepCounts {
    int32_t prompt_tokens = 0;
    int32_t generated_tokens = 0;
    int32_t right_guesses = 0;
  };

  Status Enqueue(Group group);
  // The request to admit next. REQUIRES: mutex_ is held and the queue is not empty.
  std::deque<Group>::iterator Next(TimePoint now);
  void Loop();
  bool Round();

  // Plan.
  void FailAbandoned(TimePoint now);
  void Admit(TimePoint now);
  void AcquireSlots(SequenceGroup& group, TimePoint now);
  Group PopQueue(TimePoint now);

  // Run and commit.
  struct Outcome {
    const StepPlan::Entry* entry;
    bool in_prompt = false;  // Before the step.
    std::optional<TokenEvent> event{};
  };
  // Nothing where the engine failed.
  std::optional<StepCounts> Run(const StepPlan& plan);
  // Takes an entry's results into its sequence, and what the engine must commit of its draft.
  Outcome Take(const StepPlan::Entry& entry, std::span<RowResult> results,
               std::vector<AcceptedPath>* paths);
  void CommitDrafts(std::span<const AcceptedPath> paths, const StepPlan& plan);
  // The device is lost: everything ends, and nothing begins any more.
  void GiveUp(const Status& failure);
  // Tells the reader; the number of tokens generated.
  int32_t Tell(Outcome outcome, TimePoint now);
  void MeasureToken(SequenceGroup& group, Sequence& sequence, TimePoint now);

  // Moves the groups that have ended from queue and running list to the result.
  std::vector<Group> TakeEnded();
  void Finish(const SequenceGroup& group);
  SchedulerGauges Gauges() const;

  // Constant after construction.
  const Options options_;
  Engine& engine_;
  const Clock& clock_;
  SchedulerObserver& observer_;
  const EngineLimits limits_;
  const SequenceContext context_;

  std::atomic<bool> aborting_{false};
  std::atomic<int64_t> steps_{0};
  std::atomic<Duration::rep> last_loop_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Protected by mutex_:
  std::deque<Group> queue_;
  int64_t queued_tokens_ = 0;
  int32_t num_unfinished_ = 0;  // Requests accepted whose stream has not ended.
  std::optional<TimePoint> last_finish_;
  double seconds_a_request_ = 0;  // Between two ends while others waited; a moving average.
  Status health_;
  bool draining_ = false;
  bool stopping_ = false;

  // Touched by the loop's thread only (or by the one that calls Step), in admission order.
  std::vector<Group> running_;
  PromptPacer pacer_;
  Speculation speculation_;

  std::thread loop_;
};

LoopScheduler::LoopScheduler(const Options& options, Engine& engine, const Tokenizer& tokenizer,
                             const Clock& clock, SchedulerObserver& observer)
    : options_(options),
      engine_(engine),
      clock_(clock),
      observer_(observer),
      limits_(engine.limits()),
      context_{tokenizer,
               options.eos_token_ids,
               limits_.max_context,
               options.prefix_interval,
               options.max_draft_nodes,
               {.ngram = options.drafters.ngram,
                .heads = options.drafters.heads && limits_.num_draft_heads > 0,
                .draft_model = options.drafters.draft_model && limits_.draft_model}},
      last_loop_(clock.Now().time_since_epoch().count()),
      pacer_(options.step_time),
      speculation_{CostModel(options.step_costs)} {}

LoopScheduler::~LoopScheduler() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (loop_.joinable()) loop_.join();

  while (Group group = PopQueue(clock_.Now())) running_.push_back(std::move(group));
  for (Group& group : running_) {
    group->Fail(MakeStatus(StatusCode::kCancelled, "the server is shutting down"));
    Finish(*group);
  }
}

StatusOr<std::shared_ptr<TokenStream>> LoopScheduler::Submit(Request request) {
  std::shared_ptr<TokenStream> stream;
  Status status = CheckAdmissible(request, limits_);
  if (status.ok()) {
    auto group = std::make_unique<SequenceGroup>(std::move(request), context_);
    stream = group->stream();
    status = Enqueue(std::move(group));
  }
  if (!status.ok()) {
    observer_.OnRejected(RejectionReason(status.code(), /*device_lost=*/!Health().ok()));
    return status;
  }
  changed_.notify_all();
  return stream;
}

Status LoopScheduler::Enqueue(Group group) {
  std::lock_guard lock(mutex_);
  TREELINE_RETURN_IF_ERROR(health_);
  if (draining_) return ShuttingDown();
  if (queue_.size() >= static_cast<size_t>(options_.max_queued_requests)) {
    return ResourceExhausted("the queue is full: {} requests wait already; try again later",
                             queue_.size());
  }
  const int64_t tokens = PromptTokens(*group);
  if (!queue_.empty() && queued_tokens_ + tokens > options_.max_queued_tokens) {
    return ResourceExhausted("the queue is full: {} prompt tokens wait already; try again later",
                             queued_tokens_);
  }
  queued_tokens_ += tokens;
  queue_.push_back(std::move(group));
  // An idle loop sleeps: it is not late before there is something to do.
  if (num_unfinished_++ == 0) last_loop_ = clock_.Now().time_since_epoch().count();
  return OkStatus();
}

void LoopScheduler::Start() {
  TREELINE_CHECK(!loop_.joinable(), "Start called twice");
  loop_ = std::thread([this] { Loop(); });
}

void LoopScheduler::Drain() {
  std::lock_guard lock(mutex_);
  draining_ = true;
}

void LoopScheduler::Abort() {
  Drain();
  aborting_ = true;
  changed_.notify_all();
}

bool LoopScheduler::Idle() const {
  std::lock_guard lock(mutex_);
  return num_unfinished_ == 0;
}

Status LoopScheduler::Health() const {
  std::lock_guard lock(mutex_);
  return health_;
}

Duration LoopScheduler::EstimatedWait() const {
  std::lock_guard lock(mutex_);
  const double seconds = seconds_a_request_ * static_cast<double>(queue_.size() + 1);
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

bool LoopScheduler::Step() {
  TREELINE_CHECK(!loop_.joinable(), "Step called beside the loop thread");
  return Round();
}

void LoopScheduler::Loop() {
  // How long a cancellation or deadline may go unseen while requests wait for slots that
  // someone else holds.
  constexpr std::chrono::milliseconds kNothingToRun(100);
  bool progress = true;
  std::unique_lock lock(mutex_);
  while (true) {
    if (!progress) changed_.wait_for(lock, kNothingToRun, [this] { return stopping_; });
    changed_.wait(lock, [this] { return stopping_ || num_unfinished_ > 0; });
    if (stopping_) return;
    lock.unlock();
    progress = Round();
    lock.lock();
  }
}

bool LoopScheduler::Round() {
  const TimePoint now = clock_.Now();
  last_loop_ = now.time_since_epoch().count();

  FailAbandoned(now);
  Admit(now);
  const StepPlan plan =
      BuildBatch(running_, options_.max_batch_tokens, pacer_.MaxPromptTokens(NumDecoding(running_)),
                 clock_, speculation_, engine_);
  const std::optional<StepCounts> ran = plan.entries.empty() ? std::nullopt : Run(plan);
  const StepCounts counts = ran.value_or(StepCounts{});
  if (ran) {
    speculation_.costs.Observe({.sequences = plan.num_decodes,
                                .guesses = plan.num_guesses,
                                .prompt_tokens = plan.prompt_tokens,
                                .model_asked = plan.model_asked,
                                .expected = plan.expected_guesses,
                                .right = counts.right_guesses,
                                .seconds = ToSeconds(clock_.Now() - now)});
  }

  const std::vector<Group> ended = TakeEnded();
  if (plan.entries.empty() && ended.empty()) return false;
  observer_.OnStep(counts.prompt_tokens, counts.generated_tokens, Gauges());
  for (const Group& group : ended) Finish(*group);
  return true;
}

void LoopScheduler::FailAbandoned(TimePoint now) {
  const auto check = [&](Group& group) {
    if (aborting_ && !group->end()) group->Fail(ShuttingDown());
    group->FailIfAbandoned(now);
  };
  for (Group& group : running_) check(group);
  std::lock_guard lock(mutex_);
  for (Group& group : queue_) check(group);
}

void LoopScheduler::Admit(TimePoint now) {
  for (Group& group : running_) AcquireSlots(*group, now);
  while (engine_.free_slots() > 0) {
    Group group = PopQueue(now);
    if (group == nullptr) return;
    AcquireSlots(*group, now);
    running_.push_back(std::move(group));
  }
}

void LoopScheduler::AcquireSlots(SequenceGroup& group, TimePoint now) {
  if (group.end()) return;
  for (Sequence& sequence : group.sequences()) {
    if (sequence.running() || sequence.finished()) continue;
    if (engine_.free_slots() == 0) return;
    StatusOr<StateSlot> slot = engine_.AcquireSlot();
    if (!slot.ok()) {
      group.Fail(Annotate(slot.status(), "no state for the sequence"));
      return;
    }
    sequence.Start(*std::move(slot));
    if (!group.first_slot_time) group.first_slot_time = now;
  }
}

std::deque<LoopScheduler::Group>::iterator LoopScheduler::Next(TimePoint now) {
  const double ageing = ToSeconds(options_.priority_ageing);
  const auto urgency = [&](const Group& group) {
    const Request& request = group->request();
    const double waited = ageing > 0 ? ToSeconds(now - request.arrival) / ageing : 0;
    return request.priority - waited;
  };
  return std::min_element(queue_.begin(), queue_.end(),
                          [&](const Group& a, const Group& b) { return urgency(a) < urgency(b); });
}

LoopScheduler::Group LoopScheduler::PopQueue(TimePoint now) {
  std::lock_guard lock(mutex_);
  if (queue_.empty()) return nullptr;
  const auto next = Next(now);
  Group group = std::move(*next);
  queue_.erase(next);
  queued_tokens_ -= PromptTokens(*group);
  return group;
}

std::optional<LoopScheduler::StepCounts> LoopScheduler::Run(const StepPlan& plan) {
  const TimePoint start = clock_.Now();
  StatusOr<std::vector<RowResult>> results = engine_.Step(plan.batch);
  if (!results.ok()) {
    spdlog::error("a step of {} tokens in {} sequences failed: {}", plan.batch.num_tokens(),
                  plan.batch.num_sequences(), results.status().ToString());
    const Status failure = EngineFailure(results.status());
    for (const StepPlan::Entry& entry : plan.entries) entry.group->Fail(failure);
    if (failure.code() == StatusCode::kUnavailable) GiveUp(failure);
    return std::nullopt;
  }
  TREELINE_CHECK(results->size() == plan.batch.requests.size(), "{} results for {} requests",
                 results->size(), plan.batch.requests.size());
  ++steps_;

  const TimePoint now = clock_.Now();
  pacer_.Observe(plan.prompt_tokens, plan.batch.num_tokens() - plan.prompt_tokens, now - start);
  std::span<RowResult> rest = *results;
  std::vector<Outcome> outcomes;
  std::vector<AcceptedPath> paths;
  for (const StepPlan::Entry& entry : plan.entries) {
    outcomes.push_back(Take(entry, rest.first(entry.num_requests), &paths));
    rest = rest.subspan(entry.num_requests);
  }
  CommitDrafts(paths, plan);
  StepCounts counts{.prompt_tokens = plan.prompt_tokens};
  for (const AcceptedPath& path : paths) {
    counts.right_guesses += static_cast<int32_t>(path.nodes.size()) - 1;
  }
  for (Outcome& outcome : outcomes) counts.generated_tokens += Tell(std::move(outcome), now);
  for (const StepPlan::Entry& entry : plan.entries) entry.group->EndIfFinished();
  return counts;
}

LoopScheduler::Outcome LoopScheduler::Take(const StepPlan::Entry& entry,
                                           std::span<RowResult> results,
                                           std::vector<AcceptedPath>* paths) {
  SequenceGroup& group = *entry.group;
  Sequence& sequence = *entry.sequence;
  Outcome outcome{&entry, !sequence.decoding()};
  for (const RowResult& result : results) {
    if (!result.status.ok()) group.Fail(result.status);
  }
  if (group.end()) return outcome;  // By this choice's row, or by another's just now.
  if (!entry.is_draft) {
    outcome.event = sequence.Commit(entry.num_tokens, results);
    return outcome;
  }
  AcceptedPath& path = paths->emplace_back();
  path.slot = sequence.slot().index();
  outcome.event = sequence.CommitDraft(results, &path.nodes);
  observer_.OnDraft(static_cast<int32_t>(results.size()) - 1,
                    static_cast<int32_t>(path.nodes.size()) - 1);
  return outcome;
}

void LoopScheduler::CommitDrafts(std::span<const AcceptedPath> paths, const StepPlan& plan) {
  if (paths.empty()) return;
  const Status status = engine_.Commit(paths);
  if (status.ok()) return;
  const Status failure = EngineFailure(status);
  for (const StepPlan::Entry& entry : plan.entries) {
    if (entry.is_draft) entry.group->Fail(failure);
  }
  if (failure.code() == StatusCode::kUnavailable) GiveUp(failure);
}

void LoopScheduler::GiveUp(const Status& failure) {
  for (Group& group : running_) group->Fail(failure);
  std::lock_guard lock(mutex_);
  for (Group& group : queue_) group->Fail(failure);
  health_ = MakeStatus(failure.code(), "{}; the server must be restarted", Message(failure));
  spdlog::critical("{}", Message(health_));
}

int32_t LoopScheduler::Tell(Outcome outcome, TimePoint now) {
  SequenceGroup& group = *outcome.entry->group;
  Sequence& sequence = *outcome.entry->sequence;
  if (group.end()) return 0;
  sequence.KeepPrefix(engine_);
  if (!outcome.event) return 0;
  if (outcome.in_prompt) {
    observer_.OnPromptComputed(static_cast<int32_t>(group.request().prompt.size()),
                               sequence.cached_tokens());
  }
  const auto num_tokens = static_cast<int32_t>(outcome.event->tokens.size());
  if (num_tokens > 0) MeasureToken(group, sequence, now);
  if (outcome.event->finish) sequence.ReleaseSlot();
  group.stream()->Push(*std::move(outcome.event));
  return num_tokens;
}

void LoopScheduler::MeasureToken(SequenceGroup& group, Sequence& sequence, TimePoint now) {
  if (!group.first_token_time) {
    group.first_token_time = now;
    observer_.OnFirstToken(now - group.request().arrival);
  }
  if (sequence.last_token_time) observer_.OnNextTokens(now - *sequence.last_token_time);
  sequence.last_token_time = now;
  group.last_token_time = now;
}

std::vector<LoopScheduler::Group> LoopScheduler::TakeEnded() {
  std::vector<Group> ended;
  const auto take = [&](auto& groups) {
    for (Group& group : groups) {
      if (group->end()) ended.push_back(std::move(group));
    }
    std::erase(groups, nullptr);
  };
  take(running_);
  std::lock_guard lock(mutex_);
  for (const Group& group : queue_) {
    if (group->end()) queued_tokens_ -= PromptTokens(*group);
  }
  take(queue_);
  return ended;
}

void LoopScheduler::Finish(const SequenceGroup& group) {
  const TimePoint now = clock_.Now();
  const RequestTimes times = group.Times(now);
  observer_.OnFinished(times);
  {
    std::lock_guard lock(mutex_);
    --num_unfinished_;
    if (last_finish_ && !queue_.empty()) {
      seconds_a_request_ += 0.1 * (ToSeconds(now - *last_finish_) - seconds_a_request_);
    }
    last_finish_ = now;
  }
  group.stream()->End(*group.end(), times.usage, times);
}

SchedulerGauges LoopScheduler::Gauges() const {
  std::lock_guard lock(mutex_);
  return {.running = static_cast<int32_t>(running_.size()),
          .waiting = static_cast<int32_t>(queue_.size()),
          .prefilling = static_cast<int32_t>(
              std::count_if(running_.begin(), running_.end(),
                            [](const Group& group) { return !group->first_token_time; })),
          .slots_used = limits_.num_slots - engine_.free_slots(),
          .slots_total = limits_.num_slots};
}

Status CheckOptions(const Scheduler::Options& options, const EngineLimits& limits) {
  if (options.max_batch_tokens < 1) {
    return InvalidArgument("max_batch_tokens: {}; it must be at least 1", options.max_batch_tokens);
  }
  if (options.max_queued_requests < 1) {
    return InvalidArgument("max_queued_requests: {}; it must be at least 1",
                           options.max_queued_requests);
  }
  if (options.max_draft_nodes < 0 || options.max_draft_nodes > TokenTree::kMaxNodes) {
    return InvalidArgument("max_draft_nodes: {}; it must be 0 to {}", options.max_draft_nodes,
                           TokenTree::kMaxNodes);
  }
  if (options.max_queued_tokens < 1) {
    return InvalidArgument("max_queued_tokens: {}; it must be at least 1",
                           options.max_queued_tokens);
  }
  for (const int32_t id : options.eos_token_ids) {
    if (id < 0 || id >= limits.vocab_size) {
      return InvalidArgument("eos_token_ids: {}; token ids are 0 to {}", id, limits.vocab_size - 1);
    }
  }
  return OkStatus();
}

}  // namespace

StatusOr<std::unique_ptr<Scheduler>> Scheduler::Create(const Options& options, Engine& engine,
                                                       const Tokenizer& tokenizer,
                                                       const Clock& clock,
                                                       SchedulerObserver& observer) {
  const EngineLimits limits = engine.limits();
  TREELINE_RETURN_IF_ERROR(CheckOptions(options, limits));
  if (limits.num_slots > options.max_batch_tokens) {
    spdlog::warn(
        "{} state slots but a step runs at most {} tokens: so many sequences decode at once and "
        "no more; raise max_batch_tokens to use all slots",
        limits.num_slots, options.max_batch_tokens);
  }
  return std::make_unique<LoopScheduler>(options, engine, tokenizer, clock, observer);
}

}  // namespace treeline
