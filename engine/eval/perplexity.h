// Perplexity of a text by non-overlapping windows: each window starts from an empty
// state and without BOS, its first token is not scored, and a tail shorter than a
// window is dropped.
#ifndef TREELINE_ENGINE_EVAL_PERPLEXITY_H_
#define TREELINE_ENGINE_EVAL_PERPLEXITY_H_

#include <cstdint>
#include <functional>
#include <span>

#include "engine/base/status.h"
#include "engine/engine.h"

namespace treeline {

struct PerplexityResult {
  int64_t num_windows = 0;
  int64_t num_scored = 0;              // Tokens.
  double negative_log_likelihood = 0;  // Their sum, in nats.

  double Perplexity() const;  // REQUIRES: num_scored > 0.
};

struct PerplexityOptions {
  int32_t context = 1024;          // Tokens of a window, at least 2.
  int32_t max_batch_tokens = 512;  // Tokens of a step.
  // Called after each group of windows with the result so far; may be empty.
  std::function<void(const PerplexityResult& so_far, int64_t total_windows)> progress;
};

// INVALID_ARGUMENT where the context does not fit the engine or the text holds no window;
// errors of the engine as they come.
StatusOr<PerplexityResult> MeasurePerplexity(std::span<const int32_t> tokens,
                                             const PerplexityOptions& options, Engine& engine);

}  // namespace treeline

#endif  // TREELINE_ENGINE_EVAL_PERPLEXITY_H_
