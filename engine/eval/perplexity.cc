#include "engine/eval/perplexity.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

namespace treeline {

namespace {

// Windows that run side by side, so that short ones fill a step too.
using Windows = std::vector<std::span<const int32_t>>;

// Runs tokens [begin, end) of every window and adds up what their next tokens cost.
Status ScoreChunk(const Windows& windows, const std::vector<StateSlot>& slots, size_t begin,
                  size_t end, Engine& engine, PerplexityResult* result) {
  Batch batch;
  for (size_t w = 0; w < windows.size(); ++w) {
    const int32_t first_row =
        batch.AddChain(slots[w].index(), windows[w].subspan(begin, end - begin));
    for (size_t i = begin; i < end; ++i) {
      RowRequest request;
      request.row = first_row + static_cast<int32_t>(i - begin);
      request.score = windows[w].subspan(i + 1, 1);
      batch.requests.push_back(request);
    }
  }
  TREELINE_ASSIGN_OR_RETURN(const std::vector<RowResult> rows, engine.Step(batch));
  for (const RowResult& row : rows) {
    TREELINE_RETURN_IF_ERROR(row.status);
    result->negative_log_likelihood -= row.scores[0];
    ++result->num_scored;
  }
  return OkStatus();
}

Status ScoreWindows(const Windows& windows, const PerplexityOptions& options, Engine& engine,
                    PerplexityResult* result) {
  std::vector<StateSlot> slots;
  for (size_t w = 0; w < windows.size(); ++w) {
    TREELINE_ASSIGN_OR_RETURN(StateSlot slot, engine.AcquireSlot());
    slots.push_back(std::move(slot));
  }
  const size_t chunk = std::max<size_t>(options.max_batch_tokens / windows.size(), 1);
  const size_t last = static_cast<size_t>(options.context) - 1;  // It predicts nothing.
  for (size_t begin = 0; begin < last; begin += chunk) {
    TREELINE_RETURN_IF_ERROR(
        ScoreChunk(windows, slots, begin, std::min(begin + chunk, last), engine, result));
  }
  result->num_windows += static_cast<int64_t>(windows.size());
  return OkStatus();
}

}  // namespace

double PerplexityResult::Perplexity() const {
  return std::exp(negative_log_likelihood / static_cast<double>(num_scored));
}

StatusOr<PerplexityResult> MeasurePerplexity(std::span<const int32_t> tokens,
                                             const PerplexityOptions& options, Engine& engine) {
  const EngineLimits limits = engine.limits();
  if (options.context < 2 || options.context > limits.max_context) {
    return InvalidArgument("context must be 2 to {} (the engine's limit), not {}",
                           limits.max_context, options.context);
  }
  const auto context = static_cast<size_t>(options.context);
  const size_t total = tokens.size() / context;
  if (total == 0) {
    return InvalidArgument("the text has {} tokens, less than one window of {}", tokens.size(),
                           context);
  }
  const size_t at_once = std::clamp<size_t>(options.max_batch_tokens / context, 1,
                                            static_cast<size_t>(std::max(engine.free_slots(), 1)));
  PerplexityResult result;
  for (size_t next = 0; next < total;) {
    Windows windows;
    while (next < total && windows.size() < at_once) {
      windows.push_back(tokens.subspan(next++ * context, context));
    }
    TREELINE_RETURN_IF_ERROR(ScoreWindows(windows, options, engine, &result));
    if (options.progress) options.progress(result, static_cast<int64_t>(total));
  }
  return result;
}

}  // namespace treeline
