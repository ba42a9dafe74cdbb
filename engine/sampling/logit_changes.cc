#include "engine/sampling/logit_changes.h"

#include <algorithm>
#include <limits>

namespace treeline {

bool ChangesLogits(const RowRequest& request) {
  return request.sampling != nullptr &&
         (request.sampling->AltersLogits() || !request.banned.empty());
}

std::vector<LogitChange> LogitChanges::Of(const RowRequest& request, int32_t vocab_size) {
  std::vector<LogitChange> changes;
  if (!ChangesLogits(request)) return changes;
  const SamplingParams& params = *request.sampling;
  places_.resize(std::max<size_t>(places_.size(), vocab_size), -1);
  const auto change_of = [&](int32_t token) -> LogitChange& {
    int32_t& place = places_[token];
    if (place < 0) {
      place = static_cast<int32_t>(changes.size());
      changes.push_back({.id = token});
    }
    return changes[place];
  };

  for (const auto& [token, bias] : params.logit_bias) change_of(token).bias += bias;
  for (const int32_t token : request.banned) {
    change_of(token).bias = -std::numeric_limits<float>::infinity();
  }
  if (params.repetition_penalty != 1) {
    for (const auto tokens : {request.prompt, request.generated, request.drafted}) {
      for (const int32_t token : tokens) change_of(token).penalty = params.repetition_penalty;
    }
  }
  if (params.frequency_penalty != 0 || params.presence_penalty != 0) {
    for (const auto tokens : {request.generated, request.drafted}) {
      for (const int32_t token : tokens) change_of(token).decrease += 1;  // Counts at first.
    }
  }
  for (LogitChange& change : changes) {
    const float count = change.decrease;
    if (count > 0) {
      change.decrease = count * params.frequency_penalty + params.presence_penalty;
    }
    places_[change.id] = -1;
  }
  return changes;
}

}  // namespace treeline
