#include "scheduler/prompt_pacer.h"

#include <algorithm>
#include <limits>

namespace treeline {
namespace {

// Before anything was measured: enough to measure it.
constexpr int32_t kFirstPromptTokens = 16;
// The weight of the newest of a row of measurements.
constexpr double kNewest = 0.25;

void Average(double value, double& average) {
  average = average < 0 ? value : (1 - kNewest) * average + kNewest * value;
}

}  // namespace

int32_t PromptPacer::MaxPromptTokens(int32_t num_decoding) const {
  if (step_time_ == 0 || num_decoding == 0) return std::numeric_limits<int32_t>::max();
  if (prompt_token_ < 0) return kFirstPromptTokens;
  const double decodes = std::max(decode_step_, 0.0);
  const double left = std::max(step_time_ - decodes, decodes);
  const double tokens = left / std::max(prompt_token_, 1e-9);
  return static_cast<int32_t>(std::clamp(tokens, 1.0, double{std::numeric_limits<int32_t>::max()}));
}

void PromptPacer::Observe(int32_t prompt_tokens, int32_t num_decoding, Duration took) {
  const double seconds = ToSeconds(took);
  if (prompt_tokens == 0) {
    Average(seconds, decode_step_);
    return;
  }
  // Beside decodes, a prompt token costs what the step takes longer than one without prompts.
  const double base = num_decoding > 0 ? std::max(decode_step_, 0.0) : 0.0;
  Average(std::max(seconds - base, 0.0) / prompt_tokens, prompt_token_);
}

}  // namespace treeline
