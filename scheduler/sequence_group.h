// A request on its way: what was asked, the sequences of its choices, its stream and
// the times to be measured. Made by Submit, then owned by the queue or the running list;
// only the scheduler's thread touches it once it is queued.
#ifndef TREELINE_SCHEDULER_SEQUENCE_GROUP_H_
#define TREELINE_SCHEDULER_SEQUENCE_GROUP_H_

#include <memory>
#include <optional>
#include <vector>

#include "engine/base/clock.h"
#include "engine/base/status.h"
#include "scheduler/observer.h"
#include "scheduler/request.h"
#include "scheduler/sequence.h"
#include "scheduler/token_stream.h"

namespace treeline {

class SequenceGroup {
 public:
  SequenceGroup(Request request, const SequenceContext& context);
  // Its sequences point to its request.
  SequenceGroup(const SequenceGroup&) = delete;
  SequenceGroup& operator=(const SequenceGroup&) = delete;

  const Request& request() const { return request_; }
  const std::shared_ptr<TokenStream>& stream() const { return stream_; }
  std::vector<Sequence>& sequences() { return sequences_; }

  // How it ended; empty while it goes on. Set by EndIfFinished and Fail, the first counts.
  const std::optional<Status>& end() const { return end_; }
  // Ends with OK where every sequence is finished.
  void EndIfFinished();
  // Ends with the error and gives all slots back.
  void Fail(const Status& status);
  // Fails a request whose client has gone or whose deadline has passed.
  void FailIfAbandoned(TimePoint now);

  Usage usage() const;
  // What the observer is told of it. REQUIRES: it has ended.
  RequestTimes Times(TimePoint now) const;

  // Set by the scheduler as they happen.
  std::optional<TimePoint> first_slot_time;
  std::optional<TimePoint> first_token_time;
  std::optional<TimePoint> last_token_time;

 private:
  Outcome outcome() const;

  const Request request_;
  const std::shared_ptr<TokenStream> stream_ = std::make_shared<TokenStream>();
  std::vector<Sequence> sequences_;  // [num_choices]
  std::optional<Status> end_;
};

}  // namespace treeline

#endif  // TREELINE_SCHEDULER_SEQUENCE_GROUP_H_
