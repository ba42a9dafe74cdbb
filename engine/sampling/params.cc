#include "engine/sampling/params.h"

namespace treeline {
namespace {

template <typename T>
Status Illegal(const char* name, T value, const char* range) {
  return InvalidArgument("{} must be in {}, not {}", name, range, value);
}

Status CheckLogitBias(const std::vector<std::pair<int32_t, float>>& logit_bias,
                      int32_t vocab_size) {
  for (const auto& [token, bias] : logit_bias) {
    if (token < 0 || token >= vocab_size) {
      return InvalidArgument("logit_bias: token id {} must be in [0, {})", token, vocab_size);
    }
    if (!(bias >= -100 && bias <= 100)) {
      return InvalidArgument("logit_bias: the bias of token {} must be in [-100, 100], not {}",
                             token, bias);
    }
  }
  return OkStatus();
}

}  // namespace

// Every comparison is written so that a NaN fails it.
Status SamplingParams::Validate(int32_t vocab_size) const {
  if (!(temperature >= 0 && temperature <= 2)) {
    return Illegal("temperature", temperature, "[0, 2]");
  }
  if (!(top_p > 0 && top_p <= 1)) return Illegal("top_p", top_p, "(0, 1]");
  if (top_k < 0) return InvalidArgument("top_k must be at least 0 (0: all tokens), not {}", top_k);
  if (!(min_p >= 0 && min_p <= 1)) return Illegal("min_p", min_p, "[0, 1]");
  if (!(presence_penalty >= -2 && presence_penalty <= 2)) {
    return Illegal("presence_penalty", presence_penalty, "[-2, 2]");
  }
  if (!(frequency_penalty >= -2 && frequency_penalty <= 2)) {
    return Illegal("frequency_penalty", frequency_penalty, "[-2, 2]");
  }
  if (!(repetition_penalty >= 0.01f && repetition_penalty <= 100)) {
    return Illegal("repetition_penalty", repetition_penalty, "[0.01, 100]");
  }
  return CheckLogitBias(logit_bias, vocab_size);
}

}  // namespace treeline
