#include "scheduler/sequence_group.h"

#include <algorithm>
#include <utility>

namespace treeline {

SequenceGroup::SequenceGroup(Request request, const SequenceContext& context)
    : request_(std::move(request)) {
  sequences_.reserve(request_.num_choices);
  for (int32_t choice = 0; choice < request_.num_choices; ++choice) {
    sequences_.emplace_back(request_, choice, context);
  }
}

void SequenceGroup::EndIfFinished() {
  const bool finished = std::all_of(sequences_.begin(), sequences_.end(),
                                    [](const Sequence& sequence) { return sequence.finished(); });
  if (finished && !end_) end_ = OkStatus();
}

void SequenceGroup::Fail(const Status& status) {
  if (end_) return;
  end_ = status;
  for (Sequence& sequence : sequences_) sequence.ReleaseSlot();
}

void SequenceGroup::FailIfAbandoned(TimePoint now) {
  if (stream_->cancelled()) {
    Fail(MakeStatus(StatusCode::kCancelled, "the client cancelled the request"));
  } else if (request_.deadline && now >= *request_.deadline) {
    Fail(MakeStatus(StatusCode::kDeadlineExceeded, "the request's deadline passed after {:.3f} s",
                    ToSeconds(now - request_.arrival)));
  }
}

Usage SequenceGroup::usage() const {
  Usage usage;
  usage.prompt_tokens = static_cast<int32_t>(request_.prompt.size());
  for (const Sequence& sequence : sequences_) {
    usage.completion_tokens += sequence.num_generated();
    usage.accepted_draft_tokens += sequence.accepted_draft_tokens();
    usage.rejected_draft_tokens += sequence.rejected_draft_tokens();
  }
  usage.cached_tokens = sequences_.front().cached_tokens();
  return usage;
}

RequestTimes SequenceGroup::Times(TimePoint now) const {
  RequestTimes times;
  times.outcome = outcome();
  times.usage = usage();
  times.max_tokens = request_.stop.max_tokens;
  times.queue = first_slot_time.value_or(now) - request_.arrival;
  if (first_token_time) {
    times.prefill = *first_token_time - *first_slot_time;
    times.decode = *last_token_time - *first_token_time;
    times.inference = *last_token_time - *first_slot_time;
  }
  times.end_to_end = now - request_.arrival;
  return times;
}

Outcome SequenceGroup::outcome() const {
  if (end_->code() == StatusCode::kCancelled) return Outcome::kAbort;
  if (!end_->ok()) return Outcome::kError;
  const bool cut = std::any_of(sequences_.begin(), sequences_.end(), [](const Sequence& sequence) {
    return sequence.finish() == FinishReason::kLength;
  });
  return cut ? Outcome::kLength : Outcome::kStop;
}

}  // namespace treeline
